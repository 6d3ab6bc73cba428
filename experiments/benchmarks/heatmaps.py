"""Heatmaps: training throughput and memory, sparse against dense transport, and their size on disk.

``python -m experiments.benchmarks.heatmaps`` writes ``experiments/results/heatmaps_benchmark.jsonl``. Users
are random, with as many cells as Complete Journey's customers have in 182 days and 12 channels on average.
Three ways to the same network and loss:

- "sparse, sparse first level": entries of a mini-batch go to the device, the first level works near them;
- "sparse, dense on the device": entries go to the device, one scatter makes images of them there;
- "dense": images of all users are made before and lie in memory, a mini-batch of them goes to the device.

A case has a process of its own, so that its peak is its own: what the process took at most, less what it had
taken before the data and the network were made. Seconds are the processor's; on a GPU, where there is one,
those of the wall, and memory is the GPU's.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from experiments.benchmarks.measured_rows import machine_facts, measured_rows, peak_mib
from experiments.peak_memory import MIB
from experiments.results_table import write_lines
from graphrec.encoders.heatmap import HOURS, Heatmaps
from graphrec.encoders.heatmap_cnn import LEVELS, HeatmapCNN, compress, narrow_levels
from graphrec.encoders.heatmap_files import save_heatmaps
from samplers.tables import with_zero

OUTPUT = Path(__file__).parents[1] / "results" / "heatmaps_benchmark.jsonl"
WARM_UP = 2  # steps that are not timed
Transport = Literal["sparse, sparse first level", "sparse, dense on the device", "dense"]
TRANSPORTS: tuple[Transport, ...] = ("sparse, sparse first level", "sparse, dense on the device", "dense")


@dataclass(frozen=True, kw_only=True)
class Case:
    """What one process measures.

    Attributes:
        transport: the way of a mini-batch to the network.
        narrow: times fewer channels than the paper's.
        device: "cpu" or "cuda".
        num_users: in memory.
        cells_a_place: channels that are set at an hour with anything.
        places: hours with anything, of each user.
        num_days: of the window.
        num_channels: of the heatmaps.
        batch_size: users of a step.
        num_steps: that are timed.

    """

    transport: Transport
    narrow: int = 1
    device: str = "cpu"
    num_users: int = 2_000
    cells_a_place: int = 5
    places: int = 26
    num_days: int = 182
    num_channels: int = 12
    batch_size: int = 32
    num_steps: int = 5


def cases(device: str) -> list[Case]:
    """Return all cases of a device: the paper's width and a quarter of it."""
    return [
        Case(transport=transport, narrow=narrow, device=device)
        for narrow in (1, 4)
        for transport in TRANSPORTS
    ]


