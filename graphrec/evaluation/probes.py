"""What frozen representations say about users: a small model on top of them, AUC and accuracy.

The representations are computed once and never changed; a model with few weights learns each task from them.
LURM (Yang et al., 2021, section 3.4) takes an MLP with one hidden layer of 64, Adam 0.001, batches of 128,
80% of the users to train on. The paper names no number of epochs: choose it on a validation part.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int64
from torch import Tensor, nn
from torch.nn import functional

from graph_builders.datasets.downstream_tasks import DownstreamTask, Part
from graph_builders.option_checks import check_numbers, check_whole_numbers
from graphrec.evaluation.ctr import auc
from graphrec.models.trees import BoostedTrees, TreesConfig
from graphrec.training.adam import AdamConfig
from graphrec.training.loop import train_steps
from graphrec.training.task_labels import SetLabels
from samplers import SeedLoader, keyed_uniform

Features = Any
"""Float32 (num_rows, num_features): a tensor on the CPU, or a scipy CSR array, such as bags of interests."""


@dataclass(frozen=True, kw_only=True)
class ProbeConfig(AdamConfig):
    """Which small model reads the representations, and how it is fitted.

    Attributes:
        kind: "mlp"; "logistic": regression with an L2 penalty (scikit-learn); "trees": boosted ones,
            for several classes one against the others each.
        hidden_channels: of the MLP.
        epochs: of the MLP.
        batch_size: of the MLP.
        learning_rate: of the MLP.
        strength: of the regression: the inverse of its penalty.
        trees: options of the boosted trees.
        random_seed: of the MLP's first weights and batches; the trees have their own.

    """

    kind: Literal["mlp", "logistic", "trees"] = "mlp"
    hidden_channels: int = 64
    epochs: int = 20
    batch_size: int = 128
    learning_rate: float = 1e-3
    strength: float = 1.0
    trees: TreesConfig = TreesConfig(num_trees=100, min_samples_leaf=20)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole_numbers(self, hidden_channels=1)
        check_numbers(self, ("strength",), above=0)


@dataclass(frozen=True, kw_only=True, eq=False)
class ProbeResult:
    """What a probe says about the rows that it was not fitted on.

    Attributes:
        row: where these stand among all rows.
        label: their classes.
        probability: of each class.
        auc: of the second class; of more than two the mean over classes of one against the others, without
            those that have no row or all rows. NaN where there is none.
        accuracy: share of rows whose most probable class is theirs.

    """

    row: Int64[Tensor, " num_scored"]
    label: Int64[Tensor, " num_scored"]
    probability: Float64[Tensor, "num_scored num_classes"]
    auc: float
    accuracy: float


def held_out(
    user: Int64[Tensor, " num_rows"], *, test_share: float = 0.2, random_seed: int = 0
) -> Bool[Tensor, " num_rows"]:
    """Say which rows are tested: those of an expected share of the users, by a draw keyed by the user.

    Raises:
        ValueError: ``test_share`` does not lie between 0 and 1.

    """
    if not 0 < test_share < 1:
        raise ValueError(f"test_share must lie between 0 and 1, got {test_share}")
    return keyed_uniform(random_seed, "probe", user) < test_share


def probe(
    features: Features,
    label: Int64[Tensor, " num_rows"],
    is_test: Bool[Tensor, " num_rows"],
    *,
    config: ProbeConfig = ProbeConfig(),
) -> ProbeResult:
    """Fit a small model to some rows' representations and score the others.

    Columns of dense features are brought to mean 0 and deviation 1 on the rows that it is fitted on, but for
    trees.

    Args:
        features: a frozen representation a row.
        label: class of each row, from 0 on; rows with -1 have none and are left out.
        is_test: rows that are scored; the others are fitted on.
        config: of the model.

    Raises:
        ValueError: there are not as many rows of each; there is no feature, or one is not finite; a label is
            below -1; no row is left to fit on or to score; or the rows to fit on are all of one class.

    """
    x_train, x_test, train, test = _split(features, label, is_test, config.kind)
    num_classes = int(label[label >= 0].max()) + 1
    if config.kind == "mlp":
        (probability,) = _class_probabilities(
            x_train, label[train], x_test, num_classes, config, (config.epochs,)
        )
    else:
        fit = {"logistic": _logistic, "trees": _trees}[config.kind]
        probability = fit(x_train, label[train], x_test, num_classes, config)
    return _result(test, label, probability)


def probe_by_epoch(
    features: Features,
    label: Int64[Tensor, " num_rows"],
    is_test: Bool[Tensor, " num_rows"],
    epochs: Sequence[int],
    *,
    config: ProbeConfig = ProbeConfig(),
) -> list[ProbeResult]:
    """Return what :func:`probe` gives after each of several numbers of epochs, from one training of the MLP.

    Args:
        features: as in :func:`probe`, as the two arguments after it.
        label: class of each row.
        is_test: rows that are scored: validation rows, where the number of epochs is chosen by this.
        epochs: above 0, rising; ``config.epochs`` is not looked at.
        config: of an MLP without decay of the rate: a longer training then begins as a shorter one.

    Raises:
        ValueError: another kind of model, a rate that decays, no or wrong epochs, or as :func:`probe`.

    """
    wanted = _rising(epochs, config)
    x_train, x_test, train, test = _split(features, label, is_test, config.kind)
    num_classes = int(label[label >= 0].max()) + 1
    longest = replace(config, epochs=wanted[-1])
    found = _class_probabilities(x_train, label[train], x_test, num_classes, longest, wanted)
    return [_result(test, label, probability) for probability in found]


def probe_sets_by_epoch(
    features: Features,
    labels: SetLabels,
    is_test: Bool[Tensor, " num_rows"],
    epochs: Sequence[int],
    *,
    config: ProbeConfig = ProbeConfig(),
) -> list[Float64[Tensor, "num_scored num_classes"]]:
    """Return scores of the classes of rows whose labels are sets, after each of several numbers of epochs.

    The MLP's softmax is compared with the row's set (:meth:`SetLabels.loss`).

    Args:
        features: a frozen representation a row.
        labels: of each row; rows without any are not fitted on.
        is_test: rows that are scored, in their order, whether they have a label or not.
        epochs: as in :func:`probe_by_epoch`.
        config: as there.

    Raises:
        ValueError: as :func:`probe_by_epoch`.

    """
    wanted = _rising(epochs, config)
    has_label = labels.has_label
    _check_lengths(features, len(has_label), is_test)
    train, test = (has_label & ~is_test).nonzero()[:, 0], is_test.nonzero()[:, 0]
    if not len(train) or not len(test):
        raise ValueError(
            f"a probe needs rows with labels to fit on and a row to score, got {len(train)} and {len(test)}"
        )
    x_train, x_test = _scaled(features, train, test, config.kind)
    own = labels.take(train)
    return _mlp(
        x_train,
        lambda logit, row: own.take(row).loss(logit),
        x_test,
        labels.num_outputs,
        replace(config, epochs=wanted[-1]),
        wanted,
    )


def _rising(epochs: Sequence[int], config: ProbeConfig) -> list[int]:
    wanted = list(epochs)
    if config.kind != "mlp" or config.decay or not wanted or wanted != sorted({*wanted}) or wanted[0] < 1:
        raise ValueError(
            f"an MLP without decay and rising numbers of epochs are needed, got {config.kind!r}, "
            f"decay={config.decay} and {wanted}"
        )
    return wanted


def _split(
    features: Features, label: Tensor, is_test: Tensor, kind: str
) -> tuple[Features, Features, Tensor, Tensor]:
    """Return features to fit on and to score, scaled, and which rows these are."""
    _check_lengths(features, len(label), is_test)
    if bool((label < -1).any()):
        raise ValueError(
            f"labels are classes from 0 on, or -1 where there is none, got {int(label.min())}: number them so"
        )
    train, test = ((label >= 0) & ~is_test).nonzero()[:, 0], ((label >= 0) & is_test).nonzero()[:, 0]
    if not len(train) or not len(test) or len(label[train].unique()) < 2:
        raise ValueError(
            f"a probe needs rows of two classes to fit on and a row to score, got {len(train)} rows of "
            f"{len(label[train].unique())} classes and {len(test)}: take more users, or another split"
        )
    return *_scaled(features, train, test, kind), train, test


def _check_lengths(features: Features, num_labels: int, is_test: Tensor) -> None:
    if not features.shape[0] == num_labels == len(is_test):
        raise ValueError(
            f"each row needs features, a label and a part, got {features.shape[0]}, {num_labels}, "
            f"{len(is_test)}"
        )
    if not features.shape[1]:
        raise ValueError("a probe needs features, there are none: the representation has no column")


def _scaled(features: Features, train: Tensor, test: Tensor, kind: str) -> tuple[Features, Features]:
    """Return features of both kinds of rows; dense ones by the mean and deviation of those to fit on."""
    values = features if isinstance(features, Tensor) else torch.from_numpy(features.data)
    if not bool(values.isfinite().all()):
        raise ValueError("some features are NaN or infinite: look at the training of the representation")
    x_train, x_test = _rows(features, train), _rows(features, test)
    if isinstance(features, Tensor) and kind != "trees":
        mean, deviation = x_train.mean(dim=0), x_train.std(dim=0, correction=0)
        scale = torch.where(deviation > 0, deviation, 1.0)
        x_train, x_test = (x_train - mean) / scale, (x_test - mean) / scale
    return x_train, x_test


def _result(test: Tensor, label: Tensor, probability: Tensor) -> ProbeResult:
    return ProbeResult(
        row=test,
        label=label[test],
        probability=probability,
        auc=_mean_auc(label[test], probability),
        accuracy=float((probability.argmax(dim=1) == label[test]).double().mean()),
    )


def probe_task(
    task: DownstreamTask,
    features: Features,
    *,
    config: ProbeConfig = ProbeConfig(),
    score_part: Part = "test",
) -> ProbeResult:
    """Fit a small model to the training queries of a binary task, and score those of another part.

    Check the representation's ``check_before(task.label_start["test"])`` first.

    Args:
        task: labels of queries by part; queries without one are left out.
        features: a frozen representation a query, in the order of ``task.queries``.
        config: of the model.
        score_part: the queries that are scored.

    Raises:
        ValueError: the task is not binary, or as :func:`probe`.

    """
    if task.kind != "binary":
        raise ValueError(f"task {task.name!r} has labels of kind {task.kind!r}: a probe reads binary ones")
    part = task.queries["part"]
    if features.shape[0] != len(part):
        raise ValueError(f"task {task.name!r} has {len(part)} queries, there are {features.shape[0]} rows")
    used = part.is_in(["train", score_part])
    label = task.queries["label"].fill_nan(None).fill_null(-1).cast(int).set(~used, -1)
    is_test = torch.from_numpy((part == score_part).to_numpy().copy())
    return probe(features, torch.from_numpy(label.to_numpy().copy()), is_test, config=config)


def _rows(features: Features, row: Int64[Tensor, " num_taken"]) -> Features:
    return features[row] if isinstance(features, Tensor) else features[row.numpy()]


def _dense(features: Features) -> Float32[Tensor, "num_rows num_features"]:
    if isinstance(features, Tensor):
        return features.float()
    return torch.from_numpy(features.toarray().astype(np.float32))


@dataclass(frozen=True, eq=False)
class _Batch:
    x: Float32[Tensor, "num_rows num_features"]
    row: Int64[Tensor, " num_rows"]


def _mlp(
    x: Features,
    loss_of: Callable[[Tensor, Tensor], Tensor],
    x_test: Features,
    num_outputs: int,
    config: ProbeConfig,
    epochs: Sequence[int],
) -> list[Float64[Tensor, "num_scored num_outputs"]]:
    """Return the logits after each of the given numbers of epochs.

    Args:
        x: of the rows to fit on.
        loss_of: from logits and the numbers of their rows to the loss.
        x_test: of the rows to score.
        num_outputs: of the model.
        config: of the model.
        epochs: rising.

    """
    with torch.random.fork_rng(devices=[]):  # the caller's generator stays as it was
        torch.manual_seed(config.random_seed)
        model = nn.Sequential(
            nn.Linear(x.shape[1], config.hidden_channels),
            nn.ReLU(),
            nn.Linear(config.hidden_channels, num_outputs),
        )
    loader = SeedLoader(
        x.shape[0],
        batch_size=config.batch_size,
        collate=lambda row: _Batch(_dense(_rows(x, row)), row),  # sparse rows are widened here alone
        shuffle=True,
        random_seed=config.random_seed,
        prefetch=0,
    )

    def backward(batch: _Batch) -> Tensor:
        with config.precision(torch.device("cpu")):
            logit = model(batch.x)
        loss = loss_of(logit.float(), batch.row)
        loss.backward()
        return loss.detach()

    found = list[Tensor]()

    @torch.no_grad()
    def score(done: int, total: int) -> None:
        if done % len(loader) == 0 and done // len(loader) in epochs:
            parts = torch.arange(x_test.shape[0]).split(8192)
            found.append(torch.cat([model(_dense(_rows(x_test, row))) for row in parts]).double())

    train_steps(
        model,
        lambda epoch, start: loader.batches(epoch, start_batch=start),
        backward,
        num_batches=len(loader),
        config=config.optimizer(),
        device=torch.device("cpu"),
        checkpoint=None,
        checkpoint_every=1,
        log_every=len(loader),
        on_step=score,
    )
    return found


def _class_probabilities(
    x: Features, label: Tensor, x_test: Features, num_classes: int, config: ProbeConfig, epochs: Sequence[int]
) -> list[Float64[Tensor, "num_scored num_classes"]]:
    found = _mlp(
        x,
        lambda logit, row: functional.cross_entropy(logit, label[row]),
        x_test,
        num_classes,
        config,
        epochs,
    )
    return [logit.softmax(dim=1) for logit in found]


def _logistic(
    x: Features, label: Tensor, x_test: Features, num_classes: int, config: ProbeConfig
) -> Float64[Tensor, "num_scored num_classes"]:
    from sklearn.linear_model import LogisticRegression

    model: Any = LogisticRegression(C=config.strength, max_iter=2000)
    x, x_test = (part.numpy() if isinstance(part, Tensor) else part for part in (x, x_test))
    model.fit(x, label.numpy())
    out = torch.zeros(x_test.shape[0], num_classes, dtype=torch.float64)
    # a class without a row to fit on has no column
    out[:, torch.from_numpy(model.classes_)] = torch.from_numpy(model.predict_proba(x_test)).double()
    return out


def _trees(
    x: Features, label: Tensor, x_test: Features, num_classes: int, config: ProbeConfig
) -> Float64[Tensor, "num_scored num_classes"]:
    dense, dense_test = _dense(x), _dense(x_test)

    def score(number: int) -> Tensor:
        is_class = (label == number).float()
        if not bool(is_class.any()):
            return torch.zeros(len(dense_test), dtype=torch.float64)
        return torch.from_numpy(BoostedTrees(config.trees).fit(dense, is_class).predict(dense_test))

    if num_classes == 2:
        second = score(1)
        return torch.stack([1 - second, second], dim=1)
    out = torch.stack([score(number) for number in range(num_classes)], dim=1)
    return out / out.sum(dim=1, keepdim=True)


def _mean_auc(label: Tensor, probability: Tensor) -> float:
    classes = [1] if probability.shape[1] == 2 else range(probability.shape[1])
    found = [auc((label == number).long().numpy(), probability[:, number].numpy()) for number in classes]
    known = [value for value in found if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")
