"""KuaiRand-Pure as the experiments read it: the graph, fields and past counts."""

from dataclasses import replace

import polars as pl
import torch
from torch import Tensor

from experiments.main_inputs import AsOf, ExposureRole, MainInputs, fingerprint
from graph_builders.behavior_graph import Relation, build_behavior_graph
from graph_builders.datasets import DatasetTables, load_kuairand_pure
from graph_builders.ids import IdMap
from graph_builders.past_counts import CountedEvents, CountFeatures, past_counts
from graph_builders.splits import Impressions, build_impressions, period_start
from graphrec.training.click_inputs import click_inputs

HOUR = 3_600_000  # the data's times are milliseconds
USER_FIELDS = (*(f"onehot_feat{i}" for i in range(18)), "registration_day")
ITEM_FIELDS = ("author_id", "video_type", "upload_type", "music_type", "video_duration")
ITEM_BAG = "tag"
DURATION_EDGES = (7_000, 12_000, 20_000, 40_000, 60_000, 100_000, 200_000)  # ms
ROLES = {(d, b): Relation(d, b) for d in ("internal", "external") for b in ("click", "skip")}
SEQUENCES = {
    "internal": (Relation("internal", "click"),),
    "external": (Relation("external", "click"), Relation("early", "long_watch")),
}
LONG_TERM_BEHAVIORS = ("click", "like", "long_view", "long_watch")
EXPOSURES = (ExposureRole("early", ("impression",), "long_watch"),)
EARLY = {"early_shown": "impression", "early_long_watch": "long_watch", "early_like": "like"}


def kuairand_inputs(period_hours: int = 1, path: str | None = None, *, as_of: AsOf = "period") -> MainInputs:
    """Load KuaiRand-Pure and compute everything that is the same for all models, seeds and test days.

    Args:
        period_hours: length of a period.
        path: folder of the data, default the embedded copy.
        as_of: the start of the "period" for all queries in it, or the own time of each "query".

    """
    period = period_hours * HOUR
    tables = load_kuairand_pure(path, include_exposures=True)
    graph = build_behavior_graph(tables.events, user_table=tables.user_table, item_table=tables.item_table)
    user_ids, item_ids = graph.ids["user"], graph.ids["item"]
    impressions = build_impressions(
        tables.impressions,
        user_ids=user_ids,
        item_ids=item_ids,
        context=tables.contexts,
        time_resolution=tables.time_resolution,
    )
    offset = int(tables.utc_offset_hours * HOUR)
    start = period_start(impressions.time, period, utc_offset=offset)
    known = start if as_of == "period" else impressions.time
    # the context of a query is that of its period: the hour in which the period starts
    hour = (start + offset) // HOUR % 24
    data, sizes = click_inputs(
        graph,
        impressions,
        period=period,
        as_of=known,
        user_fields=USER_FIELDS,
        item_fields=ITEM_FIELDS,
        item_bag=ITEM_BAG,
        context=hour[:, None],
    )
    names, counts = _past_counts(tables, impressions, known, user_ids, item_ids)
    static = torch.cat(
        [
            hour[:, None],
            data.user_fields.codes[impressions.user],
            data.item_fields.codes[impressions.item][:, 1:],  # an author's code means nothing as a number
            data.item_fields.bag[impressions.item][:, :1],
        ],
        dim=1,
    )
    return MainInputs(
        tables=tables,
        data=replace(data, dense=counts),
        feature_names=names,
        static=static.float(),
        static_names=["hour", *USER_FIELDS, *ITEM_FIELDS[1:], "first_tag"],
        sizes=sizes,
        graph=graph,
        fingerprint=fingerprint(tables.events.frame, impressions),
        period=period,
        window=24 * HOUR,
        snapshot_every=24 * HOUR,
        roles=ROLES,
        sequences=SEQUENCES,
        long_term_behaviors=LONG_TERM_BEHAVIORS,
        exposures=EXPOSURES,
        as_of=as_of,
    )


