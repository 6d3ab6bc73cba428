"""DUPN's property-gated LSTM: steps a second against torch's LSTM of the same size and a Transformer block.

``python -m experiments.benchmarks.dupn`` writes ``experiments/results/dupn_benchmark.jsonl``. The sizes are
the paper's: 1,024 rows of 100 behaviours, vectors of 124 and properties of 48 channels in, 128 out. torch's
LSTM reads both side by side in all four gates; the Transformer block (4 heads) has a linear map from both to
its width before it, and no mask. A step is a forward pass, or a training step: forward, backward, Adagrad.
Layers take turns, and the fastest time of each counts: other work shares the machine. On one CPU thread, in
the processor's seconds, and on a GPU where there is one, in seconds of the wall.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from experiments.benchmarks.measured_rows import devices, machine_facts
from experiments.results_table import write_lines
from graphrec.nn.property_lstm import PropertyGatedLSTM
from graphrec.nn.transformer import TransformerBlock

OUTPUT = Path(__file__).parents[1] / "results" / "dupn_benchmark.jsonl"
BASE = "torch.nn.LSTM"


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Of the inputs and layers; the defaults are the paper's.

    Attributes:
        batch_size: rows.
        length: behaviours of a row.
        in_channels: of a behaviour's own vector.
        property_channels: of its properties.
        hidden_channels: width of the layers.

    """

    batch_size: int = 1_024
    length: int = 100
    in_channels: int = 124
    property_channels: int = 48
    hidden_channels: int = 128


class PlainLSTM(nn.Module):
    """torch's LSTM over behaviours and properties side by side."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.lstm = nn.LSTM(
            sizes.in_channels + sizes.property_channels, sizes.hidden_channels, batch_first=True
        )

    def forward(self, x: Tensor, properties: Tensor) -> Tensor:
        """Return the state after each step; (num_rows, length, channels)."""
        hidden: Tensor = self.lstm(torch.cat([x, properties], dim=2))[0]
        return hidden


class MappedTransformer(nn.Module):
    """A linear map of behaviours and properties to the width of a Transformer block, and the block."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.lin = nn.Linear(sizes.in_channels + sizes.property_channels, sizes.hidden_channels)
        self.block = TransformerBlock(sizes.hidden_channels, num_heads=4)

    def forward(self, x: Tensor, properties: Tensor) -> Tensor:
        """Return a vector for each behaviour; (num_rows, length, channels)."""
        vectors: Tensor = self.block(self.lin(torch.cat([x, properties], dim=2)))
        return vectors


def make_layers(sizes: Sizes) -> dict[str, nn.Module]:
    """Return the layers that are compared, by name."""
    return {
        BASE: PlainLSTM(sizes),
        "PropertyGatedLSTM": PropertyGatedLSTM(
            sizes.in_channels, sizes.property_channels, sizes.hidden_channels
        ),
        "Transformer block": MappedTransformer(sizes),
    }


def measure(sizes: Sizes, device: str, repetitions: int) -> list[dict[str, Any]]:
    """Time all layers in turn and return a row for each layer and kind of step.

    Args:
        sizes: of inputs and layers.
        device: "cpu" or "cuda".
        repetitions: timed steps of each layer and kind, after one that is not timed.

    """
    torch.manual_seed(0)
    shape = (sizes.batch_size, sizes.length)
    inputs = [
        torch.randn(*shape, width, device=device) for width in (sizes.in_channels, sizes.property_channels)
    ]
    steps: dict[tuple[str, str], Callable[[], None]] = {}
    for name, layer in make_layers(sizes).items():
        layer.to(device)
        steps[name, "forward"] = _forward(layer, inputs)
        steps[name, "training"] = _training(layer, inputs)
    seconds: dict[tuple[str, str], list[float]] = {key: [] for key in steps}
    clock = time.perf_counter if device == "cuda" else time.process_time
    for turn in range(repetitions + 1):
        for key, step in steps.items():
            _wait(device)
            begin = clock()
            step()
            _wait(device)
            if turn:
                seconds[key].append(clock() - begin)
    return [
        {
            "layer": name,
            "step": kind,
            "device": device,
            **asdict(sizes),
            "steps_per_second": round(1 / min(times), 4),
            "milliseconds": round(1_000 * min(times), 3),
            "times_slower": round(min(times) / min(seconds[BASE, kind]), 3),
        }
        for (name, kind), times in seconds.items()
    ]


def dupn_benchmark_section(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as Markdown."""
    first = rows[0]
    lines = [
        f"Made by `python -m experiments.benchmarks.dupn` on {first['date']}: {first['cpu']}, torch "
        f"{first['torch']}, one thread; {first['batch_size']:,} rows of {first['length']} behaviours, "
        f"{first['in_channels']} + {first['property_channels']} channels in, {first['hidden_channels']} out.",
        "",
        f"| layer | step | device | steps a second | ms a step | times the time of {BASE} |",
        "| --- | --- | --- | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {row['layer']} | {row['step']} | {row['device']} | {row['steps_per_second']:.2f} | "
        f"{row['milliseconds']:.1f} | {row['times_slower']:.2f} |"
        for row in rows
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUTPUT, help="result file")
    parser.add_argument("--repetitions", type=int, default=5, help="timed steps of each layer and kind")
    parser.add_argument("--batch-size", type=int, default=Sizes.batch_size, help="rows of a step")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    facts = machine_facts()
    rows = [
        {**row, **facts}
        for device in devices()
        for row in measure(Sizes(batch_size=options.batch_size), device, options.repetitions)
    ]
    print(dupn_benchmark_section(rows), flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_lines(options.out, rows)
    return 0


def _forward(layer: nn.Module, inputs: Sequence[Tensor]) -> Callable[[], None]:
    def step() -> None:
        layer.eval()
        with torch.no_grad():
            layer(*inputs)

    return step


def _training(layer: nn.Module, inputs: Sequence[Tensor]) -> Callable[[], None]:
    optimizer = torch.optim.Adagrad(layer.parameters(), lr=1e-3)

    def step() -> None:
        layer.train()
        optimizer.zero_grad(set_to_none=True)
        layer(*inputs).square().mean().backward()
        optimizer.step()

    return step


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    sys.exit(main())
