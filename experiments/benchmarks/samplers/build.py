"""Building the CSR of both directions beside the two sorts that it cannot do without."""

import numpy as np

from experiments.benchmarks.samplers.graph import make_events
from experiments.benchmarks.samplers.results import OURS, Row
from experiments.benchmarks.samplers.settings import Settings
from experiments.benchmarks.samplers.timing import take_turns

NUMPY = "numpy, two argsorts"


def measure(settings: Settings) -> list[Row]:
    """Measure seconds to build both directions from a log in the order of its times.

    numpy's share is ``argsort(kind="stable")`` of the users and of the items, int64 as they are in the log:
    the order of the edges and nothing else. Ours also checks the ids, counts the rows and writes columns.
    """
    events = make_events(settings, settings.edges)
    user, item = (ids.numpy() for ids in events.edge_index)
    systems = {
        OURS: lambda _: events.csrs(),
        NUMPY: lambda _: (np.argsort(user, kind="stable"), np.argsort(item, kind="stable")),
    }
    timings = take_turns(systems, settings.seconds, warm_up=1)
    case = "building both directions (ratio of times)"
    rows = [
        Row(case=case, system=name, unit="s", value=timings.median(name), seeds=0) for name in timings.seconds
    ]
    ratio = timings.ratio(OURS, NUMPY)
    limit = Row(case=case, system=NUMPY, unit="ratio", value=ratio, seeds=0, target=1.5, target_is="at most")
    return [*rows, limit]
