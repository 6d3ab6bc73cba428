"""LURM's tables as Markdown, and the picture of the anchors' outputs before and after training."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from experiments.benchmarks.user_lives import OUTPUT, lives_section
from experiments.figures import save_figure
from experiments.readme import put_sections
from experiments.results_table import read_lines
from experiments.task_figures import MEAN
from experiments.task_report import task_table

TABLES = "lurm_tables.jsonl"
DATA_SETS = ("online_retail", "complete_journey", "amazon_5core", "simulated")
HEADINGS = {
    "preferences, main": "Category preference",
    "profiles, main": "Profiles of households",
    "preferences, ablations": "Category preference: ablations and other probes",
    "profiles, ablations": "Profiles: ablations and other probes",
}
NUM_DRAWN = 150  # users of the picture


def update_lurm_page(results: Path, page: Path) -> None:
    """Put the tables of the result files, and the benchmark's, between the markers of the page.

    Args:
        results: folder of the result files.
        page: ``docs/lurm.md``, or a copy of it.

    Raises:
        ValueError: the page lacks a marker.

    """
    bodies = {data: lurm_section(results, data) for data in DATA_SETS}
    lives = read_lines(results / OUTPUT.name)
    if lives:
        bodies["lives"] = lives_section(lives)
    put_sections({page: bodies})


def lurm_section(results: Path, data: str) -> str:
    """Return the tables of a data set: main rows and ablations, a table a family, then costs."""
    paths = {part: results / TABLES.replace(".jsonl", f"{part}.jsonl") for part in ("", ".tests", ".rows")}
    lines = {
        part: [line for line in (read_lines(path) if path.exists() else []) if line["data"] == data]
        for part, path in paths.items()
    }
    if not lines[""]:
        return "Nothing has been run yet."
    first = lines[".rows"][0]
    found = [
        f"{first['title'].rstrip('.')}. {' '.join(first['notes'])} {first['num_words']:,} words, D = "
        f"{first['num_interests']:,}."
    ]
    for family, heading in HEADINGS.items():
        figures = [line for line in lines[""] if line["family"] == family]
        if not figures:
            continue
        tests = [line for line in lines[".tests"] if line["family"] == family]
        if family.endswith("main"):
            columns = None
        else:
            columns = [(MEAN, "auc"), (MEAN, "accuracy")]
        found += ["", f"#### {heading}", "", *task_table(figures, tests, columns=columns)]
    found += ["", *_costs(lines[".rows"])]
    return "\n".join(found)


def _costs(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return processor seconds a seed of each row."""
    found = [
        "Processor seconds a seed:",
        "",
        "| row | item embeddings | representation | probes, choice of epochs included |",
        "| --- | ---: | ---: | ---: |",
    ]
    for line in {line["method"]: line for line in rows}.values():
        cells = [line["cpu_seconds"].get(stage) for stage in ("items", "representation", "scores")]
        texts = ["" if cell is None else f"{cell:,.0f}" for cell in cells]
        found.append(f"| {line['method']} | {' | '.join(texts)} |")
    return found


def draw_anchors(
    before: Float32[Tensor, "num_users out_channels"],
    after: Float32[Tensor, "num_users out_channels"],
    num_anchors: int,
    title: str,
    path: Path,
) -> None:
    """Draw a t-SNE of the anchors' vectors of some users, a colour an anchor, before and after training.

    Args:
        before: SMEN's output, anchor by anchor, as its weights were drawn.
        after: the same, trained.
        num_anchors: M.
        title: of the figure.
        path: of the SVG file.

    """
    from matplotlib.figure import Figure
    from sklearn.manifold import TSNE

    figure = Figure(figsize=(9, 4.4), layout="constrained")
    place = torch.linspace(0, len(before) - 1, min(NUM_DRAWN, len(before))).long()
    for number, (name, vectors) in enumerate((("before training", before), ("after training", after))):
        anchors = vectors[place].reshape(len(place) * num_anchors, -1)
        x = torch.nn.functional.normalize(anchors, dim=1).numpy()
        perplexity = min(30.0, (len(x) - 1) / 3)
        flat = TSNE(init="pca", perplexity=perplexity, random_state=0).fit_transform(x)
        axes = figure.add_subplot(1, 2, number + 1)
        anchor = np.tile(np.arange(num_anchors), len(place))
        axes.scatter(flat[:, 0], flat[:, 1], c=anchor, cmap="tab10", s=6, linewidths=0, rasterized=True)
        axes.set(title=name, xticks=[], yticks=[])
    figure.suptitle(f"{title}: t-SNE of the {num_anchors} anchors' vectors of {len(place)} users")
    save_figure(figure, path)
