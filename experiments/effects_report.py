"""The page of the simulated effects: a table between markers of docs/simulator.md, and the figure by hour."""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from experiments.figures import save_figure
from experiments.readme import put_between
from experiments.results_table import ResultRow
from experiments.simulator_effects import (
    DATA,
    EFFECTS,
    MAIN_EFFECT,
    MODELS,
    ORACLE,
    RESULTS,
    UPDATED,
    WORLDS,
    EffectsConfig,
    run_effects,
)

NOT_RUN = "not run"  # a world trains what it is asked about
GAIN, SHARE = "auc gain", "share of the gap"
MARKER = "simulator-effects"
PAGE = Path("docs/simulator.md")
FIGURE = Path("docs/simulator_effects.svg")


def update_page(rows: Sequence[ResultRow], page: Path, figure: Path) -> None:
    """Write the tables into the page and draw the figure beside it.

    Raises:
        ValueError: the page lacks a marker, or there is no figure to show.

    """
    if not rows:
        raise ValueError("no part is finished: run the command without --only-tables first")
    page.write_text(put_between(page.read_text(), MARKER, effects_tables(rows), page))
    draw_gain_by_hour(rows, figure)


def effects_tables(rows: Sequence[ResultRow]) -> str:
    """Return the tables of models and of effects, each as Markdown: mean over seeds ± standard error."""
    worlds = [world for world in WORLDS if any(row.data == f"{DATA}, {world}" for row in rows)]
    names = [*(form for name in MODELS for form in (name, UPDATED.format(name))), ORACLE]
    models = [name for name in names if any(row.model == name for row in rows)]
    lines = ["Mean of the hourly AUCs (SIMULATED data), mean ± standard error over the worlds' seeds:", ""]
    lines += [f"| SIMULATED | {' | '.join(worlds)} |", "| --- |" + " --- |" * len(worlds)]
    for model in models:
        cells = [_cell(_values(rows, model, world, "mean of hours", "auc"), "{:.4f}") for world in worlds]
        lines.append(f"| {model} | {' | '.join(cells)} |")
    lines += [
        "",
        "What each part brings, in AUC, and in per cent of the gap from DeepFM (+external) to the oracle; "
        "t is the mean gain over its standard error:",
        "",
    ]
    lines += [f"| SIMULATED | {' | '.join(worlds)} |", "| --- |" + " --- |" * len(worlds)]
    for effect in EFFECTS:
        cells = []
        for world in worlds:
            gains = _values(rows, effect, world, "all", GAIN)
            gain = _cell(gains, "{:+.4f}")
            share = _cell([100 * value for value in _values(rows, effect, world, "all", SHARE)], "{:.1f}")
            cells.append(f"{gain} ({share} %){_t(gains)}" if gains else NOT_RUN)
        lines.append(f"| {effect} | {' | '.join(cells)} |")
    growth = [
        f"{world}: {_cell(found, '{:+.4f}')}{_t(found)}"
        for world in worlds
        if (found := _growth(rows, world))
    ]
    lines += [
        "",
        f"Growth of the gain of {MAIN_EFFECT} over the day, hours 16 to 24 less hours 0 to 8: "
        + "; ".join(growth)
        + ".",
    ]
    seeds = sorted({row.seed for row in rows})
    return "\n".join([*lines, "", f"Seeds: {', '.join(map(str, seeds))}."])


def draw_gain_by_hour(rows: Sequence[ResultRow], path: Path) -> None:
    """Draw the gain of temporal MAML by hour of the test day, a line a world, bars of one standard error."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.subplots()
    worlds = [world for world in WORLDS if _values(rows, MAIN_EFFECT, world, "all", GAIN)]
    for number, world in enumerate(worlds):
        by_hour = [_values(rows, MAIN_EFFECT, world, f"hour={hour:02d}", GAIN) for hour in range(24)]
        hours = [hour for hour, values in enumerate(by_hour) if values]
        mean = [float(np.mean(by_hour[hour])) for hour in hours]
        error = [standard_error(by_hour[hour]) for hour in hours]
        place = np.array(hours) + 0.12 * (number - (len(worlds) - 1) / 2)
        axes.errorbar(place, mean, yerr=error, label=world, marker="o", markersize=3, capsize=2, linewidth=1)
    axes.axhline(0, color="0.6", linewidth=0.8)
    axes.set_xlabel("hour of the test day")
    axes.set_ylabel("gain in AUC")
    axes.set_title(f"SIMULATED data: {MAIN_EFFECT}, by hour")
    axes.legend(frameon=False)
    save_figure(figure, path)


def standard_error(values: Sequence[float]) -> float:
    """Return the standard error of the mean; NaN for a single value."""
    return float(np.std(values, ddof=1) / len(values) ** 0.5) if len(values) > 1 else float("nan")


def _growth(rows: Iterable[ResultRow], world: str) -> list[float]:
    """Return for each seed the mean gain of the last eight hours less that of the first eight."""
    gain: dict[int, dict[int, float]] = {}
    for row in rows:
        if (row.model, row.data, row.metric) == (MAIN_EFFECT, f"{DATA}, {world}", GAIN) and "=" in row.slice:
            gain.setdefault(row.seed, {})[int(row.slice.removeprefix("hour="))] = row.value
    return [
        float(
            np.mean([v for h, v in found.items() if h >= 16])
            - np.mean([v for h, v in found.items() if h < 8])
        )
        for found in gain.values()
    ]


def _values(rows: Iterable[ResultRow], model: str, world: str, part: str, metric: str) -> list[float]:
    wanted = (model, f"{DATA}, {world}", part, metric)
    return [row.value for row in rows if (row.model, row.data, row.slice, row.metric) == wanted]


def _cell(values: Sequence[float], form: str) -> str:
    if not values:
        return NOT_RUN
    mean = form.format(float(np.mean(values)))
    return f"{mean} ± {form.format(standard_error(values)).lstrip('+')}" if len(values) > 1 else mean


def _t(values: Sequence[float]) -> str:
    """Return how many standard errors the mean is from zero, as the end of a cell."""
    error = standard_error(values)
    return f", t {np.mean(values) / error:.1f}" if error > 0 else ""


def main(arguments: Sequence[str]) -> int:
    """Run the effects, write their results, page and figure, and return the exit status."""
    import torch
    import tyro

    torch.set_num_threads(1)
    try:
        config = tyro.cli(
            EffectsConfig,
            args=list(arguments),
            description="What each part of LSTTM is worth on simulated data; goes on where it stopped.",
        )
        rows = run_effects(
            config, results=RESULTS, on_part=lambda part: print(f"finished {part}", flush=True)
        )
        update_page(rows, PAGE, FIGURE)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        return 130
    print(effects_tables(rows))
    return 0
