"""SML's sequential training over periods (Zhang et al., SIGIR 2020, algorithm 1), for any model with tables.

For each period, from the tables ``w`` that the period before left:

1. the model is fitted on the period's rows, which makes ``w'`` of them;
2. the transfer networks are fitted on the next period's rows, which the model scores with the tables that
   they make of ``w`` and ``w'``; these two steps alternate;
3. the networks' output takes the place of the tables.

Biases, dense layers, contexts and first-order weights stay as fitted in step 1. A row that a period did not
touch goes through the networks as well, with ``w' = w``.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from graph_builders.option_checks import check_numbers, check_whole_numbers
from graphrec.models.inputs import ClickBatch
from graphrec.models.sml import SMLTransfer, TableRows
from graphrec.training.checkpoint import load_checkpoint, random_state, restore_random_state, save_checkpoint
from graphrec.training.loop import OptimizerConfig, train

ROWS_AT_ONCE = 1 << 15  # of a table; the hidden layer holds 512 numbers for each


@dataclass(frozen=True, kw_only=True)
class SMLConfig:
    """How the model and the transfer networks take turns.

    Attributes:
        fit: how the model is fitted on a period, in each turn.
        alternations: turns of both steps for each period; the fit goes on from where it was.
        transfer_epochs: passes of the transfer networks over the next period, in each turn.
        transfer_learning_rate: of Adam.
        transfer_weight_decay: the paper's lambda_2.

    """

    fit: OptimizerConfig = OptimizerConfig(epochs=1, decay=False)
    alternations: int = 1
    transfer_epochs: int = 1
    transfer_learning_rate: float = 1e-3
    transfer_weight_decay: float = 0.0

    def __post_init__(self) -> None:
        check_whole_numbers(self, alternations=1, transfer_epochs=0)
        check_numbers(self, ("transfer_learning_rate", "transfer_weight_decay"), least=0)


@dataclass(frozen=True, kw_only=True)
class SMLPoint:
    """Mean losses in the last turn of a period: of the model on it, of the networks on the next one.

    ``transfer_loss`` is that of the networks' last epoch; None for the last period, or without any epoch.
    """

    period: int
    fit_loss: float
    transfer_loss: float | None


def train_sml(
    model: nn.Module,
    transfer: SMLTransfer,
    batches: Callable[[int, int, int], Iterable[ClickBatch]],
    *,
    num_batches: Sequence[int],
    config: SMLConfig,
    device: torch.device,
    checkpoint: Path | None = None,
    on_period: Callable[[int, int], None] | None = None,
) -> list[SMLPoint]:
    """Fit ``model`` and ``transfer`` in place over the periods and return the losses.

    The model ends with the tables transferred from the last period, for which there is no next one. Where
    ``checkpoint`` exists, training goes on behind the last period that it holds, and ends with the same
    weights as a run without a break.

    Args:
        model: returns a logit for each row of a batch, and has ``table_rows``, as ``MFRanker``.
        transfer: its two networks, as wide as the model's tables.
        batches: ``batches(period, epoch, start)`` yields a period's batches from number ``start`` on; an
            epoch has a number of its own in each turn.
        num_batches: batches of each period, in the order of time; periods without any are passed over.
        config: rates and turns.
        device: where the model, the networks and the batches lie.
        checkpoint: file to write after each period and to resume from.
        on_period: called with (periods done, periods in all).

    """
    optimizer = torch.optim.Adam(
        transfer.parameters(), lr=config.transfer_learning_rate, weight_decay=config.transfer_weight_decay
    )
    periods = [period for period, count in enumerate(num_batches) if count]
    points = list[SMLPoint]()
    if checkpoint is not None and checkpoint.exists():
        state = load_checkpoint(checkpoint, device=device)
        model.load_state_dict(state["model"])
        transfer.load_state_dict(state["transfer"])
        optimizer.load_state_dict(state["optimizer"])
        restore_random_state(state["random"], device)
        points = [SMLPoint(**point) for point in state["points"]]
    if on_period is not None:
        on_period(len(points), len(periods))
    for place in range(len(points), len(periods)):
        period = periods[place]
        following = periods[place + 1] if place + 1 < len(periods) else None
        old = copy_tables(model)
        fit_loss, transfer_loss = 0.0, None
        for turn in range(config.alternations):
            first_epoch = turn * config.fit.epochs
            fit_loss = _fit(
                model,
                lambda epoch, start, p=period, e=first_epoch: batches(p, e + epoch, start),  # type: ignore[misc]
                num_batches[period],
                config.fit,
                device,
            )
            if following is None:
                continue
            for epoch in range(turn * config.transfer_epochs, (turn + 1) * config.transfer_epochs):
                transfer_loss = _fit_transfer(
                    model, transfer, old, optimizer, batches(following, epoch, 0), device
                )
        apply_transfer(model, transfer, old)
        points.append(SMLPoint(period=period, fit_loss=fit_loss, transfer_loss=transfer_loss))
        if checkpoint is not None:
            state = {
                "model": model.state_dict(),
                "transfer": transfer.state_dict(),
                "optimizer": optimizer.state_dict(),
                "random": random_state(device),
                "points": [vars(point) for point in points],
            }
            save_checkpoint(checkpoint, state)
        if on_period is not None:
            on_period(place + 1, len(periods))
    model.eval()
    return points


class SMLUpdater:
    """Keeps a model up to date with the periods of one day: a fit on each, then the transfer.

    The networks stay as training left them. It has the form of ``OnlineUpdater``.
    """

    def __init__(
        self, model: nn.Module, transfer: SMLTransfer, fit: OptimizerConfig, *, device: torch.device
    ) -> None:
        self.model, self.transfer, self.config, self.device = model, transfer, fit, device

    def update(self, batches: Iterable[ClickBatch]) -> None:
        """Take in the rows of a period that has ended; a period without rows changes nothing."""
        kept = list(batches)
        if not kept:
            return
        old = copy_tables(self.model)
        _fit(self.model, lambda _, start: kept[start:], len(kept), self.config, self.device)
        apply_transfer(self.model, self.transfer, old)


def copy_tables(model: nn.Module) -> dict[str, Tensor]:
    """Return copies of the tables that are transferred, by the names of their parameters."""
    parameters = dict(model.named_parameters())
    return {rows.parameter: parameters[rows.parameter].detach().clone() for rows in _table_rows(model, None)}


@torch.no_grad()
def apply_transfer(model: nn.Module, transfer: SMLTransfer, old: Mapping[str, Tensor]) -> None:
    """Put the networks' output from ``old`` and the model's tables in the place of these."""
    parameters = dict(model.named_parameters())
    for name, side, row in _table_rows(model, None):
        for part in row.split(ROWS_AT_ONCE):
            table = parameters[name]
            table[part] = transfer(side, old[name][part], table[part])


def transferred_tables(
    model: nn.Module, transfer: SMLTransfer, old: Mapping[str, Tensor], batch: ClickBatch
) -> dict[str, Tensor]:
    """Return the tables with the rows that ``batch`` reads transferred, as a function of the networks."""
    parameters = dict(model.named_parameters())
    tables = {}
    for name, side, row in _table_rows(model, batch):
        fitted = parameters[name].detach()
        tables[name] = fitted.index_copy(0, row, transfer(side, old[name][row], fitted[row]))
    return tables


def _table_rows(model: nn.Module, batch: ClickBatch | None) -> list[TableRows]:
    if not hasattr(model, "table_rows"):
        raise ValueError(
            f"{type(model).__name__} does not say which tables SML transfers: give it a method `table_rows`, "
            "as MFRanker has"
        )
    found: list[TableRows] = model.table_rows(batch)  # type: ignore[operator]
    return found


def _fit(
    model: nn.Module,
    batches: Callable[[int, int], Iterable[ClickBatch]],
    num_batches: int,
    config: OptimizerConfig,
    device: torch.device,
) -> float:
    """Fit the model on a period, with an optimiser of its own, and return the mean loss."""
    num_steps = config.epochs * num_batches
    curve = train(model, batches, num_batches=num_batches, config=config, device=device, log_every=num_steps)
    return curve[-1].loss


def _fit_transfer(
    model: nn.Module,
    transfer: SMLTransfer,
    old: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    batches: Iterable[ClickBatch],
    device: torch.device,
) -> float:
    """Fit the networks on the next period's rows and return the mean loss; the model's dropout is off."""
    model.eval()
    weights = list(transfer.parameters())
    losses = []
    for batch in batches:
        batch = batch.to(device)
        logit = functional_call(model, transferred_tables(model, transfer, old, batch), (batch,))
        loss = functional.binary_cross_entropy_with_logits(logit, batch.label)
        optimizer.zero_grad(set_to_none=True)
        loss.backward(inputs=weights)
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses).mean().item()
