"""Opens a saved CSR in a fresh process and samples from it; `large` runs this file and reads what it prints.

``python -m experiments.benchmarks.samplers.mapped FOLDER BATCH_SIZE NUM_NEIGHBORS RANDOM_SEED``
"""

import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Literal

import torch

from experiments.benchmarks.samplers.graph import END_TIME, START_TIME
from experiments.benchmarks.samplers.settings import NUM_THREADS
from samplers import RecentNeighborSampler, TemporalCSR

NUM_BATCHES = 10


def main(folder: Path, batch_size: int, num_neighbors: int, random_seed: int) -> None:
    """Print seconds to open both directions, resident bytes, and seeds a second of last-K.

    Users are sampled, from the direction whose rows they are. The files are taken out of the page cache
    first, as far as the system allows: pages come from the disk. The kernels are compiled before, on a CSR of
    a few edges. The resident set is that of the whole process, torch included.
    """
    torch.set_num_threads(NUM_THREADS)
    _forget_pages(folder)
    edge_index, edge_time = torch.zeros(2, 3, dtype=torch.int64), torch.arange(3)
    tiny = TemporalCSR.from_edge_index(edge_index, edge_time, num_rows=1, num_cols=1, row="source")
    RecentNeighborSampler(tiny, num_neighbors).sample(torch.tensor([0]), torch.tensor([2]))

    begin = time.perf_counter()
    users, _ = TemporalCSR.open(folder / "users"), TemporalCSR.open(folder / "items")
    open_seconds = time.perf_counter() - begin
    resident_opened = _resident_bytes("VmRSS")
    generator = torch.Generator().manual_seed(random_seed)
    sampler = RecentNeighborSampler(users, num_neighbors)
    seconds = 0.0
    for _ in range(NUM_BATCHES):
        user = torch.randint(users.num_rows, (batch_size,), generator=generator)
        query_time = torch.randint(START_TIME, END_TIME, (batch_size,), generator=generator)
        begin = time.perf_counter()
        sampler.sample(user, query_time)
        seconds += time.perf_counter() - begin
    found = {
        "open_seconds": open_seconds,
        "resident_opened": resident_opened,
        "resident_peak": _resident_bytes("VmHWM"),
        "seeds_per_second": NUM_BATCHES * batch_size / seconds,
        "batches": NUM_BATCHES,
    }
    print(json.dumps(found))


def _resident_bytes(name: Literal["VmRSS", "VmHWM"]) -> int:
    """Return the resident set of this process, now or at its peak; only the peak where there is no /proc.

    On Linux the peak that ``getrusage`` tells is at least that of the process that started this one.
    """
    status = Path("/proc/self/status")
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines[name].split()[0]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _forget_pages(folder: Path) -> None:
    if not hasattr(os, "posix_fadvise"):
        return
    for file in folder.rglob("*.npy"):
        with file.open("rb") as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *(int(argument) for argument in sys.argv[2:5]))
