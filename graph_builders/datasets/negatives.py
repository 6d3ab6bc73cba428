"""Impressions for data without impressions: events are positives, negatives are sampled as of their time."""

from dataclasses import dataclass
from typing import Literal

import polars as pl
import torch

from graph_builders.ids import IdMap
from samplers import NegativeSampler, TemporalCSR


@dataclass(frozen=True, eq=False)
class SampledImpressions:
    """What :func:`sample_impressions` returns.

    Attributes:
        frame: ``user_id``, ``item_id``, ``time``, ``label`` (Float32), by time, then user, then item: the
            order says nothing about the label.
        num_events: events given.
        num_left_out: events that are no positives, since their item has no earlier event.
        num_missing: negatives that could not be drawn, since too few items existed.

    """

    frame: pl.DataFrame
    num_events: int
    num_left_out: int
    num_missing: int


def sample_impressions(
    events: pl.DataFrame,
    *,
    num_negatives: int,
    distribution: Literal["uniform", "popularity"] = "uniform",
    random_seed: int = 0,
) -> SampledImpressions:
    """Put ``num_negatives`` sampled items beside each event, with nothing known that comes at or after it.

    Events of one user at one time are one group: their order is unknown where times are days, so none of
    them may be a negative of another, and their negatives are drawn together, without replacement.

    An item exists for a query if it has an event before the query's time, by whomever. The same rule holds
    for both labels: an item's first events are no positives, for a model could tell them from negatives by
    their empty history alone. They are left out and counted. Of the user's items only those at or before the
    query's time are known; what is bought later may be drawn as a negative, as in service.

    Args:
        events: ``user_id``, ``item_id`` and ``time`` of the positives of one domain.
        num_negatives: for each positive.
        distribution: "uniform" over the items that exist, or "popularity": by (number of earlier events) to
            the power 0.75. Under "uniform", popularity alone tells positives from negatives well.
        random_seed: a group's draws depend on it, the user, the time and what is known by then alone.

    Raises:
        ValueError: ``num_negatives`` is not positive.

    """
    if num_negatives < 1:
        raise ValueError(f"num_negatives must be at least 1, got {num_negatives}")
    # rows are then numbered by first appearance in time: no key of a draw depends on what comes later
    events = events.sort("time", "user_id", "item_id")
    user_ids, user = IdMap.build_with_rows(events["user_id"])
    item_ids, item = IdMap.build_with_rows(events["item_id"])
    time = torch.from_numpy(events["time"].cast(pl.Int64).to_numpy().copy())
    latest = torch.iinfo(torch.int64).max
    first_time = torch.full((item_ids.num_ids,), latest).scatter_reduce(0, item, time, "amin")
    num_rows = {"user": user_ids.num_ids, "item": item_ids.num_ids}
    edge_index = torch.stack([user, item])
    sampler = NegativeSampler(
        TemporalCSR.from_edge_index(
            edge_index, time, num_rows=num_rows["user"], num_cols=num_rows["item"], row="source"
        ),
        num_items=num_rows["item"],
        distribution=distribution,
        item_csr=TemporalCSR.from_edge_index(
            edge_index, time, num_rows=num_rows["item"], num_cols=num_rows["user"], row="destination"
        ),
        catalogue_time=first_time + 1,  # it exists AFTER its first event: the sampler's bound is inclusive
        random_seed=random_seed,
    )
    rows = pl.DataFrame(
        {
            "user": user.numpy(),
            "item": item.numpy(),
            "time": time.numpy(),
            "is_positive": (time > first_time[item]).numpy(),
        }
    )
    groups = (
        rows.group_by("user", "time", maintain_order=True)
        .agg(pl.col("item").unique().sort(), num_positives=pl.col("item").filter("is_positive").n_unique())
        .filter(pl.col("num_positives") > 0)
    )
    drawn = _draw(sampler, groups, num_negatives)
    positives = rows.filter("is_positive").select("user", "item", "time").unique()
    labelled = pl.concat([positives.with_columns(label=pl.lit(1.0)), drawn.with_columns(label=pl.lit(0.0))])
    frame = labelled.select(
        user_ids.id_series.gather(labelled["user"]).alias("user_id"),
        item_ids.id_series.gather(labelled["item"]).alias("item_id"),
        "time",
        pl.col("label").cast(pl.Float32),
    ).sort("time", "user_id", "item_id")
    return SampledImpressions(
        frame=frame,
        num_events=rows.height,
        num_left_out=rows.height - int(rows["is_positive"].sum()),
        num_missing=positives.height * num_negatives - drawn.height,
    )


def _draw(sampler: NegativeSampler, groups: pl.DataFrame, num_negatives: int) -> pl.DataFrame:
    """Draw distinct negatives for each (user, time): ``num_negatives`` times its positives, if there are."""
    columns = {"user": pl.Int64, "item": pl.Int64, "time": pl.Int64}
    parts = [pl.DataFrame(schema=columns)]
    # groups of one size together: a few dozen calls, each without padding
    for group in groups.with_columns(size=pl.col("item").list.len()).partition_by("num_positives", "size"):
        num_wanted = num_negatives * int(group["num_positives"][0])
        user, time = (torch.from_numpy(group[name].to_numpy().copy()) for name in ("user", "time"))
        own = torch.from_numpy(group["item"].explode().to_numpy().copy()).view(len(group), -1)
        # the sampler draws with replacement: draw more, and keep the first distinct ones
        negative, mask = sampler.sample(user, time, 2 * num_wanted + 8, positive=own)
        place, _ = mask.nonzero(as_tuple=True)
        distinct = pl.DataFrame({"place": place.numpy(), "item": negative[mask].numpy()}).unique(
            maintain_order=True
        )
        kept = distinct.filter(pl.int_range(pl.len()).over("place") < num_wanted)
        parts.append(
            kept.select(group["user"].gather(kept["place"]), "item", group["time"].gather(kept["place"]))
        )
    return pl.concat(parts)