def _past_counts(
    tables: DatasetTables, impressions: Impressions, as_of: Tensor, user_ids: IdMap, item_ids: IdMap
) -> tuple[list[str], Tensor]:
    """Count the past of users, items, authors, tags, tabs and pairs of them."""
    table = tables.item_table
    assert table is not None
    row = item_ids.rows(table["item_id"])
    attribute = torch.zeros(item_ids.num_rows, 3, dtype=torch.int64) - 1
    tag = table["tag"].list.first().cast(pl.Int64)
    duration = torch.bucketize(
        torch.from_numpy(table["video_duration"].fill_null(0).to_numpy().copy()),
        torch.tensor(DURATION_EDGES).float(),
    )
    attribute[row] = torch.stack(
        [
            torch.from_numpy(table["author_id"].cast(pl.Int64).fill_null(-1).to_numpy().copy()),
            torch.from_numpy(tag.fill_null(-1).to_numpy().copy()),
            duration,
        ],
        dim=1,
    )

    def columns(user: Tensor, item: Tensor, tab: Tensor) -> dict[str, Tensor]:
        author, first_tag, length = attribute[item].T
        return {
            "user": user,
            "item": item,
            "author": author,
            "tag": first_tag,
            "duration": length,
            "tab": tab,
        }

    def counted(frame: pl.DataFrame) -> CountedEvents:
        tab = torch.from_numpy(frame["tab"].cast(pl.Int64).fill_null(-1).to_numpy().copy())
        return CountedEvents(
            columns=columns(user_ids.rows(frame["user_id"]), item_ids.rows(frame["item_id"]), tab),
            known_time=torch.from_numpy(frame["available_time"].to_numpy().copy()),
        )

    frame = tables.events.frame.with_columns(
        available_time=pl.col("available_time").fill_null(pl.col("time"))
    )
    early = frame.filter(pl.col("domain") == "early")
    log = frame.filter(pl.col("domain") != "early")
    events = {
        # shown where a click means something, and shown anywhere: of the one come clicks, of the other plays
        "shown": counted(log.filter(pl.col("behavior").cast(pl.String).is_in(["click", "skip"]))),
        "impression": counted(log.filter(pl.col("behavior") == "impression")),
        "click": counted(log.filter(pl.col("behavior") == "click")),
        "long_view": counted(log.filter(pl.col("behavior") == "long_view")),
    }
    events |= {name: counted(early.filter(pl.col("behavior") == b)) for name, b in EARLY.items()}
    rates = (("click", "shown"), ("long_view", "impression"))
    windows = (None, 24 * HOUR, 6 * HOUR)

    def recent(
        *key: str, windows: tuple[int | None, ...] = windows, recency: tuple[str, ...] = ()
    ) -> CountFeatures:
        return CountFeatures(key=key, behaviors=("shown",), windows=windows, rates=rates, recency=recency)

    both = ("shown", "click")
    features = [
        recent("user", recency=both),
        recent("item", recency=both),
        recent("author", recency=both),
        recent("tag"),
        recent("duration"),
        recent("tab"),
        recent("user", "tab", windows=(None,), recency=both),
        recent("item", "tab", windows=(None,)),
        recent("user", "author", windows=(None,), recency=both),
        recent("user", "tag", recency=both),
        recent("user", "duration"),
        recent("tag", "duration"),
        recent("user", "item", windows=(None,), recency=("shown",)),
        CountFeatures(
            key=("user",),
            behaviors=tuple(EARLY),
            rates=(("early_long_watch", "early_shown"),),
            recency=("early_shown",),
        ),
        *(
            CountFeatures(key=key, behaviors=tuple(EARLY), rates=(("early_long_watch", "early_shown"),))
            for key in (("item",), ("author",), ("tag",), ("user", "tag"), ("user", "duration"))
        ),
        *(CountFeatures(key=key, behaviors=tuple(EARLY)) for key in (("user", "item"), ("user", "author"))),
    ]
    query = columns(impressions.user, impressions.item, impressions.context["tab"])
    names, values = past_counts(events, query, as_of, features)
    # known with the sequence that it is the length of
    assert tables.user_table is not None
    length = torch.full((user_ids.num_rows,), torch.nan)
    found = tables.user_table["early_history_len"].cast(pl.Float32).fill_null(float("nan")).to_numpy().copy()
    length[user_ids.rows(tables.user_table["user_id"])] = torch.from_numpy(found)
    known = ~values[:, names.index("user:since[early_shown]")].isnan()
    length = torch.where(known, length[impressions.user], torch.nan)
    share = values[:, names.index("user:count[early_long_watch]")] / length
    return [*names, "user:early_history_len", "user:early_long_watch_share"], torch.cat(
        [values, length[:, None], share[:, None]], dim=1
    )
