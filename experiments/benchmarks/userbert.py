"""UserBERT's pre-training: words a second, peak memory, and how cost grows with vocabulary and length.

``python -m experiments.benchmarks.userbert`` writes ``experiments/results/userbert_benchmark.jsonl``.
Sentences are random and all of one length, in the shapes of the paper's model: 4 blocks of 128 channels,
batches of 16, six actions a word, one attribute of the vocabulary's size with Zipf's frequencies beside two
small ones. A case has a process of its own, so that its peak is its own: what the process took at most, less
what it had taken before the sentences and the model were made. Time is the median over the steps of the
processor's seconds, those of the loader and the optimiser included: other work shares the machine. On a GPU,
where there is one, the same with bfloat16, in seconds of the wall, and memory is the GPU's.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from experiments.benchmarks.measured_rows import measured_rows, peak_mib
from experiments.results_table import write_lines
from graphrec.encoders.sentences import FIRST, BehaviorWords, UserSentences
from graphrec.encoders.userbert import SentenceSizes, UserBERT, WordSizes
from graphrec.training.masked_words import MaskedWordModel
from graphrec.training.pretraining import PretrainingConfig, pretrain

OUTPUT = Path(__file__).parents[1] / "results" / "userbert_benchmark.jsonl"
OTHER_ATTRIBUTES = (300, 30)  # sizes of the two small vocabularies
ACTIONS = 6  # of a word
NUM_POSITIONS = 365
WARM_UP = 3  # steps that are not timed


@dataclass(frozen=True, kw_only=True)
class Case:
    """What one process measures.

    Attributes:
        group: of cases whose times are compared.
        vocabulary: IDs of the large attribute.
        length: words of a sentence.
        num_sampled: classes that stand for all in the softmax of a larger attribute; None: all.
        device: "cpu" or "cuda".
        batch_size: sentences of a step.
        num_steps: that are timed.
        num_blocks: of the encoder.
        channels: of its vectors.

    """

    group: str
    vocabulary: int = 1_000
    length: int = 64
    num_sampled: int | None = None
    device: str = "cpu"
    batch_size: int = 16
    num_steps: int = 12
    num_blocks: int = 4
    channels: int = 128


def cases(device: str) -> list[Case]:
    """Return all cases of a device: by vocabulary with a full and a sampled softmax, and by length."""
    found = [
        Case(group=f"vocabulary, {name}", vocabulary=vocabulary, num_sampled=num_sampled, device=device)
        for name, num_sampled in (("full softmax", None), ("1,000 sampled", 1_000))
        for vocabulary in (1_000, 10_000, 100_000)
    ]
    return found + [Case(group="length", length=length, device=device) for length in (16, 32, 64, 128, 256)]


def random_sentences(case: Case) -> UserSentences:
    """Return enough sentences for one epoch of the case's steps."""
    generator = torch.Generator().manual_seed(0)
    num_sentences = case.batch_size * (WARM_UP + case.num_steps)
    num_words = num_sentences * case.length
    num_actions = num_words * ACTIONS

    def zipf(size: int) -> torch.Tensor:
        """Draw ranks whose frequency falls as 1 / rank."""
        uniform = torch.rand(num_actions, generator=generator)
        return FIRST + torch.exp(uniform * torch.log(torch.tensor(float(size)))).long().clamp(max=size) - 1

    words = BehaviorWords(
        ptr=torch.arange(num_sentences + 1) * case.length,
        position=torch.arange(case.length).repeat(num_sentences) % NUM_POSITIONS,
        action_ptr=torch.arange(num_words + 1) * ACTIONS,
        code=torch.stack([zipf(size) for size in (case.vocabulary, *OTHER_ATTRIBUTES)], dim=1),
    )
    return UserSentences(words={"long": words}, profile=torch.zeros(num_sentences, 0, dtype=torch.int64))


class _StepTimes:
    """Seconds of each step, from the end of the one before."""

    def __init__(self, device: str) -> None:
        self.device, self.times = device, list[float]()

    def __call__(self, done: int, total: int) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()
            self.times.append(time.perf_counter())
        else:
            self.times.append(time.process_time())

    def median(self) -> float:
        """Return the median seconds of a step, those of the warm-up left out."""
        return statistics.median(last - first for first, last in pairwise(self.times[WARM_UP:]))


def measure(case: Case) -> dict[str, Any]:
    """Pre-train on the case's sentences and return its words a second, milliseconds a step and peak MiB."""
    torch.set_num_threads(1)
    before = peak_mib(case.device)
    sentences = random_sentences(case)
    sizes = SentenceSizes(
        words={
            "long": WordSizes(
                num_codes=tuple(FIRST + size for size in (case.vocabulary, *OTHER_ATTRIBUTES)),
                num_positions=NUM_POSITIONS,
            )
        }
    )
    torch.manual_seed(0)
    model = MaskedWordModel(UserBERT(sizes, channels=case.channels, num_blocks=case.num_blocks))
    clock = _StepTimes(case.device)
    config = PretrainingConfig(
        epochs=1,
        batch_size=case.batch_size,
        num_sampled=case.num_sampled,
        mixed_precision=case.device == "cuda",
    )
    time_of_query = torch.zeros(len(sentences), dtype=torch.int64)
    pretrain(model.to(case.device), sentences, time_of_query, fit_until=1, config=config, on_step=clock)
    peak = peak_mib(case.device) - before
    seconds = clock.median()
    return {
        **asdict(case),
        "words_per_second": round(case.batch_size * case.length / seconds, 1),
        "milliseconds_a_step": round(1000 * seconds, 2),
        "peak_mib": round(peak, 1),
    }


def with_ratios(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add each row's times and memory over those of the first of its group and device."""
    first: dict[tuple[str, str], dict[str, Any]] = {}
    found = []
    for row in rows:
        base = first.setdefault((row["group"], row["device"]), row)
        ratios = {
            "times_slower": round(row["milliseconds_a_step"] / base["milliseconds_a_step"], 2),
            "times_memory": round(row["peak_mib"] / max(base["peak_mib"], 1e-9), 2),
        }
        found.append({**row, **ratios})
    return found


def userbert_benchmark_section(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as Markdown."""
    first = rows[0]
    lines = [
        f"Made by `python -m experiments.benchmarks.userbert` on {first['date']}: {first['cpu']}, torch "
        f"{first['torch']}, one thread.",
        "",
        "| case | device | IDs | words a sentence | words a second | ms a step | times slower | peak MiB "
        "| times memory |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {row['group']} | {row['device']} | {row['vocabulary']:,} | {row['length']} | "
        f"{row['words_per_second']:,.0f} | {row['milliseconds_a_step']:.1f} | {row['times_slower']:.2f} | "
        f"{row['peak_mib']:,.0f} | {row['times_memory']:.2f} |"
        for row in rows
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUTPUT, help="result file")
    out: Path = parser.parse_args(arguments).out
    rows = list[dict[str, Any]]()
    for new in measured_rows(measure, cases):
        rows.append(new)
        row = with_ratios(rows)[-1]
        print(
            f"{row['group']:26} {row['device']:5} {row['vocabulary']:8,} IDs {row['length']:4} words "
            f"{row['words_per_second']:10,.0f} words/s {row['milliseconds_a_step']:8.1f} ms "
            f"{row['times_slower']:6.2f} x  {row['peak_mib']:7,.0f} MiB {row['times_memory']:6.2f} x",
            flush=True,
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    write_lines(out, with_ratios(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
