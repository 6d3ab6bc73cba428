"""The measured part of docs/serving.md, made from the rows of the online ranker's benchmark."""

from pathlib import Path
from typing import Any

from experiments.results_table import read_lines

SERVING_BENCHMARK = "online_benchmark.jsonl"
SERVING_COMMAND = "python -m experiments.benchmarks.online runs/daily/2022-05-08"


def serving_section(path: Path) -> str:
    """Make the part on the ranker's speed, and on a served day beside the protocol."""
    lines = read_lines(path)
    first = lines[0]
    config = first["configuration"]

    def value(measure: str, setting: str) -> float:
        return next(
            _value(line) for line in lines if (line["measure"], line["setting"]) == (measure, setting)
        )

    def named(measure: str) -> dict[str, float]:
        return {line["setting"]: _value(line) for line in lines if line["measure"] == measure}

    threads = [f"{config['num_candidates']} candidates, {n} client threads" for n in config["threads"]]
    levels = ("latency p50", "latency p95", "latency p99")
    latency = [", ".join(f"{value(level, setting):.1f}" for level in levels) for setting in threads]
    shares, appended = named("share of a request"), named("events appended, on disk")
    reopened = named("reopen")
    auc, gap = named("AUC of the day"), named("largest difference of probabilities")
    (end_of_period,) = named("end of a period").values()
    return "\n\n".join(
        [
            f"Made by `{SERVING_COMMAND}` on {first['date']}, put here by `python -m experiments readme`: "
            f"{first['machine']}, load average {first['load_average']:.1f}; {first['users']:,} users, "
            f"{first['items']:,} items, {first['past_counts']} past counts.",
            _table(
                [
                    f"{config['num_candidates']} candidates",
                    *(f"{n} client thread{'s' * (n > 1)}" for n in config["threads"]),
                ],
                [
                    ["requests a second", *(f"{value('requests', setting):.0f}" for setting in threads)],
                    ["latency p50, p95, p99 in ms", *latency],
                ],
            ),
            _table(["share of a request", *shares], [["", *(f"{share:.0f} %" for share in shares.values())]]),
            _table(
                ["events a second, on disk", *appended],
                [["", *(f"{rate:,.0f}" for rate in appended.values())]],
            ),
            _table(
                ["further", "seconds"],
                [
                    [
                        "end of a period: gradient step, graph, counts, items encoded anew",
                        f"{end_of_period:.2f}",
                    ],
                    *([f"reopening, {setting}", f"{seconds:.2f}"] for setting, seconds in reopened.items()),
                ],
            ),
            _table(
                [
                    "the day's impressions, form of update",
                    "AUC served",
                    "AUC of the protocol",
                    "largest difference",
                ],
                [
                    [form, f"{auc[f'served, {form}']:.5f}", f"{auc[f'replay, {form}']:.5f}", f"{apart:.0e}"]
                    for form, apart in gap.items()
                ],
            ),
        ]
    )


def _value(line: dict[str, Any]) -> float:
    return float(line["value"])


def _table(heads: list[str], rows: list[list[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
