"""Temporal MAML over any click model: LSTTM (Xie et al., WSDM 2022), Algorithm 1; MAML (Finn et al., 2017).

For each task, weights take a step of gradient descent on the support rows (an hour), and the loss of the
adapted weights on the query rows (the next hour) is what the outer step descends.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.dropout import _DropoutNd

from graphrec.nn.neighbor_attention import twice_differentiable
from graphrec.nn.precision import precision_region
from graphrec.training.loop import OptimizerConfig, TrainingPoint, click_loss, train_steps
from graphrec.training.meta_tasks import MetaConfig, MetaTask
from graphrec.training.parameters import descent_rates
from graphrec.training.touched_rows import touched_rows

OUTER_OPTIMIZER = OptimizerConfig(
    name="adagrad", learning_rate=0.01, embedding_learning_rate=0.01, weight_decay=0.0, decay=False
)
Weights = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class TaskGradient:
    """A task's query loss at the adapted weights, and its gradient at the weights before the adaptation.

    Attributes:
        loss: mean over the query rows.
        gradient: by parameter name; for a table, of its touched rows alone.
        row: which rows these are, for each such table.

    """

    loss: Float[Tensor, ""]
    gradient: dict[str, Tensor]
    row: dict[str, Int64[Tensor, " _"]]


def task_gradient(
    model: nn.Module,
    task: MetaTask,
    config: MetaConfig,
    *,
    pair_weight: float = 0.0,
    mixed_precision: bool = False,
) -> TaskGradient:
    r"""Differentiate a task's query loss through its inner steps (``order`` 2) or past them (1).

    .. math::
        \theta' = \theta - \alpha \nabla L_{support}(\theta), \qquad
        g_2 = (I - \alpha \nabla^2 L_{support}(\theta))\, \nabla L_{query}(\theta'), \qquad
        g_1 = \nabla L_{query}(\theta')

    With ``pair_weight`` the query loss is that of ``loop.click_loss`` with it; the support loss is not. With
    ``mixed_precision`` the model's products of both are bfloat16; weights, steps and losses are float32.
    The model is left in evaluation mode, its weights and buffers as they were.
    """
    adapter = _Adapter(model, task, config, pair_weight, mixed_precision)
    weights = adapter.touched.gather(model)
    if config.order == 2:
        # torch's fused attention has no second derivative, its plain one has
        with twice_differentiable(), sdpa_kernel(SDPBackend.MATH), _told_of_first_order():
            gradient, loss = torch.func.grad_and_value(lambda w: adapter.query_loss(adapter.adapt(w)))(
                weights
            )
    else:
        gradient, loss = torch.func.grad_and_value(adapter.query_loss)(adapter.adapt(weights))
    return TaskGradient(loss, gradient, adapter.touched.row)


@torch.no_grad()
def adapted_loss(model: nn.Module, task: MetaTask, config: MetaConfig) -> Float[Tensor, ""]:
    """Return the mean loss of the query rows after the inner steps on the support rows, without dropout."""
    adapter = _Adapter(model, task, config)
    return adapter.loss(adapter.adapt(adapter.touched.gather(model)), task.query, 1)


def train_meta(
    model: nn.Module,
    batches: Callable[[int, int], Iterable[Sequence[MetaTask]]],
    *,
    num_batches: int,
    meta: MetaConfig,
    config: OptimizerConfig = OUTER_OPTIMIZER,
    device: torch.device,
    checkpoint: Path | None = None,
    checkpoint_every: int = 100,
    log_every: int = 25,
    on_step: Callable[[int, int], None] | None = None,
) -> list[TrainingPoint]:
    """Fit ``model`` in place by temporal MAML and return the curve of the query losses after adaptation.

    An outer step descends the mean of the tasks' query losses. (Algorithm 1 has their sum; Adagrad's and
    AdamW's steps are the same for both.) With Adagrad and no decay of the tables, their gradients are
    sparse, so that a step takes the time of the rows it touches.

    Args:
        model: returns a logit for each row of a batch.
        batches: ``MetaTasks.batches``, or another function of (epoch, start) that yields batches of tasks.
        num_batches: batches an epoch.
        meta: the inner step.
        config: the outer optimiser, schedule and number of epochs; its ``batch_size`` is not read.
        device: where the model lies; tasks are moved there.
        checkpoint: file to write and to resume from, as in ``loop.train``.
        checkpoint_every: steps between checkpoints.
        log_every: steps that a point of the curve averages.
        on_step: called with (steps done, steps in all), for progress.

    """
    if config.accumulate > 1:
        raise ValueError(
            f"accumulate={config.accumulate} is for batches of rows: a step of temporal MAML averages over "
            "its tasks one by one already, so give it more of them"
        )
    sparse = config.name == "adagrad" and not config.embedding_weight_decay

    def backward(tasks: Sequence[MetaTask]) -> Tensor:
        if not tasks:
            raise ValueError("a batch of tasks is empty: leave it out")
        moved = [MetaTask(task.support.to(device), task.query.to(device)) for task in tasks]
        return meta_backward(
            model,
            moved,
            meta,
            sparse=sparse,
            pair_weight=config.pair_weight,
            mixed_precision=config.mixed_precision,
        )

    return train_steps(
        model,
        batches,
        backward,
        num_batches=num_batches,
        config=config,
        device=device,
        checkpoint=checkpoint,
        checkpoint_every=checkpoint_every,
        log_every=log_every,
        on_step=on_step,
    )


def meta_backward(
    model: nn.Module,
    tasks: Sequence[MetaTask],
    config: MetaConfig,
    *,
    sparse: bool = False,
    pair_weight: float = 0.0,
    mixed_precision: bool = False,
) -> Float[Tensor, ""]:
    """Set ``grad`` of each trainable parameter to the mean over the tasks, and return their mean loss.

    Args:
        model: on the tasks' device.
        tasks: one task or more.
        config: the inner step.
        sparse: gradients of tables as sparse tensors of the touched rows.
        pair_weight: weight of the order of a user's query rows, as in ``OptimizerConfig``.
        mixed_precision: the model's products in bfloat16, as in ``OptimizerConfig``.

    """
    found = [
        task_gradient(model, task, config, pair_weight=pair_weight, mixed_precision=mixed_precision)
        for task in tasks
    ]
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parts = [(one.row.get(name), one.gradient[name] / len(found)) for one in found]
            parameter.grad = _sum_of_rows(parameter, parts, sparse)
    return torch.stack([one.loss for one in found]).mean()


class _Adapter:
    """The losses of one task as functions of the fast weights."""

    def __init__(
        self,
        model: nn.Module,
        task: MetaTask,
        config: MetaConfig,
        pair_weight: float = 0.0,
        mixed_precision: bool = False,
    ) -> None:
        self.model, self.task, self.config = model.eval(), task, config
        self.pair_weight, self.mixed_precision = pair_weight, mixed_precision
        self.touched = touched_rows(model, [task.support, task.query])
        self.rates = descent_rates(
            model,
            learning_rate=config.learning_rate,
            embedding_learning_rate=config.embedding_learning_rate,
        )

    def loss(self, weights: Weights, batch: Any, number: int, pair_weight: float = 0.0) -> Tensor:
        """Mean loss of a batch; ``number`` is 0 for the support rows and 1 for the query rows."""
        # inside of torch.func's transforms, whose backward passes so lie outside of the region
        with precision_region(batch.label.device, mixed=self.mixed_precision):
            return click_loss(
                lambda rows: self.touched.logits(self.model, weights, rows, number),
                batch,
                pair_weight=pair_weight,
            )

    def adapt(self, weights: Weights) -> Weights:
        """Descend the support loss."""
        for _ in range(self.config.inner_steps):
            gradient = torch.func.grad(self.loss)(weights, self.task.support, 0)
            weights = {name: value - self.rates[name] * gradient[name] for name, value in weights.items()}
        return weights

    def query_loss(self, weights: Weights) -> Tensor:
        """Loss to descend in the outer step, with dropout if the configuration says so."""
        with _dropout(self.model, self.config.dropout):
            return self.loss(weights, self.task.query, 1, self.pair_weight)


@contextmanager
def _told_of_first_order() -> Iterator[None]:
    """Add a remedy to torch's words about a layer without second derivatives."""
    try:
        yield
    except RuntimeError as error:  # NotImplementedError is one as well
        if "derivative" in str(error) or isinstance(error, NotImplementedError):
            error.add_note("MetaConfig(order=1) needs no second derivatives")
        raise


@contextmanager
def _dropout(model: nn.Module, on: bool) -> Iterator[None]:
    """Switch dropout layers alone to training, so that other layers' buffers stay frozen."""
    layers = [layer for layer in model.modules() if on and isinstance(layer, _DropoutNd)]
    for layer in layers:
        layer.train()
    try:
        yield
    finally:
        for layer in layers:
            layer.eval()


def _sum_of_rows(parameter: Tensor, parts: Sequence[tuple[Tensor | None, Tensor]], sparse: bool) -> Tensor:
    """Add up gradients of the whole parameter, and of some of its rows."""
    rows = [row for row, _ in parts if row is not None]
    if sparse and len(rows) == len(parts):
        value = torch.cat([value for _, value in parts])
        # says out loud that checks stay as they are, here and in Adagrad: torch warns where nobody says so
        checks = torch.sparse.check_sparse_tensor_invariants
        with checks(enable=checks.is_enabled()):  # type: ignore[no-untyped-call]
            return torch.sparse_coo_tensor(torch.cat(rows)[None], value, parameter.shape)
    total = torch.zeros_like(parameter)
    for row, value in parts:
        if row is None:
            total += value
        else:
            total.index_add_(0, row, value)
    return total
