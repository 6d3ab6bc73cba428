"""Which column plays which role: as named, else guessed from lists of usual names."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from graphrec.evaluation.reading.errors import PredictionsError, listed, missing_column
from graphrec.evaluation.reading.sources import Table

USUAL_NAMES: Mapping[str, tuple[str, ...]] = {
    "label": (
        "label", "click", "clicked", "is_click", "is_clicked", "clk", "y", "y_true", "target", "labels",
        "clicks",
    ),
    "score": (
        "score", "p", "pred", "prediction", "predicted", "probability", "prob", "proba", "pctr", "p_ctr",
        "p_click", "ctr", "y_pred", "y_score", "y_prob", "y_hat", "yhat", "scores", "preds", "predictions",
        "logit", "logits",
    ),
    "user": (
        "user", "user_id", "userid", "uid", "user_idx", "member_id", "customer_id", "visitor_id", "visitorid",
    ),
    "time": (
        "time", "timestamp", "time_ms", "timestamp_ms", "ts", "event_time", "event_timestamp", "datetime",
        "date_time", "unix_time", "epoch", "date",
    ),
    "request": (
        "request", "request_id", "requestid", "query_id", "qid", "search_id", "srch_id", "page_view_id",
        "pageview_id", "group_id",
    ),
}  # fmt: skip
"""Names that are looked for where none is given, the earlier the better; case does not matter."""
TIME_WORDS = ("hour", "day", "period")


@dataclass
class Roles:
    """The columns of a source by what they are; None where there is none."""

    label: str
    scores: tuple[str, ...]
    user: str | None = None
    time: str | None = None
    request: str | None = None
    item: str | None = None
    history: str | None = None
    key: tuple[str, ...] = ()
    by: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)


def find_roles(
    table: Table,
    *,
    label: str | None,
    score: Sequence[str],
    user: str | None,
    time: str | None,
    request: str | None,
    item: str | None,
    history: str | None,
    key: Sequence[str],
    by: Sequence[str],
    known_slices: Sequence[str],
) -> Roles:
    """Settle the columns of the first source.

    ``score`` holds the wanted names that this source has; ``known_slices`` are words of ``by`` that come from
    elsewhere than a column.

    Raises:
        PredictionsError: a named column is missing, one is named twice, or no label or score is found.

    """
    _check_named_once(label, score, key, by)
    roles = {"label": label, "user": user, "time": time, "request": request, "item": item}
    taken = {name: f"--{role}" for role, name in {**roles, "history": history}.items() if name}
    taken |= dict.fromkeys(score, "--score")
    notes: list[str] = []
    found: dict[str, str | None] = {}
    for role, given in (("label", label), ("user", user), ("time", time), ("request", request)):
        if given is None:
            found[role] = guess(role, table.columns, taken)
            name = found[role]
            if name is not None:
                taken[name] = f"--{role}"
                notes.append(f"{role}: column {name} (guessed by its name; --{role} names another one)")
            elif role != "label":
                gone = _taken_in_words(role, table.columns, taken)
                notes.append(f"{role}: no column is called like one{gone}; --{role} names it")
        else:
            found[role] = given or None
    for role, name in (*found.items(), ("item", item), ("history", history)):
        if name is not None and name not in table.columns:
            raise missing_column(table.name, name, table.columns, f"--{role}")
    if found["label"] is None:
        gone = _taken_in_words("label", table.columns, taken)
        raise PredictionsError(
            f"{table.name}: no {'other ' * bool(gone)}column is called like a label{gone} "
            f"({listed(USUAL_NAMES['label'])}); it has {listed(table.columns)}; "
            "--label names the one of clicks"
        )
    scores, note = find_scores(table, score, taken)
    notes += note
    for option, names in (("--key", key), ("--by", by)):
        for name in names:
            if name in table.columns or (option == "--by" and name in known_slices):
                continue
            if option == "--by" and name in TIME_WORDS:
                if found["time"] is None:
                    raise PredictionsError(
                        f"{table.name}: slices by {name} need times, and there is neither a column of times "
                        f"nor one called {name}; --time names it (columns: {listed(table.columns)})"
                    )
                continue
            raise missing_column(table.name, name, table.columns, option)
    notes += [
        f"slices by {name} are those of the column {found['time']}, not the column {name}"
        for name in by
        if name in TIME_WORDS and name in table.columns and found["time"] is not None
    ]
    columns_of_by = tuple(
        name
        for name in by
        if name not in known_slices and not (name in TIME_WORDS and found["time"] is not None)
    )
    return Roles(
        label=found["label"],
        scores=scores,
        user=found["user"],
        time=found["time"],
        request=found["request"],
        item=item,
        history=history,
        key=tuple(key),
        by=columns_of_by,
        notes=notes,
    )


def find_scores(
    table: Table, wanted: Sequence[str], taken: Mapping[str, str]
) -> tuple[tuple[str, ...], list[str]]:
    """Return the score columns of a source, guessed where none of the wanted is there, and notes.

    ``taken`` holds the options by which columns have another role.
    """
    if wanted:
        return tuple(wanted), []
    name = guess("score", table.columns, taken)
    if name is None:
        gone = _taken_in_words("score", table.columns, taken)
        raise PredictionsError(
            f"{table.name}: no {'other ' * bool(gone)}column is called like a score{gone} "
            f"({listed(USUAL_NAMES['score'])}); it has {listed(table.columns)}; --score names one or several"
        )
    others = [
        column
        for column in table.columns
        if column.lower() in USUAL_NAMES["score"] and column != name and column not in taken
    ]
    also = f"; there are also {listed(others)}" if others else ""
    return (name,), [
        f"score: column {name} of {table.name} (guessed by its name{also}; --score names others)"
    ]


def guess(role: str, columns: Sequence[str], taken: Mapping[str, str]) -> str | None:
    """Return the column with the earliest of a role's usual names, None where there is none."""
    free = {column.lower(): column for column in reversed(columns) if column not in taken}
    free |= {column: column for column in columns if column not in taken}
    return next((free[name] for name in USUAL_NAMES[role] if name in free), None)


def _taken_in_words(role: str, columns: Sequence[str], taken: Mapping[str, str]) -> str:
    """Say which columns with a usual name of a role have another one already."""
    found = [name for name in columns if name in taken and name.lower() in USUAL_NAMES[role]]
    said = [f"{name} is taken by {taken[name]}" for name in found]
    return f": {', '.join(said)}" if said else ""


def _check_named_once(label: str | None, score: Sequence[str], key: Sequence[str], by: Sequence[str]) -> None:
    for option, names in (("--score", score), ("--key", key), ("--by", by)):
        twice = [name for position, name in enumerate(names) if name in names[:position]]
        if twice:
            raise PredictionsError(f"{option} names {twice[0]!r} twice; name each column once")
    if label is not None and label in score:
        raise PredictionsError(f"{label!r} is named both as the label and as a score; they are two columns")
