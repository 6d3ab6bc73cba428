"""What a data set says users were shown and liked or left, and the preference vectors learned from it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import polars as pl
import torch

from experiments.config import BaselineConfig, LSTTMConfig, ModelConfig
from experiments.main_inputs import MainInputs
from experiments.parts import PROTOCOL_VERSION, changed_fields
from experiments.snapshots import locked_checkpoint
from graphrec.training.long_term import LongTermSnapshots
from graphrec.training.preference import Exposures, PreferenceConfig, train_preference


def find_exposures(inputs: MainInputs) -> Exposures:
    """Return all exposures of a data set, by the roles that its inputs name.

    An exposure is a (user, item, time) at which one of the role's ``shown`` relations has an event, however
    often; it is liked where ``liked`` has one too. It is known once all of these events are.

    Raises:
        ValueError: the data set does not say what users were shown.

    """
    if not inputs.exposures:
        raise ValueError(
            f"{inputs.tables.name} does not say what users were shown and left: leave the option "
            "`preference` out on this data set"
        )
    events = inputs.tables.events.frame
    times = [name for name in ("available_time", "time") if name in events.columns]
    events = events.with_columns(pl.col("domain", "behavior").cast(pl.String), known=pl.coalesce(times))
    key = ["user_id", "item_id", "time"]
    parts = []
    for role in inputs.exposures:
        of_role = events.filter(pl.col("domain") == role.domain)
        shown = of_role.filter(pl.col("behavior").is_in(role.shown)).group_by(key, maintain_order=True)
        liked = of_role.filter(pl.col("behavior") == role.liked).group_by(key, maintain_order=True)
        joined = shown.agg(pl.col("known").max()).join(
            liked.agg(liked_known=pl.col("known").max()), on=key, how="left", maintain_order="left"
        )
        parts.append(
            joined.select(
                "user_id",
                "item_id",
                label=pl.col("liked_known").is_not_null().cast(pl.Float32),
                known=pl.max_horizontal("known", "liked_known"),
            )
        )
    found = pl.concat(parts)
    return Exposures(
        user=inputs.graph.ids["user"].rows(found["user_id"]),
        item=inputs.graph.ids["item"].rows(found["item_id"]),
        label=torch.from_numpy(found["label"].to_numpy(writable=True)),
        known_time=torch.from_numpy(found["known"].to_numpy(writable=True)),
    )


def preference_config(model: ModelConfig, seed: int) -> PreferenceConfig | None:
    """Return what the preference vectors that a model reads at a seed are trained by, or None."""
    if not isinstance(model, LSTTMConfig | BaselineConfig) or model.preference is None:
        return None
    return replace(model.preference, random_seed=seed)


def preferences_of(
    inputs: MainInputs,
    model: ModelConfig,
    seed: int,
    *,
    until: int,
    folder: Path,
    device: torch.device,
) -> LongTermSnapshots | None:
    """Return the preference vectors that a model reads at a seed, or None; see :func:`kept_preferences`."""
    config = preference_config(model, seed)
    if config is None:
        return None
    return kept_preferences(inputs, config, until=until, folder=folder, device=device)


def kept_preferences(
    inputs: MainInputs,
    config: PreferenceConfig,
    *,
    until: int,
    folder: Path,
    device: torch.device,
    on_step: Callable[[int, int], None] | None = None,
) -> LongTermSnapshots:
    """Return the preference vectors of every day up to ``until``, from the folder where they are there.

    Several processes may ask for the same ones: one trains them, the others wait.

    Args:
        inputs: the data.
        config: of the two-tower models, their random seed included.
        until: the last day's start.
        folder: where checkpoints are kept.
        device: where the towers are trained.
        on_step: called with (days done, days in all).

    Raises:
        ValueError: the data set does not say what users were shown.

    """
    exposures = find_exposures(inputs)
    content = ["preference", PROTOCOL_VERSION, inputs.fingerprint, until, changed_fields(config)]
    with locked_checkpoint(folder, content) as checkpoint:
        snapshots, _ = train_preference(
            exposures,
            {"user": inputs.data.user_fields, "item": inputs.data.item_fields},
            inputs.sizes,
            list(inputs.snapshot_times(until)),
            config,
            device=device,
            checkpoint=checkpoint,
            on_step=on_step,
        )
    return snapshots
