"""Preference vectors, trained by day on what users were shown and either liked or left. Beyond the paper.

The long-term module of LSTTM learns from what users did alone. Where the log says what they were shown too,
an item that was shown and left says as much. Two-tower models are trained on such exposures; a day's vectors
come from exposures known before the day, and training goes on from the day before, as in
:mod:`graphrec.training.long_term`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor
from torch.nn import functional

from graphrec.models.inputs import InputSizes, NodeFields
from graphrec.models.two_tower import TwoTower, preference_score
from graphrec.training.checkpoint import load_checkpoint, save_checkpoint
from graphrec.training.long_term import LongTermSnapshots
from samplers import NodeType

_ENCODED_ROWS = 8192  # nodes that go through a tower at once: memory


@dataclass(frozen=True, kw_only=True)
class PreferenceConfig:
    """How the two-tower models are built and trained.

    Attributes:
        channels: size of a member's vectors.
        embedding_channels: size of the vector of an ID or field.
        hidden_channels: hidden layer of each tower.
        num_members: towers of different seeds; their scores are averaged.
        epochs: passes over all known exposures on a day on which at least ``refit_share`` of them are new.
        update_epochs: passes over the new exposures on any other day; 0 keeps the vectors.
        refit_share: see ``epochs``.
        learning_rate: of AdamW, falling linearly to zero over a day's training.
        weight_decay: of AdamW, on all weights.
        batch_size: exposures a step.
        id_dropout: share of the IDs that are taken for unknown ones in training, which trains the vectors of
            users and items without exposures.
        random_seed: keys every draw.

    """

    channels: int = 16
    embedding_channels: int = 16
    hidden_channels: int = 64
    num_members: int = 4
    epochs: int = 3
    update_epochs: int = 1
    refit_share: float = 0.25
    learning_rate: float = 2e-3
    weight_decay: float = 0.1
    batch_size: int = 4096
    id_dropout: float = 0.05
    random_seed: int = 0

    def __post_init__(self) -> None:
        if self.num_members < 1 or self.epochs < 1 or self.update_epochs < 0:
            raise ValueError(
                "num_members and epochs must be at least 1 and update_epochs at least 0, got "
                f"{self.num_members}, {self.epochs} and {self.update_epochs}"
            )
        if not 0 <= self.id_dropout < 1:
            raise ValueError(f"id_dropout must lie in [0, 1), got {self.id_dropout}")


@dataclass(frozen=True, eq=False)
class Exposures:
    """Items that users were shown, and whether they liked them; in any order.

    Attributes:
        user, item: rows of the graph.
        label: 1 where the item was liked, 0 where it was left.
        known_time: when the label was known.

    """

    user: Int64[Tensor, " num_exposures"]
    item: Int64[Tensor, " num_exposures"]
    label: Float32[Tensor, " num_exposures"]
    known_time: Int64[Tensor, " num_exposures"]

    def __len__(self) -> int:
        return len(self.label)

    def select(self, rows: Bool[Tensor, " num_exposures"] | Int64[Tensor, " num_rows"]) -> "Exposures":
        """Return the rows of a mask or an index, in that order."""
        return Exposures(self.user[rows], self.item[rows], self.label[rows], self.known_time[rows])

    def to(self, device: torch.device | str) -> "Exposures":
        """Copy to another device."""
        return Exposures(
            self.user.to(device), self.item.to(device), self.label.to(device), self.known_time.to(device)
        )


def train_preference(
    exposures: Exposures,
    fields: Mapping[NodeType, NodeFields],
    sizes: InputSizes,
    days: Sequence[int],
    config: PreferenceConfig,
    *,
    device: torch.device,
    checkpoint: Path | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> tuple[LongTermSnapshots, list[float]]:
    """Train day by day and return the vectors as of each day's start, and the mean loss of each day.

    A node's vector is the members' vectors side by side, each divided by the root of ``num_members``, so that
    a dot product is the mean of the members'; the last column is the mean of their biases. Nodes without an
    exposure so far, and the last row of each type, go through the towers as unknown IDs with their own
    fields. All vectors are zero, and a day's loss is 0, while no exposure is known.

    Args:
        exposures: of all days; those known at or after a day's start are not seen on it.
        fields: codes of all nodes by type, the row of unseen IDs last.
        sizes: numbers of codes of the fields; its ``num_users`` and ``num_items`` are not read.
        days: start of each day, ascending.
        config: sizes and rates.
        device: where the towers are trained.
        checkpoint: written after each day, and resumed from; the result is that of a run without a break.
        on_step: called with (days done, days in all).

    Returns:
        Vectors of (num_days, num_nodes, num_members * channels + 1) by node type, on the CPU, and the losses.

    Raises:
        ValueError: there are no exposures at all, or the days do not rise.

    """
    if list(days) != sorted(set(days)):
        raise ValueError(f"days must be ascending and distinct, got {list(days)}")
    if not len(exposures):
        raise ValueError(
            "preference vectors are learned from items that were shown, and there are none: "
            "leave the option `preference` out on this data set"
        )
    exposures = exposures.to(device)
    fields = {name: value.to(device) for name, value in fields.items()}
    sizes = replace(sizes, num_users=len(fields["user"].codes) - 1, num_items=len(fields["item"].codes) - 1)
    members = [_make_member(sizes, config, number).to(device) for number in range(config.num_members)]
    kept: dict[NodeType, list[Tensor]] = {name: [] for name in fields}
    losses: list[float] = []
    if checkpoint is not None and checkpoint.exists():
        state = load_checkpoint(checkpoint, device=device)
        for member, weights in zip(members, state["members"], strict=True):
            member.load_state_dict(weights)
        losses = state["losses"]
        kept = {name: list(state["vectors"][name].cpu()) for name in fields}
    for index in range(len(losses), len(days)):
        known = exposures.select(exposures.known_time < days[index])
        chosen, epochs = known, config.epochs
        if index:
            new = known.select(known.known_time >= days[index - 1])
            if len(new) < config.refit_share * len(known):
                chosen, epochs = new, config.update_epochs
        loss = 0.0
        if len(chosen) and epochs:
            for number, member in enumerate(members):
                random_seed = _seed(config, number, 1 + index)
                loss += _fit(member, chosen, fields, config, epochs, random_seed) / len(members)
        losses.append(loss)
        for name in fields:
            seen = known.user if name == "user" else known.item
            kept[name].append(_encode(members, name, fields[name], seen).cpu())
        if checkpoint is not None:
            state = {
                "members": [member.state_dict() for member in members],
                "losses": losses,
                "vectors": {name: torch.stack(rows) for name, rows in kept.items()},
            }
            save_checkpoint(checkpoint, state)
        if on_step is not None:
            on_step(index + 1, len(days))
    vectors = {name: torch.stack(rows) for name, rows in kept.items()}
    return LongTermSnapshots(torch.tensor(list(days)), vectors), losses


def _seed(config: PreferenceConfig, member: int, part: int) -> int:
    """Key a member's initial weights (part 0) and its training of each day."""
    return (config.random_seed * 1_000 + member) * 100_003 + part