def random_heatmaps(case: Case) -> Heatmaps:
    """Return users with so many cells: channels of the same hours, as those of a basket are."""
    generator = torch.Generator().manual_seed(0)
    size = (case.num_users, case.places)
    place = torch.randint(case.num_days * HOURS, size, generator=generator)
    user = torch.arange(case.num_users)[:, None].expand(size)
    draw = torch.rand(*size, case.num_channels, generator=generator)
    channel = draw.argsort(dim=2)[:, :, : case.cells_a_place]
    key = (user * case.num_days * HOURS + place)[:, :, None] * case.num_channels + channel
    key = key.flatten().unique()
    position = key // case.num_channels
    count = torch.bincount(position // (case.num_days * HOURS), minlength=case.num_users)
    return Heatmaps(
        num_days=case.num_days,
        num_channels=case.num_channels,
        ptr=with_zero(count.cumsum(0)),
        day=(position // HOURS % case.num_days).short(),
        hour=(position % HOURS).to(torch.int8),
        channel=(key % case.num_channels).short(),
        value=1 + 9 * torch.rand(len(key), generator=generator),
    )


def dense_images(heatmaps: Heatmaps) -> Tensor:
    """Return the images of all users, made a part at a time."""
    return torch.cat([heatmaps.take(user).dense() for user in torch.arange(len(heatmaps)).split(256)])


class _DenseNetwork(nn.Module):
    """The same network over images that have been made before."""

    def __init__(self, cnn: HeatmapCNN) -> None:
        super().__init__()
        self.levels = cnn.levels

    def forward(self, images: Tensor) -> Tensor:
        x = compress(images)
        for level in self.levels:
            x = level(x)
        return x.flatten(1)


def measure(case: Case) -> dict[str, Any]:
    """Train on the case's users and return users a second, milliseconds a step, peak MiB, bytes a user."""
    torch.set_num_threads(1)
    before = peak_mib(case.device)
    heatmaps = random_heatmaps(case)
    images = dense_images(heatmaps) if case.transport == "dense" else None
    torch.manual_seed(0)
    cnn = HeatmapCNN(
        case.num_channels,
        case.num_days,
        levels=narrow_levels(LEVELS[case.num_days], case.narrow),
        first_level="dense" if case.transport == "sparse, dense on the device" else "sparse",
    )
    network: nn.Module = (cnn if images is None else _DenseNetwork(cnn)).to(case.device).train()
    optimizer = torch.optim.Adam(network.parameters())
    on_gpu = case.device == "cuda"
    clock, times = time.perf_counter if on_gpu else time.process_time, list[float]()
    for step in range(WARM_UP + case.num_steps):
        began = clock()
        user = (torch.arange(case.batch_size) + step * case.batch_size) % case.num_users
        batch: Any = heatmaps.take(user) if images is None else images[user]
        optimizer.zero_grad(set_to_none=True)
        network(batch.to(case.device)).square().mean().backward()
        optimizer.step()
        if on_gpu:
            torch.cuda.synchronize()
        times.append(clock() - began)
    peak = peak_mib(case.device) - before
    seconds = statistics.median(times[WARM_UP:])
    moved = (
        images[0].numel() * images.element_size()
        if images is not None
        else heatmaps.num_bytes / case.num_users
    )
    return {
        **asdict(case),
        "users_per_second": round(case.batch_size / seconds, 1),
        "milliseconds_a_step": round(1000 * seconds, 2),
        "peak_mib": round(peak, 1),
        "bytes_a_user": round(moved),
    }


def measure_files(case: Case) -> dict[str, Any]:
    """Write the case's heatmaps and return their size on disk beside that of dense images."""
    heatmaps = random_heatmaps(case)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "heatmaps"
        save_heatmaps(heatmaps, path)
        stored = sum(file.stat().st_size for file in path.iterdir())
    dense = len(heatmaps) * case.num_channels * case.num_days * HOURS * 4
    return {
        "transport": "stored",
        "num_users": case.num_users,
        "cells_a_user": round(len(heatmaps.value) / len(heatmaps), 1),
        "stored_bytes": stored,
        "dense_bytes": dense,
    }


def heatmaps_benchmark_section(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as Markdown."""
    first = rows[0]
    lines = [
        f"Made by `python -m experiments.benchmarks.heatmaps` on {first['date']}: {first['cpu']}, torch "
        f"{first['torch']}, one thread, batches of {first['batch_size']}, {first['num_users']:,} users in "
        f"memory, {first['num_days']} days, {first['num_channels']} channels.",
        "",
        "| transport | device | width | users a second | ms a step | peak MiB | bytes a user |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        if row["transport"] == "stored":
            continue
        width = "the paper's" if row["narrow"] == 1 else f"1/{row['narrow']}"
        lines.append(
            f"| {row['transport']} | {row['device']} | {width} | {row['users_per_second']:,.0f} | "
            f"{row['milliseconds_a_step']:.1f} | {row['peak_mib']:,.0f} | {row['bytes_a_user']:,} |"
        )
    for row in rows:
        if row["transport"] == "stored":
            times = row["dense_bytes"] / row["stored_bytes"]
            lines += [
                "",
                f"On disk {row['num_users']:,} users of {row['cells_a_user']:g} cells take "
                f"{row['stored_bytes'] / MIB:.1f} MiB; dense images in float32 would take "
                f"{row['dense_bytes'] / MIB:,.0f} MiB, {times:,.0f} times as much.",
            ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUTPUT, help="result file")
    out: Path = parser.parse_args(arguments).out
    rows = [{**measure_files(cases("cpu")[0]), **machine_facts()}]
    out.parent.mkdir(parents=True, exist_ok=True)
    for row in measured_rows(measure, cases):
        rows.insert(len(rows) - 1, row)
        write_lines(out, rows)  # after each case: what was measured stays
        print(
            f"{row['transport']:28} {row['device']:5} 1/{row['narrow']} "
            f"{row['users_per_second']:8,.0f} users/s {row['milliseconds_a_step']:8.1f} ms "
            f"{row['peak_mib']:7,.0f} MiB {row['bytes_a_user']:9,} bytes a user",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
