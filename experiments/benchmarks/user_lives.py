"""``python -m experiments.benchmarks.user_lives``: seconds and memory to represent users' whole lives.

Lives are made up: events at random times of two years, items at random by a power law. LURM counts a life
into bags of interests and encodes these; a Transformer of the same width reads the events one by one. Each
case is measured in a process of its own, on a part of its users where all would take too long, and scaled to
all of them; where one life is too long for the Transformer, its seconds are extrapolated, and the line says
so. One thread.
"""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments.benchmarks.measured_rows import measure_alone, peak_mib
from graphrec.encoders.bag_of_interests import InterestCounter
from graphrec.encoders.interests import ItemInterests
from graphrec.encoders.local_clock import DAY_SECONDS, LocalClock
from graphrec.encoders.smen import SMEN
from graphrec.encoders.smen_encoder import represent
from graphrec.nn.transformer import TransformerBlock
from samplers import EventHistory
from samplers.tables import with_zero

OUTPUT = Path(__file__).parents[1] / "results" / "user_lives.jsonl"
START, DAYS = 1_500_000_000, 730
NUM_ITEMS = 100_000


@dataclass(frozen=True, kw_only=True)
class LivesConfig:
    """What ``python -m experiments.benchmarks.user_lives`` measures.

    Attributes:
        users: of each case.
        events: in each life of the case.
        measured_users: most users of a case that LURM is measured on.
        transformer_users: most users of a case that the Transformer is measured on.
        transformer_events: the longest life that the Transformer is measured on.
        num_interests: D.
        channels: of anchors, and of the Transformer.
        num_anchors: M.
        num_blocks: of the Transformer.
        out: result file, written anew; None for none.

    """

    users: tuple[int, ...] = (100_000, 10_000, 1_000, 1)
    events: tuple[int, ...] = (100, 1_000, 10_000, 1_000_000)
    measured_users: tuple[int, ...] = (4_000, 1_000, 200, 1)
    transformer_users: tuple[int, ...] = (256, 16, 1, 1)
    transformer_events: int = 10_000
    num_interests: int = 10_000
    channels: int = 128
    num_anchors: int = 10
    num_blocks: int = 2
    out: Path | None = OUTPUT

    def __post_init__(self) -> None:
        sizes = {len(self.users), len(self.events), len(self.measured_users), len(self.transformer_users)}
        if len(sizes) != 1:
            raise ValueError("give users, events, measured_users and transformer_users as many values")


def make_lives(num_users: int, num_events: int) -> tuple[EventHistory, Tensor]:
    """Return lives of so many events each, and the time when they are asked for."""
    generator = torch.Generator().manual_seed(0)
    shape = (num_users, num_events)
    time = START + (torch.rand(shape, generator=generator, dtype=torch.float64) * DAYS * DAY_SECONDS).long()
    item = (torch.rand(shape, generator=generator) ** 3 * NUM_ITEMS).long().clamp(max=NUM_ITEMS - 1)
    ptr = with_zero(torch.full((num_users,), num_events).cumsum(0))
    history = EventHistory(
        ptr, item.flatten(), time.sort(dim=1).values.flatten(), torch.arange(num_users * num_events)
    )
    return history, torch.full((num_users,), START + DAYS * DAY_SECONDS)


def measure_lurm(config: LivesConfig, num_users: int, num_events: int) -> dict[str, float]:
    """Return processor seconds of counting and of encoding, peak memory, and the bags' size."""
    history, now = make_lives(num_users, num_events)
    generator = torch.Generator().manual_seed(1)
    interest = torch.randint(config.num_interests, (NUM_ITEMS, 1), generator=generator)
    items = ItemInterests(
        interest=interest,
        weight=torch.ones(NUM_ITEMS, 1),
        num_interests=config.num_interests,
        fit_until=START,
    )
    counter = InterestCounter(items=items, clock=LocalClock.of_zone("UTC"))
    torch.manual_seed(2)
    smen = SMEN(config.num_interests, num_anchors=config.num_anchors, channels=config.channels)
    small, at = make_lives(2, 10)
    represent(smen, counter.count(small, at))  # what is made once is not counted
    base, began = peak_mib("cpu"), time.process_time()
    bag = counter.count(history, now)
    counted = time.process_time()
    represent(smen, bag)
    return {
        "counting": counted - began,
        "encoding": time.process_time() - counted,
        "peak_mib": max(peak_mib("cpu") - base, 0),
        "bag_mib": bag.num_bytes / 2**20,
    }