def _make_member(sizes: InputSizes, config: PreferenceConfig, number: int) -> TwoTower:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_seed(config, number, 0))
        return TwoTower(
            sizes,
            channels=config.channels,
            embedding_channels=config.embedding_channels,
            hidden_channels=config.hidden_channels,
        )


def _fit(
    model: TwoTower,
    exposures: Exposures,
    fields: Mapping[NodeType, NodeFields],
    config: PreferenceConfig,
    epochs: int,
    random_seed: int,
) -> float:
    """Train on the exposures and return the mean loss of the last pass."""
    device = exposures.user.device
    generator = torch.Generator(device=device)
    generator.manual_seed(random_seed)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    steps_of_epoch = -(-len(exposures) // config.batch_size)
    total, step = epochs * steps_of_epoch, 0
    loss_sum = torch.zeros((), device=device)
    for _ in range(epochs):
        loss_sum.zero_()
        for rows in torch.randperm(len(exposures), generator=generator, device=device).split(
            config.batch_size
        ):
            batch = exposures.select(rows)
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * (1 - step / total)
            vectors: dict[str, Any] = {}
            for name, node in (("user", batch.user), ("item", batch.item)):
                dropped = torch.rand(len(rows), generator=generator, device=device) < config.id_dropout
                node_id = node.masked_fill(dropped, model.unknown_id[name])
                vectors[name] = model.encode(name, node_id, fields[name][node])
            loss = functional.binary_cross_entropy_with_logits(
                preference_score(vectors["user"], vectors["item"]), batch.label
            )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            loss_sum += loss.detach() * len(rows)
            step += 1
    return loss_sum.item() / len(exposures)


@torch.no_grad()
def _encode(
    members: Sequence[TwoTower],
    node_type: NodeType,
    fields: NodeFields,
    seen: Int64[Tensor, " num_known"],
) -> Float32[Tensor, "num_nodes channels_and_bias"]:
    """Return the vectors of all nodes; ``seen`` are those of the known exposures, in any order."""
    num_nodes, device = len(fields.codes), fields.codes.device
    node = torch.arange(num_nodes, device=device)
    has_exposure = torch.zeros(num_nodes, dtype=torch.bool, device=device)
    has_exposure[seen] = True
    vectors, biases = [], []
    for member in members:
        node_id = node.where(has_exposure, member.unknown_id[node_type])
        parts = [member.encode(node_type, node_id[rows], fields[rows]) for rows in node.split(_ENCODED_ROWS)]
        encoded = torch.cat(parts)
        vectors.append(encoded[:, :-1] / len(members) ** 0.5)
        biases.append(encoded[:, -1])
    joint = torch.cat([*vectors, torch.stack(biases).mean(dim=0)[:, None]], dim=1)
    # before any training there is nothing to tell
    return joint if len(seen) else torch.zeros_like(joint)
