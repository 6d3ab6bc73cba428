"""Command line: ``graphrec evaluate predictions.parquet`` evaluates anybody's click predictions."""

import argparse
import math
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

# what a command needs is imported when it runs: --help answers at once
if TYPE_CHECKING:
    from rich.console import Console

    from graphrec.evaluation.evaluate import Evaluation, Progress

TIME_UNITS = ("auto", "s", "ms", "us", "ns")
SCORE_KINDS = ("probability", "logit", "ranking")
BIN_STRATEGIES = ("quantile", "width")
_WIDTH_OF_A_PIPE = 200  # columns of a table that goes to a file or another program

_DESCRIPTION = """\
Evaluate click predictions: AUC, grouped AUC, log loss, calibration and ranking figures of one or several
models on the same rows, over all rows and by slice, with 95% intervals and paired tests.

Columns that are not named are guessed by usual names (label, score, user_id, time_ms ...); each guess is
printed. The first score column is the candidate that all others are compared with.
"""
_EXAMPLES = """\
examples:
  graphrec evaluate predictions.parquet --label click --score p --user user_id --time time_ms
  graphrec evaluate day1.parquet day2.parquet --score new --score old --by tab --by hour --html report.html
  graphrec evaluate new.csv --against old.csv --key impression_id --json - | jq .headline
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the exit status: 0, 2 for a wrong input, 130 when stopped by the user."""
    parsed = _parser().parse_args(sys.argv[1:] if arguments is None else arguments)
    try:
        return _evaluate(parsed)
    except BrokenPipeError:
        # whoever read the output has seen enough; Python must not write to it again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="graphrec",
        description="Graph learning on behaviour data, and the evaluation of click predictions.",
    )
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    evaluate = commands.add_parser(
        "evaluate",
        help="figures, intervals and tests of click predictions",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    evaluate.add_argument(
        "predictions",
        nargs="+",
        metavar="PREDICTIONS",
        help="Parquet or CSV file, pattern or folder, - for standard input; several are parts of one table",
    )
    _add_columns(evaluate.add_argument_group("columns"))
    _add_reading(evaluate.add_argument_group("reading"))
    _add_figures(evaluate.add_argument_group("figures"))
    _add_output(evaluate.add_argument_group("output"))
    return parser


def _add_columns(group: "argparse._ArgumentGroup") -> None:
    group.add_argument("--label", metavar="COLUMN", help="clicks, 0 or 1")
    group.add_argument(
        "--score", metavar="COLUMN", action="append", default=[], help="predictions; again for further models"
    )
    group.add_argument("--user", metavar="COLUMN", help="user IDs of any type; '' for none")
    group.add_argument("--time", metavar="COLUMN", help="numbers since 1970, date-times or text; '' for none")
    group.add_argument("--request", metavar="COLUMN", help="page view or search of a row; '' for none")
    group.add_argument(
        "--item", metavar="COLUMN", help="items, without which --graph has no slices by the history of items"
    )
    group.add_argument(
        "--history",
        metavar="COLUMN",
        help="number of past events of a row's user: its buckets become slices "
        "(slices by the history of items need --graph and --item)",
    )
    group.add_argument(
        "--by",
        metavar="COLUMN",
        action="append",
        default=[],
        help="slice by a column, or by hour, day, period (of the time); may be repeated. "
        "Without it: by hour, period and day",
    )
    group.add_argument(
        "--key",
        metavar="COLUMN",
        action="append",
        default=[],
        help="identifies a row, to match --against; may be repeated. Without it all files need one order",
    )


def _add_reading(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--against",
        metavar="FILE",
        action="append",
        default=[],
        help="another model's predictions of the same rows; may be repeated",
    )
    group.add_argument(
        "--time-zone", default="UTC", metavar="ZONE", help="such as Asia/Shanghai or +08:00 (UTC)"
    )
    group.add_argument(
        "--time-unit", default="auto", choices=TIME_UNITS, help="of times that are numbers (auto)"
    )
    group.add_argument(
        "--period-seconds",
        type=_Whole(1),
        default=3600,
        metavar="N",
        help="period of GAUC by user and period (3600)",
    )
    group.add_argument(
        "--score-kind",
        default="probability",
        choices=SCORE_KINDS,
        help="logit: passed through the logistic function; ranking: no figures of probabilities",
    )
    group.add_argument(
        "--positive-threshold", type=_number, metavar="X", help="a label above it is a click, for ratings"
    )
    group.add_argument(
        "--graph",
        type=Path,
        metavar="FOLDER",
        help="behaviour graph, for slices by the history of users and, with --item, of items",
    )
    group.add_argument(
        "--max-values",
        type=_Whole(1),
        default=1000,
        metavar="N",
        help="most values of a slicing column (1000)",
    )
    group.add_argument(
        "--memory-limit-gib",
        type=_number,
        metavar="X",
        help="of columns in memory, others go to temporary files (three quarters of the memory)",
    )


def _add_figures(group: "argparse._ArgumentGroup") -> None:
    group.add_argument("--k", type=_Whole(1), default=10, metavar="N", help="length of ranked lists (10)")
    group.add_argument(
        "--bins", type=_Whole(1), default=20, metavar="N", help="bins of the calibration error (20)"
    )
    group.add_argument(
        "--bin-strategy",
        default="quantile",
        choices=BIN_STRATEGIES,
        help="bins of equal rows or of equal widths",
    )
    group.add_argument(
        "--resamples",
        type=_Whole(0),
        default=1000,
        metavar="N",
        help="of the bootstrap (1000); 0: no bootstrap",
    )
    group.add_argument("--random-seed", type=_Whole(0), default=0, metavar="N", help="of the bootstrap (0)")


def _add_output(group: "argparse._ArgumentGroup") -> None:
    group.add_argument("--html", type=Path, metavar="FILE", help="one self-contained page with plots")
    group.add_argument(
        "--json", type=Path, metavar="FILE", help="all figures; - for standard output, and nothing else there"
    )
    group.add_argument("--markdown", type=Path, metavar="FILE", help="the report's tables; - as above")
    group.add_argument("--quiet", action="store_true", help="print nothing but errors")


def _evaluate(parsed: argparse.Namespace) -> int:
    outputs = [parsed.json, parsed.markdown, parsed.html]
    to_stdout = [str(path) for path in outputs].count("-")
    if to_stdout > 1 or str(parsed.html) == "-":
        raise ValueError("- is for one of --json and --markdown")
    if parsed.quiet and not any(outputs):
        raise ValueError("--quiet without --html, --json or --markdown would show nothing; name a file")
    from rich.console import Console

    from graphrec.evaluation.evaluate import evaluate
    from graphrec.evaluation.read import ReadOptions
    from graphrec.evaluation.reading.sources import input_files
    from graphrec.evaluation.report import ReportPaths, write_report
    from graphrec.evaluation.report_files import check_outputs

    options = ("--json", "--markdown", "--html")
    named = {option: path for option, path in zip(options, outputs, strict=True) if path is not None}
    check_outputs(named, input_files([*parsed.predictions, *parsed.against]) if named else ())

    columns = ReadOptions(
        label=parsed.label,
        score=tuple(parsed.score),
        user=parsed.user,
        time=parsed.time,
        request=parsed.request,
        item=parsed.item,
        history=parsed.history,
        key=tuple(parsed.key),
        by=tuple(parsed.by),
        time_unit=parsed.time_unit,
        time_zone=parsed.time_zone,
        period_seconds=parsed.period_seconds,
        score_kind=parsed.score_kind,
        positive_threshold=parsed.positive_threshold,
        max_values=parsed.max_values,
        memory_limit_gib=parsed.memory_limit_gib,
    )
    with _progress_bar(shown=not parsed.quiet) as progress:
        evaluation = evaluate(
            parsed.predictions[0] if len(parsed.predictions) == 1 else parsed.predictions,
            against=parsed.against,
            columns=columns,
            graph=parsed.graph,
            k=parsed.k,
            num_bins=parsed.bins,
            bin_strategy=parsed.bin_strategy,
            num_resamples=parsed.resamples,
            random_seed=parsed.random_seed,
            progress=progress,
        )
    files = ReportPaths(*(None if str(path) == "-" else path for path in outputs))
    page = None
    try:
        write_report(evaluation, files)
        page = files.html
    finally:
        # a disk that is full by now must not take the figures with it
        if to_stdout:
            _print_file(evaluation, is_json=str(parsed.json) == "-")
        elif not parsed.quiet:
            console = Console()
            if not console.is_terminal and "COLUMNS" not in os.environ:
                console = Console(width=_WIDTH_OF_A_PIPE)
            _print_evaluation(evaluation, page, console)
    return 0


def _print_evaluation(evaluation: "Evaluation", html: Path | None, console: "Console") -> None:
    """Print the guesses, the tables and the verdicts."""
    from rich.text import Text

    from graphrec.evaluation.page import print_page
    from graphrec.evaluation.report import evaluation_page

    for note in evaluation.notes:
        console.print(Text(f"- {note}", style="dim"))
    if evaluation.notes:
        console.print()
    print_page(evaluation_page(evaluation), console)
    if html is not None:
        console.print(Text(f"\nPage: {html.resolve()}", overflow="fold"), soft_wrap=True)


def _print_file(evaluation: "Evaluation", is_json: bool) -> None:
    from graphrec.evaluation.page import render_markdown
    from graphrec.evaluation.report import evaluation_json, evaluation_page, to_json

    text = to_json(evaluation_json(evaluation)) if is_json else render_markdown(evaluation_page(evaluation))
    sys.stdout.write(text)
    sys.stdout.flush()


@contextmanager
def _progress_bar(shown: bool) -> Iterator["Progress"]:
    """Show stages on the terminal's standard error; nothing where that is a file."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f}"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not (shown and console.is_terminal),
    )
    stages: dict[str, int] = {}

    def report(stage: str, done: int, total: int | None) -> None:
        if stage not in stages:
            stages[stage] = bar.add_task(stage, total=total)
        bar.update(stages[stage], completed=done, total=total)  # type: ignore[arg-type]

    with bar:
        yield report


class _Whole:
    """Reads a whole number of at least ``least``."""

    def __init__(self, least: int) -> None:
        self.least = least

    def __call__(self, text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"wanted a whole number, got {text!r}") from None
        if number < self.least:
            raise argparse.ArgumentTypeError(f"wanted at least {self.least}, got {number}")
        return number


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"wanted a number, got {text!r}")
    return number


def _version() -> str:
    from graphrec import __version__

    return f"graphrec {__version__}"
