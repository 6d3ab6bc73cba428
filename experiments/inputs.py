"""The data sets of the experiments behind one function: KuaiRand-Pure, simulated behaviour, Amazon pairs."""

from experiments.data_kuairand import HOUR, kuairand_inputs
from experiments.main_inputs import MainInputs

DATA = ("kuairand",)

__all__ = ["DATA", "HOUR", "MainInputs", "load_inputs"]


def load_inputs(name: str = "kuairand", *, period_hours: int = 1, path: str | None = None) -> MainInputs:
    """Load a data set and compute everything that is the same for all models, seeds and test windows.

    Args:
        name: one of ``DATA``.
        period_hours: length of a period; queries are as of its start.
        path: folder of the data; default: what the data set's own loader takes.

    Raises:
        ValueError: there is no such data set.

    """
    if name == "kuairand":
        return kuairand_inputs(period_hours, path)
    raise ValueError(f"no data set {name!r}; there are {DATA}")
