"""UserBERT's tables as Markdown, its ablations as curves, and a user's words with their attention."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments.benchmarks.userbert import OUTPUT, userbert_benchmark_section
from experiments.figures import draw_curve, save_figure
from experiments.readme import put_sections
from experiments.results_table import read_lines
from experiments.task_figures import MEAN
from experiments.task_report import METRICS, task_table
from experiments.userbert_data import UserBERTData, times_of
from experiments.userbert_methods import METHODS
from graph_builders.datasets.downstream_tasks import DownstreamTask
from graph_builders.events import UNITS_PER_SECOND
from graphrec.encoders.sentence_batches import sentence_length, take_sentences
from graphrec.encoders.sentences import FIRST, BehaviorWords
from graphrec.encoders.userbert import UserBERT

TABLES = "userbert_tables.jsonl"
BENCHMARK = OUTPUT.name
HEADINGS = {
    "targeting": "User targeting: the first purchase in a category within 60 days (the paper's table 2)",
    "attributes": "User attributes (the paper's table 3)",
    "next genre": "Next genre, mAP@10 (the paper's table 4)",
}
ABLATIONS = (  # heading, and what each row is called in the figure
    (
        "Pre-training",
        {"UserBERT": "pre-trained", "UserBERT, not pre-trained": "not pre-trained"},
    ),
    (
        "Labels of multi-task pre-training",
        {
            "Transformer+MTL": "100% of the labels",
            "Transformer+MTL, 30% of the labels": "30%",
            "Transformer, 0% of the labels": "0%",
        },
    ),
    (
        "Behavioural words",
        {"UserBERT": "words of a day or session", "UserBERT, every action a word": "every action a word"},
    ),
)
NUM_DETAILED = 3  # tasks of a family up to which each has columns of its own
NUM_LABELLED = 6  # words of the picture whose content is written out


# ---- tables --------------------------------------------------------------------------------------


def update_userbert_page(results: Path, page: Path) -> None:
    """Put the tables of the result files, and the benchmark's, between the markers of the page.

    Args:
        results: folder of the result files.
        page: ``docs/userbert.md``, or a copy of it.

    Raises:
        ValueError: the page lacks a marker.

    """
    bodies = {data: userbert_section(results, data) for data in ("complete_journey", "kuairand")}
    rows = read_lines(results / BENCHMARK)
    if rows:
        bodies["benchmark"] = userbert_benchmark_section(rows)
    put_sections({page: bodies})


def userbert_section(results: Path, data: str) -> str:
    """Return the tables of a data set, with UserBERT's differences from each row and what was chosen.

    Args:
        results: folder of the result files.
        data: name of the data set.

    """
    figures, tests, rows = (
        [
            line
            for line in read_lines(results / TABLES.replace(".jsonl", f"{suffix}.jsonl"))
            if line["data"] == data
        ]
        for suffix in ("", ".tests", ".rows")
    )
    if not figures:
        return "Nothing has been run yet."
    found = [f"**{rows[0]['title']}**", ""]
    for family in dict.fromkeys(line["family"] for line in figures):
        found += [f"### {HEADINGS.get(family, family)}", ""]
        of_family = [[one for one in kind if one["family"] == family] for kind in (figures, tests, rows)]
        finished = {line["method"] for line in of_family[0]}
        missing = [
            method.name for method in METHODS if family in method.families and method.name not in finished
        ]
        found += [*_table(*of_family), ""]
        if missing:
            found += [f"Not finished, and so not here: {'; '.join(missing)}.", ""]
    return "\n".join([*found, *_choices(rows)]).rstrip()


def _table(
    figures: Sequence[Mapping[str, Any]],
    tests: Sequence[Mapping[str, Any]],
    rows: Sequence[Mapping[str, Any]],
) -> list[str]:
    figures, tests = (
        [{**line, "figure": line["figure"].removeprefix("targeting: ")} for line in lines]
        for lines in (figures, tests)
    )
    shown = list(dict.fromkeys((line["figure"], line["metric"]) for line in figures))
    if len({figure for figure, _ in shown} - {MEAN}) > NUM_DETAILED:
        shown = [(figure, metric) for figure, metric in shown if figure == MEAN or metric == "auc"]
    trained_on = ", ".join(f"{count:,}" for count in rows[0]["training_queries"])
    return task_table(figures, tests, columns=shown, notes=f"; training queries: {trained_on}")


def _choices(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    found = [
        "### What validation chose, and what it cost",
        "",
        "CPU seconds of one thread beside other work. A pre-training is shared by all tasks of a seed.",
        "",
        "| | tasks | settings tried | chosen | validation | pre-training a seed | tuning | tests a seed |",
        "| --- | --- | ---: | --- | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        setting = [f"{name} {value:g}" for name, value in row["setting"].items()]
        if row["training"] is not None:
            setting.append(f"epoch {row['epoch']} of {row['training']['epochs']}")
        figure = "" if row["figure"] is None else f"{row['figure']:.4f}"
        changed = {method.name: method.of for method in METHODS}.get(row["method"])
        if changed is not None:  # nothing was chosen for an ablation itself
            figure = f"as {changed}"
        costs = [f"{seconds:.0f}" for seconds in row["cpu_seconds"].values()]
        found.append(
            f"| {row['method']} | {row['family']} | {row['num_settings']} | {', '.join(setting)} | "
            f"{figure} | {' | '.join(costs)} |"
        )
    return found


# ---- ablations -----------------------------------------------------------------------------------


def draw_ablations(results: Path, data: str, path: Path) -> bool:
    """Draw each ablation's figure after each epoch of fine-tuning; return whether there was any.

    A row of panels for each ablation, a column for each family of tasks; bands are one deviation over the
    seeds.

    Args:
        results: folder of the result files.
        data: name of the data set.
        path: of the picture.

    """
    lines = [
        line
        for line in read_lines(results / TABLES.replace(".jsonl", ".curves.jsonl"))
        if line["data"] == data
    ]
    curves = {(line["method"], line["family"]): line for line in lines}
    families = list(dict.fromkeys(line["family"] for line in lines))
    drawn = [(title, names) for title, names in ABLATIONS if {m for m, _ in curves} >= set(names)]
    if not drawn:
        return False
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1 + 3.2 * len(families), 2.8 * len(drawn)), layout="constrained")
    panels = figure.subplots(len(drawn), len(families), squeeze=False)
    for panels_of_row, (title, names) in zip(panels, drawn, strict=True):
        for axes, family in zip(panels_of_row, families, strict=True):
            shown = {name: label for name, label in names.items() if (name, family) in curves}
            if not shown:
                axes.set_axis_off()
                continue
            for method, label in shown.items():
                of_epoch = list(zip(*curves[method, family]["values"], strict=True))
                draw_curve(axes, range(1, 1 + len(of_epoch)), of_epoch, label)
            metric = METRICS[curves[next(iter(shown)), family]["metric"]]
            axes.set(xlabel="epoch of fine-tuning", ylabel=f"{metric}, {family}", title=title)
            axes.legend(frameon=False, fontsize="small")
    save_figure(figure, path)
    return True


# ---- a user's words ------------------------------------------------------------------------------


def draw_sentence(data: UserBERTData, task: DownstreamTask, encoder: UserBERT, path: Path) -> None:
    """Draw how much the first token gathers from each word of one test user.

    The weights are those of the last block, a mean over its heads: that block makes the user's vector. The
    query is the first of the test with about 30 words, which fit on a page, and two of each kind, if there
    is one. The most attended words are written out by their rarest values.

    Args:
        data: words and vocabularies.
        task: whose test queries are looked at.
        encoder: fine-tuned on the task.
        path: of the picture.

    """
    from matplotlib.figure import Figure

    queries = task.part("test").head(500)
    sentences = data.sentences(queries, "words")
    fewest = torch.stack([words.ptr.diff() for words in sentences.words.values()]).amin(dim=0)
    far = (sentence_length(sentences) - 30).abs()
    place = int((far + 1000 * (fewest < 2)).argmin())
    chosen = take_sentences(sentences, torch.tensor([place]))
    weights, layout = encoder.attention(chosen)
    of_first = weights[-1, 0, :, 0].mean(dim=0)
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.add_subplot()
    begin, found, ticks = 0, list[tuple[float, int, str]](), list[str]()
    for number, (kind, words) in enumerate(chosen.words.items()):
        weight = of_first[layout.slot[kind]].numpy()
        where = begin + np.arange(len(weight))
        unit = data.tokenizers["words"].kinds[kind].position
        if len(weight):
            axes.bar(where, weight, color=f"C{number}", label=f"{kind}-term words, at their {unit}")
        ticks += [str(position) for position in words.position.tolist()]
        texts = _contents(data, kind, words)
        found += [
            (float(one), begin + i, text) for i, (one, text) in enumerate(zip(weight, texts, strict=True))
        ]
        begin += len(weight)
    highest = max(height for height, _, _ in found)
    for rank, (height, at, text) in enumerate(sorted(found, reverse=True)[:NUM_LABELLED]):
        axes.annotate(
            text,
            (at, height),
            xytext=(0.02, 0.95 - 0.07 * rank),
            textcoords="axes fraction",
            fontsize=7,
            arrowprops={"arrowstyle": "-", "color": "0.6", "linewidth": 0.6},
        )
    axes.set_ylim(0, 1.9 * highest)
    axes.set_xticks(range(begin), ticks, rotation=90, fontsize=6)
    second = int(times_of(queries)[place]) // UNITS_PER_SECOND[data.tables.events.time_resolution]
    day = datetime.fromtimestamp(second, UTC).date().isoformat()
    axes.set(
        xlabel="words, oldest first, by position since the start of their window",
        ylabel="attention of the first token\n(last block, mean over heads)",
        title=f"One user's words before {day}: {data.title.partition('.')[0]}",
    )
    axes.legend(frameon=False, loc="upper right", fontsize="small")
    save_figure(figure, path)


def _contents(data: UserBERTData, kind: str, words: BehaviorWords) -> list[str]:
    """Return the three rarest values of the class attribute in each word; codes rise with rarity."""
    values, column = data.values_of(data.class_attribute), data.column_of(data.class_attribute)[kind]
    texts = []
    for code in torch.split(words.code[:, column], words.action_ptr.diff().tolist()):
        rare = sorted({int(one) - FIRST for one in code if one >= FIRST}, reverse=True)
        more = f" and {len(rare) - 3} more" if len(rare) > 3 else ""
        texts.append(", ".join(values[one].lower() for one in rare[:3]) + more)
    return texts
