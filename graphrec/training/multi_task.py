"""One shared encoder and many tasks: training over data sets of different sizes, transfer, new days.

Ni et al., "Perceive Your Users in Depth", KDD 2018 (DUPN), the sections on multi-task learning, transfer and
incremental updating. The paper names neither task weights nor how batches of the tasks alternate: both are
options here. The encoder is any module from prepared inputs to (num_queries, out_channels): DUPN, or any
``NodeEncoder``, whose prepared inputs have ``take`` and ``to``::

    model = MultiTaskModel(dupn, {"click": PairHead(...), "duration": ClassHead(...)})
    fit_tasks(model, {"click": clicks, "duration": durations}, fit_until=..., checkpoint=Path("ten_days.pt"))
    score = score_task(model, "click", clicks_of_the_next_day)
    fit_tasks(model, next_day, fit_until=..., start=Path("ten_days.pt"), checkpoint=Path("day_11.pt"))
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from numbers import Real
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from graph_builders.option_checks import check_choices, check_whole_numbers
from graphrec.encoders.fit_until import FittedUntil, move_fit_until
from graphrec.models.dupn_heads import TaskHead, TaskRows
from graphrec.nn.precision import at_least_float32, precision_region
from graphrec.training.checkpoint import (
    check_made_from,
    check_parts,
    digest_of_tensors,
    load_checkpoint,
    random_state,
    save_checkpoint,
    shape_of_model,
)
from graphrec.training.loop import OptimizerConfig, TrainingPoint, train_steps
from samplers import keyed_uniform

Transfer = Literal["representation", "fine-tune", "single", "all"]


def _paper_optimizer() -> OptimizerConfig:
    return OptimizerConfig(
        name="adagrad",
        learning_rate=1e-3,
        embedding_learning_rate=1e-3,
        weight_decay=1e-6,
        decay=False,
        epochs=1,
        batch_size=1024,
    )


@dataclass(frozen=True, kw_only=True)
class MultiTaskConfig:
    """How several tasks are learned together.

    Attributes:
        interleaving: in which order tasks take steps. "proportional": an epoch has every row of every task
            once, and the tasks' batches come in a drawn order, so a task takes steps in proportion to its
            size. "in turn": one step of each task after the other; an epoch ends when the task with the most
            batches is through, and smaller ones begin anew, in a new order, as often as needed. "together":
            the same, but each step takes a batch of every task and sums their losses.
        task_weights: of the tasks' losses by name; 1 where a task has none.
        optimizer: default: the paper's Adagrad at 0.001 and batches of 1,024 rows, a small L2 on all
            but embeddings, one epoch. ``batch_size`` is that of each task; ``pair_weight`` has no meaning.
        random_seed: of orders and dropout. A task's order does not depend on the other tasks.

    """

    interleaving: Literal["proportional", "in turn", "together"] = "proportional"
    task_weights: Mapping[str, float] = field(default_factory=dict)
    optimizer: OptimizerConfig = field(default_factory=_paper_optimizer)
    random_seed: int = 0

    def __post_init__(self) -> None:
        check_choices(self)
        check_whole_numbers(self, random_seed=0)
        if self.optimizer.pair_weight:
            raise ValueError("MultiTaskConfig.optimizer.pair_weight is for click models alone: leave it at 0")
        wrong = {
            name: value
            for name, value in self.task_weights.items()
            if not isinstance(value, Real) or not 0 <= value < float("inf")
        }
        if wrong:
            raise ValueError(
                f"MultiTaskConfig.task_weights must be finite numbers of at least 0, got {wrong}"
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class TaskData:
    """A task's rows and the inputs of its queries.

    Attributes:
        inputs: what the encoder reads of each query: prepared, with ``take`` and ``to``. Several tasks may
            hold the same object.
        time: of each query.
        rows: what is asked, with labels.
        known_time: when each row's label became known, at its query's time or later.

    Raises:
        ValueError: numbers of queries or rows differ, times are not int64, a row's query does not exist, a
            weight is negative or not finite, or a label is known before its query.

    """

    inputs: Any
    time: Int64[Tensor, " num_queries"]
    rows: TaskRows
    known_time: Int64[Tensor, " num_rows"]

    def __post_init__(self) -> None:
        num_queries, query = len(self.time), self.rows.query
        if len(self.inputs) != num_queries or len(self.known_time) != len(query):
            raise ValueError(
                f"each query needs inputs and a time, each row a known_time: got {len(self.inputs)} "
                f"inputs for {num_queries} queries, {len(self.known_time)} times for {len(query)} rows"
            )
        lengths = {name: len(value) for name, value in vars(self.rows).items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"each row has a value of everything, got numbers of rows {lengths}")
        times = (self.time, self.known_time, query)
        if any(value.dtype != torch.int64 for value in times):
            raise ValueError(
                "times and numbers of queries must be int64, got "
                f"{[str(value.dtype) for value in times]} of time, known_time and rows.query"
            )
        weight = self.rows.weight
        wrong = (~(weight.isfinite() & (weight >= 0))).nonzero().flatten()
        if len(wrong):
            raise ValueError(
                f"weights must be finite and at least 0, got {float(weight[wrong[0]]):g} in row "
                f"{int(wrong[0])} and {len(wrong) - 1} other wrong ones"
            )
        if len(query) and not 0 <= int(query.min()) <= int(query.max()) < num_queries:
            raise ValueError(
                f"rows name queries {int(query.min())} to {int(query.max())} of {num_queries}: number them "
                "from 0"
            )
        early = (self.known_time < self.time[query]).nonzero().flatten()
        if len(early):
            raise ValueError(
                f"the label of row {int(early[0])} and {len(early) - 1} others is known before its query "
                "is asked: such a query could read it from the history"
            )

    def take(self, row: Int64[Tensor, " num_taken"]) -> "TaskData":
        """Return the given rows, in that order; the inputs stay whole and are shared."""
        return replace(self, rows=self.rows.take(row), known_time=self.known_time[row])

    def between(self, start: int, end: int, *, known_before: int | None = None) -> "TaskData":
        """Return the rows whose query lies in [start, end), with a label that was known before a time."""
        time = self.time[self.rows.query]
        kept = (time >= start) & (time < end)
        if known_before is not None:
            kept &= self.known_time < known_before
        return self.take(kept.nonzero().flatten())


@dataclass(frozen=True, eq=False)
class GivenVectors:
    """Representations in the place of an encoder's inputs: of a frozen encoder, computed once."""

    vector: Float[Tensor, "num_queries channels"]

    def __len__(self) -> int:
        return len(self.vector)

    def take(self, query: Int64[Tensor, " num_taken"]) -> "GivenVectors":
        """Return those of the given queries."""
        return GivenVectors(self.vector[query])

    def to(self, device: torch.device | str) -> "GivenVectors":
        """Copy to another device."""
        return GivenVectors(self.vector.to(device))


