"""The data sets of the experiments behind one function: KuaiRand-Pure, simulated behaviour, Amazon pairs."""

from typing import get_args

from experiments.data_amazon import amazon_inputs
from experiments.data_kuairand import HOUR, kuairand_inputs
from experiments.data_simulated import simulated_inputs
from experiments.main_inputs import AsOf, MainInputs
from graph_builders.datasets.amazon import Pair

AMAZON: dict[str, Pair] = {f"amazon-{pair}": pair for pair in get_args(Pair)}
DATA = ("kuairand", "simulator", *AMAZON)

__all__ = ["AMAZON", "DATA", "HOUR", "MainInputs", "load_inputs"]


def load_inputs(
    name: str = "kuairand", *, period_hours: int = 1, path: str | None = None, as_of: AsOf = "period"
) -> MainInputs:
    """Load a data set and compute everything that is the same for all models, seeds and test windows.

    Args:
        name: one of ``DATA``.
        period_hours: length of a period; queries are as of its start. Amazon's reviews have days, not hours:
            its periods are 30 days long, whatever is said here.
        path: folder of the data; default: what the data set's own loader takes. The simulator reads none.
        as_of: the start of the "period" for all queries in it, or the own time of each "query".

    Raises:
        ValueError: there is no such data set, or not as of queries' own times.

    """
    if name == "kuairand":
        return kuairand_inputs(period_hours, path, as_of=as_of)
    if name in DATA and as_of != "period":
        raise ValueError(f"{name} is read as of the start of each period only: leave as_of={as_of!r} out")
    if name == "simulator":
        return simulated_inputs(period_hours=period_hours)
    if name in AMAZON:
        return amazon_inputs(AMAZON[name], path)
    raise ValueError(f"no data set {name!r}; there are {DATA}")
