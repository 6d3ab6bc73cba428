"""UserBERT's stored tables beside a run's own: settings taken over from them, rows and seeds added to them.

Parts (``experiments.userbert_parts``) stay on the machine that computed them; the result files travel with
the repository. What a row needs of another one, the setting that validation chose, is in them.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from experiments.task_figures import correct_tests
from experiments.userbert_methods import TrainingSettings
from experiments.userbert_parts import Chosen

Line = dict[str, Any]
Tables = dict[str, list[Line]]  # by the suffix of the result file: "", ".tests", ".curves", ".rows"


def stored_choice(
    rows: Sequence[Line], family: str, method: str, fingerprint: str, training: TrainingSettings
) -> Chosen | None:
    """Return what validation chose for a stored row of the same data and training; None where none is.

    Args:
        rows: what each stored row was, of one data set.
        family: of the tasks.
        method: name of the row.
        fingerprint: of the data.
        training: how networks are trained here.

    """
    same = json.loads(json.dumps(asdict(training)))
    for row in rows:
        if (row["family"], row["method"], row["fingerprint"]) != (family, method, fingerprint):
            continue
        if row["training"] in (None, same):
            return Chosen(**{name: row[name] for name in ("setting", "epoch", "figure", "num_settings")})
    return None


def add_to_tables(stored: Tables, new: Tables, methods: Sequence[str], baselines: Sequence[str]) -> Tables:
    """Return stored tables with a run's rows and seeds beside theirs; a seed of both is the run's.

    A difference from another row is the stored one unless the run has all seeds of both rows; p-values are
    corrected and the best baseline is marked anew.

    Args:
        stored: lines of one data set.
        new: lines of the run.
        methods: names of the rows in the tables' order.
        baselines: those among which the best is marked.

    Raises:
        ValueError: a row has another data fingerprint, training or choice than the stored row of its name.

    """
    rows = _added(stored[".rows"], new[".rows"], ("family", "method"), _joined_rows)
    whole = {(row["family"], row["method"]): row["seeds"] for row in rows}
    here = {(row["family"], row["method"]): row["seeds"] for row in new[".rows"]}

    def is_whole(test: Line) -> bool:
        keys = [(test["family"], test[name]) for name in ("method", "other")]
        return all(here[key] == whole[key] for key in keys)

    known = {_key(test, TEST_KEY) for test in stored[".tests"]}
    tests = [test for test in new[".tests"] if is_whole(test) or _key(test, TEST_KEY) not in known]
    tables = {
        "": _added(stored[""], new[""], ("family", "method", "figure", "metric"), _joined_values),
        ".tests": _added(stored[".tests"], tests, TEST_KEY, lambda _, one: one),
        ".curves": _added(stored[".curves"], new[".curves"], ("family", "method"), _joined_values),
        ".rows": rows,
    }
    for suffix, lines in tables.items():
        tables[suffix] = _ordered(lines, methods, by_figure=suffix == ".tests")
    tables[".tests"] = correct_tests(tables[".tests"], baselines)
    return tables


TEST_KEY = ("family", "figure", "metric", "method", "other")


def _key(line: Line, names: Sequence[str]) -> tuple[Any, ...]:
    return tuple(line[name] for name in names)


def _added(stored: Sequence[Line], new: Sequence[Line], names: Sequence[str], join: Any) -> list[Line]:
    found = {_key(line, names): line for line in stored}
    for line in new:
        key = _key(line, names)
        found[key] = join(found[key], line) if key in found else line
    return list(found.values())


def _ordered(lines: Sequence[Line], methods: Sequence[str], *, by_figure: bool) -> list[Line]:
    """Return lines family by family, and in it row by row, or as tests go, figure by figure."""
    families = list(dict.fromkeys(line["family"] for line in lines))
    figures = list(dict.fromkeys((line["family"], line["figure"]) for line in lines)) if by_figure else []
    named = "other" if by_figure else "method"

    def place(line: Line) -> tuple[int, int, int]:
        figure = figures.index((line["family"], line["figure"])) if by_figure else 0
        method = methods.index(line[named]) if line[named] in methods else len(methods)
        return families.index(line["family"]), figure, method

    return sorted(lines, key=place)


def _joined_values(stored: Line, new: Line) -> Line:
    """Return a line with the values of both lines' seeds."""
    by_seed = dict(zip(stored["seeds"], stored["values"], strict=True))
    by_seed |= zip(new["seeds"], new["values"], strict=True)
    return {**new, "seeds": sorted(by_seed), "values": [by_seed[seed] for seed in sorted(by_seed)]}


def _joined_rows(stored: Line, new: Line) -> Line:
    for name in ("fingerprint", "training", "setting", "epoch"):
        if stored[name] != new[name]:
            raise ValueError(
                f"the stored row {stored['method']!r} ({stored['family']}) has another {name}: "
                f"{stored[name]!r}, this run {new[name]!r}. Their seeds do not belong into one row: run all "
                "rows anew without --add-to-stored"
            )
    return {
        **new,
        "seeds": sorted({*stored["seeds"], *new["seeds"]}),
        "cpu_seconds": _mean_costs(stored, new),
    }


def _mean_costs(stored: Line, new: Line) -> Mapping[str, float]:
    """Return each cost a seed; tuning was done in one of the two.

    Means over seeds can be put together where these are others; where some were run twice, those of more
    seeds stand.
    """
    if set(stored["seeds"]) & set(new["seeds"]):
        longer = stored if len(stored["seeds"]) >= len(new["seeds"]) else new
        costs = dict(longer["cpu_seconds"])
    else:
        weights = len(stored["seeds"]), len(new["seeds"])
        costs = {
            name: round((stored["cpu_seconds"][name] * weights[0] + value * weights[1]) / sum(weights), 1)
            for name, value in new["cpu_seconds"].items()
        }
    costs["tuning"] = max(stored["cpu_seconds"]["tuning"], new["cpu_seconds"]["tuning"])
    return costs