class MultiTaskModel(FittedUntil):
    r"""A shared encoder and a head for each task; it knows until when any of them was fitted.

    With ``uncertainty``, losses are weighted by learned variances (Kendall et al., "Multi-task learning using
    uncertainty to weigh losses", CVPR 2018, equation 10 for classification):

    .. math:: L = \sum_k e^{-s_k} L_k + \tfrac{1}{2} s_k, \qquad s_k = \log \sigma_k^2

    Args:
        encoder: from prepared inputs to vectors, with ``out_channels``.
        heads: of the tasks, by name; a name without a dot, and not of an attribute such as "keys".
        learned_queries: tasks whose query is a learned vector, for they have no fields of one. The encoder
            takes it as a second argument, as :class:`~graphrec.encoders.dupn.DUPN` does.
        query_channels: of these vectors: the encoder's ``query_channels``.
        uncertainty: see above; variances begin at 1. The optimiser's L2 reaches them as well.

    Raises:
        ValueError: there is no head, a name cannot be one, or a learned query is of no task or has no
            channels.

    """

    def __init__(
        self,
        encoder: nn.Module,
        heads: Mapping[str, TaskHead],
        *,
        learned_queries: Sequence[str] = (),
        query_channels: int = 0,
        uncertainty: bool = False,
    ) -> None:
        super().__init__()
        unknown = sorted(set(learned_queries) - set(heads))
        if not heads or unknown or (learned_queries and query_channels < 1):
            raise ValueError(
                f"a model needs a head, and learned queries need tasks and channels: got heads "
                f"{list(heads)}, learned queries of unknown tasks {unknown}, {query_channels} channels"
            )
        taken = [(nn.ModuleDict(), heads), (nn.ParameterDict(), learned_queries)]
        wrong = [
            name
            for of_torch, names in taken
            for name in names
            if not isinstance(name, str) or not name or "." in name or hasattr(of_torch, name)
        ]
        if wrong:
            raise ValueError(
                f"{wrong} cannot be names of tasks: take others, words without a dot that torch's "
                "dictionaries do not have as attributes"
            )
        self.encoder, self.heads = encoder, nn.ModuleDict(dict(heads))
        # normal as the embeddings of a query's fields: zeros would make all tasks ask the same
        self.query = nn.ParameterDict(
            {name: nn.Parameter(0.05 * torch.randn(query_channels)) for name in learned_queries}
        )
        self.log_variance = nn.Parameter(torch.zeros(len(heads))) if uncertainty else None

    def represent(self, name: str, inputs: Any) -> Tensor:
        """Return the representation of each query for a task; (num_queries, out_channels)."""
        if isinstance(inputs, GivenVectors):
            return inputs.vector
        vector: Tensor
        if name in self.query:
            vector = self.encoder(inputs, self.query[name].expand(len(inputs), -1))
        else:
            vector = self.encoder(inputs)
        return vector

    def forward(self, name: str, inputs: Any, rows: TaskRows) -> Tensor:
        """Return a task's logits for rows of the given inputs.

        Args:
            name: of the task.
            inputs: of the queries, on the model's device: each is encoded once.
            rows: whose ``query`` names inputs by number.

        """
        logit: Tensor = self.heads[name](self.represent(name, inputs)[rows.query], rows)
        return logit

    def weighted(self, name: str, loss: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """Return a task's loss as its uncertainty weighs it, or as it is without ``uncertainty``."""
        if self.log_variance is None:
            return loss
        log_variance = self.log_variance[list(self.heads).index(name)]
        return torch.exp(-log_variance) * loss + log_variance / 2

    def freeze_encoder(self) -> None:
        """Leave encoder and learned queries as they are in training: only heads are fitted."""
        self.encoder.requires_grad_(False)
        self.query.requires_grad_(False)

    @property
    def is_frozen(self) -> bool:
        """Whether heads alone are fitted."""
        return not any(p.requires_grad for part in (self.encoder, self.query) for p in part.parameters())


@dataclass(frozen=True, eq=False)
class TaskBatch:
    """Rows of one task and the inputs of their queries, each query once."""

    name: str
    inputs: Any
    rows: TaskRows

    def to(self, device: torch.device | str) -> "TaskBatch":
        """Copy to another device."""
        return TaskBatch(self.name, self.inputs.to(device), self.rows.to(device))


class TaskSchedule:
    """Which rows of which tasks each step takes: a function of epoch and step alone.

    Args:
        num_rows: of each task.
        config: interleaving, batch size and seed.

    Attributes:
        num_steps: of an epoch.

    """

    def __init__(self, num_rows: Mapping[str, int], config: MultiTaskConfig) -> None:
        self.num_rows, self.interleaving = dict(num_rows), config.interleaving
        self.random_seed = config.random_seed
        self.batch_size = config.optimizer.batch_size
        self.names = list(num_rows)
        self.num_batches = {name: -(-size // self.batch_size) for name, size in num_rows.items()}
        self.longest = max(self.num_batches.values())
        self.num_steps = {
            "proportional": sum(self.num_batches.values()),
            "in turn": len(self.names) * self.longest,
            "together": self.longest,
        }[config.interleaving]
        self._orders: dict[str, tuple[int, Tensor]] = {}  # the last pass of each task
        self._drawn: tuple[int, list[tuple[str, int]]] = (-1, [])

    def step(self, epoch: int, number: int) -> list[tuple[str, Int64[Tensor, " num_rows"]]]:
        """Return the tasks of a step of an epoch, and the rows that each of them takes."""
        if self.interleaving == "proportional":
            name, batch = self._order_of_tasks(epoch)[number]
            return [(name, self._rows(name, epoch, batch))]
        if self.interleaving == "in turn":
            turn, place = divmod(number, len(self.names))
            chosen = [self.names[place]]
        else:
            turn, chosen = number, self.names
        batch = epoch * self.longest + turn
        return [(name, self._rows(name, *divmod(batch, self.num_batches[name]))) for name in chosen]

    def _order_of_tasks(self, epoch: int) -> list[tuple[str, int]]:
        if self._drawn[0] != epoch:
            batches = [(name, number) for name in self.names for number in range(self.num_batches[name])]
            draw = keyed_uniform(self.random_seed, "order of tasks", epoch, torch.arange(len(batches)))
            self._drawn = epoch, [batches[place] for place in draw.argsort(stable=True).tolist()]
        return self._drawn[1]

    def _rows(self, name: str, number: int, batch: int) -> Tensor:
        """Return the rows of a batch of a task's pass."""
        if self._orders.get(name, (-1,))[0] != number:
            row = torch.arange(self.num_rows[name])
            draw = keyed_uniform(self.random_seed, "rows of a task", name, number, row)
            self._orders[name] = number, draw.argsort(stable=True)
        return self._orders[name][1][batch * self.batch_size : (batch + 1) * self.batch_size]


def fit_tasks(
    model: MultiTaskModel,
    data: Mapping[str, TaskData],
    *,
    fit_until: int,
    config: MultiTaskConfig = MultiTaskConfig(),
    start: str | Path | None = None,
    keep_optimizer: bool = False,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 500,
    log_every: int = 50,
    on_step: Callable[[int, int], None] | None = None,
    made_from: Mapping[str, Any] | None = None,
) -> list[TrainingPoint]:
    """Fit a model in place to its tasks' rows; the weights that count are those after the last epoch.

    Heads of tasks without data stay as they are. Of a frozen encoder (``MultiTaskModel.freeze_encoder``)
    each query's vector is computed once, without dropout, before the heads are fitted.

    Args:
        model: on the device to train on.
        data: of each task, on any device.
        fit_until: every label was known before; ``fit_until`` of the model and of its encoder move to it.
        config: options.
        start: checkpoint of an earlier training of the same model, to go on from with these rows: for a new
            day. Not read where ``checkpoint`` exists.
        keep_optimizer: go on with the optimiser's state of ``start`` too, such as Adagrad's sums, and not
            with its weights alone. The earlier training's weight decay then holds, whatever ``config`` says.
        checkpoint: file to write and to resume from: training ends with the same weights as without a break.
            One of other rows, inputs, options or another ``fit_until`` is refused, but what the weights were
            at the start is not compared: give each start a path.
        checkpoint_every: steps between checkpoints.
        log_every: steps that a point of the curve averages.
        on_step: called with (steps done, steps in all).
        made_from: plain values that tell this run from others beside that, such as the seed of the weights:
            kept in the checkpoint, and compared.

    Raises:
        ValueError: a task has no head or no row, a label cannot be one or was known too late, a feature is
            not finite, weights are given to no task, ``keep_optimizer`` lacks ``start`` or ``checkpoint``, or
            either file is none of such a model, or of another run.

    """
    _check(model, data, fit_until, config)
    start, checkpoint = (None if path is None else Path(path) for path in (start, checkpoint))
    if keep_optimizer and (start is None or checkpoint is None):
        raise ValueError("keep_optimizer goes on from one file and writes another: give start and checkpoint")
    device = next(model.heads.parameters()).device
    resumes = checkpoint is not None and checkpoint.exists()
    begins_at = checkpoint if resumes else start
    earlier = None if begins_at is None else load_checkpoint(begins_at, device=device)
    run = None if checkpoint is None else _facts(model, data, fit_until, config, made_from or {})
    if begins_at is not None and earlier is not None:
        if not isinstance(earlier, dict):  # torch reads files of a single tensor too
            raise ValueError(f"{begins_at} holds a {type(earlier).__name__}, no checkpoint of fit_tasks")
        parts = ("model", "optimizer") if keep_optimizer or resumes else ("model",)
        check_parts(begins_at, earlier, parts, "a checkpoint of fit_tasks")
        if resumes and run is not None:
            check_made_from(begins_at, earlier.get("made_from"), run)
        load_weights(model, begins_at, earlier["model"])
    for module in _dated(model).values():
        move_fit_until(module, fit_until)
    if model.is_frozen:
        data = {name: _with_vectors(model, name, task) for name, task in data.items()}
    schedule = TaskSchedule({name: len(task.rows) for name, task in data.items()}, config)

    def batches(epoch: int, first: int) -> Iterator[list[TaskBatch]]:
        for number in range(first, schedule.num_steps):
            yield [_batch(name, data[name], row) for name, row in schedule.step(epoch, number)]

    def backward(step: list[TaskBatch]) -> Tensor:
        total = torch.zeros((), device=device)
        for batch in step:
            batch = batch.to(device)
            head = model.heads[batch.name]
            assert isinstance(head, TaskHead)
            with precision_region(device, mixed=config.optimizer.mixed_precision):
                logit = model(batch.name, batch.inputs, batch.rows)
            loss = head.loss(at_least_float32(logit), batch.rows)
            weighted = config.task_weights.get(batch.name, 1.0) * model.weighted(batch.name, loss)
            weighted.backward()  # one task's graph after the other: memory of one
            total += weighted.detach()
        return total

    # dropout's draws are the run's own, and leave the caller's generator as it was
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(config.random_seed)
        if keep_optimizer and not resumes:
            assert checkpoint is not None
            assert earlier is not None
            begun = {"model": model.state_dict(), "random": random_state(device), "step": 0, "curve": []}
            begun |= {"loss_sum": torch.zeros((), device=device), "made_from": run}
            save_checkpoint(checkpoint, {**earlier, **begun})
        return train_steps(
            model,
            batches,
            backward,
            num_batches=schedule.num_steps,
            config=config.optimizer,
            device=device,
            checkpoint=checkpoint,
            checkpoint_every=checkpoint_every,
            log_every=log_every,
            on_step=on_step,
            made_from=run,
        )


def load_weights(model: MultiTaskModel, path: Path, state: Mapping[str, Any]) -> None:
    """Take over a file's weights and the time until which they were fitted, whatever the model's was.

    Args:
        model: of the same heads and shapes.
        path: of the file, for messages.
        state: the file's state dict of a model.

    Raises:
        ValueError: they are of a model with other heads or shapes, or the file does not say until when they
            were fitted.

    """
    own = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    stored = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    heads = list(dict.fromkeys(name.split(".")[1] for name in stored if name.startswith("heads.")))
    if set(heads) != set(model.heads):
        raise ValueError(
            f"{path} holds a model with heads {heads}, this one has {list(model.heads)}: make it with the "
            "same, or load the encoder's weights alone"
        )
    differing = [
        name
        for name in {**own, **stored}
        if name not in own or name not in stored or own[name].shape != stored[name].shape
    ]
    if differing:
        raise ValueError(
            f"{path} holds a model of other shapes: {differing[0]} and {len(differing) - 1} others differ; "
            "make this one with the options that it had"
        )
    dated = {f"{name}._extra_state".lstrip("."): module for name, module in _dated(model).items()}
    untimed = [name for name in dated if name not in state]
    if untimed:
        raise ValueError(
            f"{path} does not say until when its weights were fitted, it lacks {untimed}: train them anew"
        )
    # all weights are replaced, so the file's times alone count; they are set once nothing can be refused
    own_times = {name: {**state[name], "fit_until": module.fit_until} for name, module in dated.items()}
    model.load_state_dict({**state, **own_times})
    for name, module in dated.items():
        module.fit_until = state[name]["fit_until"]


@torch.no_grad()
def score_task(
    model: MultiTaskModel, name: str, data: TaskData, *, batch_size: int = 1024, row_batch_size: int = 65_536
) -> Tensor:
    """Return the scores of a task's rows in their order, float64 on the CPU; a column for each class, if any.

    The user part runs once a query. The model is left in evaluation mode; no random number is drawn, and no
    label is read.

    Args:
        model: fitted.
        name: of the task.
        data: the rows.
        batch_size: queries at once.
        row_batch_size: rows at once.

    Raises:
        ValueError: the task has no head, the data no row, a feature is not finite, or the model was fitted on
            what a query may not know.

    """
    if name not in model.heads or not len(data.rows):
        raise ValueError(f"no head of {name!r} or no row: heads {list(model.heads)}, {len(data.rows)} rows")
    query, place = data.rows.query.unique(return_inverse=True)
    for module in _dated(model).values():
        module.check_before(int(data.time[query].min()))
    head = model.heads[name]
    assert isinstance(head, TaskHead)
    head.check(data.rows)
    model.eval()
    device = next(head.parameters()).device
    vector = encode_queries(model, name, data.inputs, query, batch_size=batch_size)
    parts = [
        head.score(head(vector[place[row]].to(device), data.rows.take(row).to(device))).cpu()
        for row in torch.arange(len(data.rows)).split(row_batch_size)
    ]
    return torch.cat(parts)


@torch.no_grad()
def encode_queries(
    model: MultiTaskModel,
    name: str,
    inputs: Any,
    query: Int64[Tensor, " num_queries"],
    *,
    batch_size: int = 1024,
) -> Float[Tensor, "num_queries channels"]:
    """Return representations for a task on the CPU, in evaluation mode, in which the model is left."""
    model.eval()
    device = next(model.heads.parameters()).device
    parts = [model.represent(name, inputs.take(few).to(device)).cpu() for few in query.split(batch_size)]
    return torch.cat(parts)


def transfer(
    how: Transfer,
    name: str,
    data: Mapping[str, TaskData],
    *,
    source: MultiTaskModel,
    make: Callable[[list[str]], MultiTaskModel],
    fit_until: int,
    config: MultiTaskConfig = MultiTaskConfig(),
    checkpoint: str | Path | None = None,
) -> MultiTaskModel:
    """Bring a shared network to a task that it was not fitted to, in one of the paper's four ways.

    Args:
        how: "representation": the source's encoder stays as it is, a new head reads its vectors.
            "fine-tune": encoder and new head are fitted to the new task, from the source's encoder on.
            "single": a new encoder and head are fitted to the new task alone. "all": a new encoder and new
            heads are fitted to the source's tasks and the new one.
        name: of the new task.
        data: of the new task; for "all", of the source's tasks too.
        source: fitted to other tasks; it stays as it is.
        make: makes a new model for the tasks that it is given, on the device to train on. It draws from
            torch's generator, which is seeded by ``config.random_seed`` for the call.
        fit_until: as in :func:`fit_tasks`.
        config: options.
        checkpoint: as in :func:`fit_tasks`.

    Returns:
        The fitted model. A learned query of the new task begins at, and with "representation" stays, the mean
        of the source's.

    Raises:
        ValueError: the source knows the task, data is missing, or as :func:`fit_tasks`.

    """
    if how not in ("representation", "fine-tune", "single", "all"):
        raise ValueError(f'how must be "representation", "fine-tune", "single" or "all", got {how!r}')
    names = [*source.heads, name] if how == "all" else [name]
    missing = [one for one in names if one not in data]
    if name in source.heads or missing:
        raise ValueError(
            f"transfer is to a task that the source does not know, with data of all that are fitted: got "
            f"{name!r}, the source's tasks {list(source.heads)}, no data of {missing}"
        )
    device = next(source.heads.parameters()).device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(config.random_seed)
        model = make(names)
    if how in ("representation", "fine-tune"):
        model.encoder.load_state_dict(source.encoder.state_dict())
        if source.fit_until is not None:
            move_fit_until(model, source.fit_until)
        if name in model.query and len(source.query):
            with torch.no_grad():
                model.query[name].copy_(torch.stack(list(source.query.values())).mean(dim=0))
    if how == "representation":
        model.freeze_encoder()
    used = {one: data[one] for one in names}
    fit_tasks(
        model,
        used,
        fit_until=fit_until,
        config=config,
        checkpoint=checkpoint,
        made_from={"transfer": how},  # ways of the same rows and shapes start from other weights
    )
    return model


# ---- parts ---------------------------------------------------------------------------------------


def _check(
    model: MultiTaskModel, data: Mapping[str, TaskData], fit_until: int, config: MultiTaskConfig
) -> None:
    without_head = sorted(set(data) - set(model.heads))
    empty = [name for name, task in data.items() if not len(task.rows)]
    unweighted = sorted(set(config.task_weights) - set(model.heads))
    if not data or without_head or empty or unweighted:
        raise ValueError(
            f"each task needs a head and rows: without a head {without_head}, without rows {empty}, weights "
            f"of unknown tasks {unweighted}, {len(data)} tasks in all"
        )
    if isinstance(fit_until, bool) or not isinstance(fit_until, int):
        raise ValueError(
            f"fit_until must be an int, got {fit_until!r}: give int(...) of it, in the data's unit of time"
        )
    for name, task in data.items():
        head = model.heads[name]
        assert isinstance(head, TaskHead)
        try:
            head.check(task.rows)
            head.check_labels(task.rows.label)
        except ValueError as error:
            raise ValueError(f"task {name!r}: {error}") from error
        late = int((task.known_time >= fit_until).sum())
        if late:
            raise ValueError(
                f"{late} labels of {name!r} became known at or after fit_until={fit_until}: take "
                "TaskData.between(..., known_before=fit_until)"
            )


def _dated(model: MultiTaskModel) -> dict[str, FittedUntil]:
    """Return the parts that know until when they were fitted, the model among them, by their names."""
    return {name: module for name, module in model.named_modules() if isinstance(module, FittedUntil)}


def _facts(
    model: MultiTaskModel,
    data: Mapping[str, TaskData],
    fit_until: int,
    config: MultiTaskConfig,
    also: Mapping[str, Any],
) -> dict[str, Any]:
    """Return what a run is made from, as plain values that a checkpoint keeps."""
    facts = {
        **also,
        "fit_until": fit_until,
        "interleaving": config.interleaving,
        "task_weights": {name: float(value) for name, value in config.task_weights.items()},
        "random_seed": config.random_seed,
        "optimizer": asdict(config.optimizer),
        "rows": {name: _digest(task) for name, task in data.items()},
        "tasks": list(data),  # their order decides that of steps
        "model": {**shape_of_model(model), "is_frozen": model.is_frozen},
    }
    plain: dict[str, Any] = json.loads(json.dumps(facts))
    return plain


def _digest(task: TaskData, *, block_size: int = 65_536) -> str:
    """Hash a task's rows, and times and inputs of the queries that they name, by their values."""
    query, place = task.rows.query.unique(return_inverse=True)
    parts = [(name, place if name == "query" else value) for name, value in vars(task.rows).items()]
    parts += [("known_time", task.known_time), ("time", task.time[query])]
    for number, few in enumerate(query.split(block_size)):
        digest = digest_of_tensors(_tensors_of(task.inputs.take(few)))
        parts.append((f"inputs {number} {digest}", query[:0]))
    return digest_of_tensors(parts)


def _tensors_of(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of an object's fields, of mappings and of sequences among them, with their places."""
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, Mapping):
        for key, one in value.items():
            yield from _tensors_of(one, f"{name}.{key}")
    elif isinstance(value, list | tuple):
        for number, one in enumerate(value):
            yield from _tensors_of(one, f"{name}.{number}")
    elif hasattr(value, "__dict__"):
        yield from _tensors_of(vars(value), name)


def _with_vectors(model: MultiTaskModel, name: str, task: TaskData) -> TaskData:
    """Put representations, of the queries that rows ask, in the place of inputs."""
    query, place = task.rows.query.unique(return_inverse=True)
    vectors = GivenVectors(encode_queries(model, name, task.inputs, query))
    return replace(task, inputs=vectors, time=task.time[query], rows=replace(task.rows, query=place))


def _batch(name: str, task: TaskData, row: Tensor) -> TaskBatch:
    rows = task.rows.take(row)
    query, place = rows.query.unique(return_inverse=True)
    return TaskBatch(name, task.inputs.take(query), replace(rows, query=place))
