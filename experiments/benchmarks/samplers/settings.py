"""What a run of the benchmark measures, and on what sizes."""

from dataclasses import dataclass
from pathlib import Path

NUM_THREADS = 2  # for every system: the condition under which the targets are stated
DEFAULT_OUT = Path(__file__).parents[2] / "results" / "samplers_benchmark.jsonl"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Sizes, seeds and time limits; the same for every system.

    Attributes:
        edges: events of the graph that most cases use.
        large_edges: events of the large graph, with as many users and items.
        append_edges: events appended to the large graph.
        users: number of users.
        items: number of items.
        batch_size: queries in a batch.
        num_neighbors: K, at every hop.
        num_walks: walks in a batch.
        seconds: time for the turns of a case, all systems together; slow systems still get three turns each.
        epoch_batches: batches in an epoch; None for every user once.
        gpu_batch_sizes: queries in a batch on a CUDA device.
        random_seed: of the graph, the queries, the samplers and the models.
        cache: folder in which generated events are kept.

    """

    edges: int = 10_000_000
    large_edges: int = 100_000_000
    append_edges: int = 1_000_000
    users: int = 200_000
    items: int = 50_000
    batch_size: int = 1024
    num_neighbors: int = 30
    num_walks: int = 100_000
    seconds: float = 3.0
    epoch_batches: int | None = None
    gpu_batch_sizes: tuple[int, ...] = (1024, 8192, 65536)
    random_seed: int = 0
    cache: Path = Path("runs/benchmark_events")
