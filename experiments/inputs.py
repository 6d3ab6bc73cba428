"""The data sets of the experiments behind one function: KuaiRand-Pure, simulated behaviour, Amazon pairs."""

from typing import get_args

from experiments.data_amazon import amazon_inputs
from experiments.data_kuairand import HOUR, kuairand_inputs
from experiments.data_simulated import simulated_inputs
from experiments.main_inputs import MainInputs
from graph_builders.datasets.amazon import Pair

AMAZON: dict[str, Pair] = {f"amazon-{pair}": pair for pair in get_args(Pair)}
DATA = ("kuairand", "simulator", *AMAZON)

__all__ = ["AMAZON", "DATA", "HOUR", "MainInputs", "load_inputs"]


def load_inputs(name: str = "kuairand", *, period_hours: int = 1, path: str | None = None) -> MainInputs:
    """Load a data set and compute everything that is the same for all models, seeds and test windows.

    Args:
        name: one of ``DATA``.
        period_hours: length of a period; queries are as of its start. Amazon's reviews have days, not hours:
            its periods are 30 days long, whatever is said here.
        path: folder of the data; default: what the data set's own loader takes. The simulator reads none.

    Raises:
        ValueError: there is no such data set.

    """
    if name == "kuairand":
        return kuairand_inputs(period_hours, path)
    if name == "simulator":
        return simulated_inputs(period_hours=period_hours)
    if name in AMAZON:
        return amazon_inputs(AMAZON[name], path)
    raise ValueError(f"no data set {name!r}; there are {DATA}")