def measure_transformer(config: LivesConfig, num_users: int, num_events: int) -> dict[str, float]:
    """Return processor seconds of a Transformer over the events, and peak memory."""
    torch.manual_seed(2)
    item = torch.nn.Embedding(NUM_ITEMS, config.channels)
    blocks = [TransformerBlock(config.channels, num_heads=4).eval() for _ in range(config.num_blocks)]
    history, _ = make_lives(num_users, num_events)
    rows = history.neighbor.view(num_users, num_events)

    @torch.no_grad()
    def encode(part: Tensor) -> Tensor:
        x: Tensor = item(part)
        for block in blocks:
            x = block(x)  # without a mask: torch's kernel then keeps no matrix of events by events
        return x.mean(dim=1)

    encode(rows[:1, :10])
    base, began = peak_mib("cpu"), time.process_time()
    for part in rows.split(max(16_384 // num_events, 1)):
        encode(part)
    return {
        "encoding": time.process_time() - began,
        "peak_mib": max(peak_mib("cpu") - base, 0),
    }


def run(config: LivesConfig) -> list[dict[str, Any]]:
    """Measure all cases, print a line for each, write the result file and return its lines."""
    lines = list[dict[str, Any]]()
    fits = list[tuple[int, float]]()  # events of a life, the Transformer's seconds a life
    cases = zip(config.users, config.events, config.measured_users, config.transformer_users, strict=True)
    for users, events, most, most_transformed in cases:
        measured = min(users, most)
        found = measure_alone(measure_lurm, config, measured, events)
        scale = users / measured
        line: dict[str, Any] = {
            "users": users,
            "events": events,
            "lurm_measured_users": measured,
            "lurm_counting_seconds": found["counting"] * scale,
            "lurm_encoding_seconds": found["encoding"] * scale,
            "lurm_seconds": (found["counting"] + found["encoding"]) * scale,
            "lurm_peak_mib": found["peak_mib"],
            "lurm_bag_mib": found["bag_mib"] * scale,
        }
        if events <= config.transformer_events:
            measured = min(users, most_transformed)
            found = measure_alone(measure_transformer, config, measured, events)
            fits.append((events, found["encoding"] / measured))
            line |= {
                "transformer_measured_users": measured,
                "transformer_seconds": found["encoding"] / measured * users,
                "transformer_peak_mib": found["peak_mib"],
            }
        else:
            line |= {
                "transformer_measured_users": 0,
                "transformer_seconds": extrapolate(fits, events) * users,
                "transformer_peak_mib": None,
            }
        lines.append(_rounded(line) | {"torch": torch.__version__, "config": _plain(config)})
        print({name: value for name, value in lines[-1].items() if name != "config"}, flush=True)
    if config.out is not None:
        config.out.parent.mkdir(parents=True, exist_ok=True)
        config.out.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return lines


def extrapolate(fits: list[tuple[int, float]], events: int) -> float:
    """Return seconds of one life by ``a n + b n^2`` through the two longest measured lives.

    Raises:
        ValueError: fewer than two lengths were measured.

    """
    if len(fits) < 2:
        raise ValueError("an extrapolation needs two measured lengths: raise transformer_events")
    (short, low), (long, high) = sorted(fits)[-2:]
    b = max((high / long - low / short) / (long - short), 0.0)
    a = max(high / long - b * long, 0.0)
    return a * events + b * events**2


def lives_section(lines: list[dict[str, Any]]) -> str:
    """Return the lines as a Markdown table."""
    found = [
        "| lives | events of each | LURM: count + encode, s | most memory above the input, MiB | "
        "the bags, MiB | Transformer, s | most memory, MiB |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for line in lines:
        scaled = "" if line["lurm_measured_users"] == line["users"] else " *"
        took = f"{line['lurm_counting_seconds']:.3g} + {line['lurm_encoding_seconds']:.3g}{scaled}"
        measured = line["transformer_measured_users"]
        mark = " (extrapolated)" if not measured else "" if measured == line["users"] else " *"
        memory = "" if line["transformer_peak_mib"] is None else f"{line['transformer_peak_mib']:,.0f}"
        found.append(
            f"| {line['users']:,} | {line['events']:,} | {took} | {line['lurm_peak_mib']:,.0f} | "
            f"{line['lurm_bag_mib']:,.0f} | {line['transformer_seconds']:,.3g}{mark} | {memory} |"
        )
    config = lines[0]["config"]
    users = ", ".join(f"{line['lurm_measured_users']:,}" for line in lines)
    transformed = ", ".join(f"{line['transformer_measured_users']:,}" for line in lines)
    found += [
        "",
        f"Processor seconds of one thread, torch {lines[0]['torch']}; D = {config['num_interests']:,}, "
        f"{config['num_anchors']} anchors of {config['channels']}, months and years of a life of two years; "
        f"the Transformer: {config['num_blocks']} blocks of {config['channels']} channels over all events. * "
        f"measured on a part of the users, scaled to all: {users} of LURM's, {transformed} of the "
        "Transformer's; memory is that of the measured part. Extrapolated: by a n + b n² through the two "
        "longest lives that were measured.",
    ]
    return "\n".join(found)


def _rounded(line: dict[str, Any]) -> dict[str, Any]:
    return {name: round(v, 4) if isinstance(v, float) else v for name, v in line.items()}


def _plain(config: LivesConfig) -> dict[str, Any]:
    return {name: value for name, value in asdict(config).items() if name != "out"}


if __name__ == "__main__":
    import tyro

    run(tyro.cli(LivesConfig))
