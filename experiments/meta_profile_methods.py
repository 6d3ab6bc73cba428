"""The methods of the Meta-Profile Network's tables: what validation chooses of each, how it scores a task.

All networks begin with, or are, the same profile network g. Those that meet the source tasks share one start
for each seed and fold: g fitted to all source tasks at once. Meta-training and prototypical networks go on
from there by episodes, fine-tuning goes on with the target's labels, normal training begins anew.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from experiments.meta_profile_data import MODALITY, ProfileData, TargetRows
from graph_builders.option_checks import check_numbers, check_whole_number, check_whole_numbers
from graphrec.encoders.heatmap_cnn import LEVELS, HeatmapCNN, HeatmapEncoder, narrow_levels
from graphrec.models.meta_profile import (
    MultiTaskProfile,
    ProfileNetwork,
    PrototypeSimilarity,
    RelationModule,
    Similarity,
)
from graphrec.models.profile_baselines import RegularisedLogistic
from graphrec.models.trees import BoostedTrees, TreesConfig
from graphrec.training.episodes import AdaptConfig, adapt_similarity, predict_few_shot
from graphrec.training.meta_profile import embed, fit_multi_task
from graphrec.training.stages import StagesConfig
from samplers.random_numbers import keyed_uniform

Kind = Literal["adapted", "meta", "scratch", "prototypes", "fine-tuned", "frozen", "logistic", "trees"]
SimilarityKind = Literal["relation", "prototypes"]
Setting = Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class NetworkSettings:
    """How large networks are and how long they train: part of every part's key.

    Attributes:
        narrow: how many times fewer channels than the paper's Table 2 (64, 128, 256, 512).
        channels: of embeddings.
        source_steps: of the start, on all source tasks.
        meta_steps: of episodes, from the start on.
        num_ways: tasks of an episode (paper: 9).
        batch_size: rows of a step (paper: 32).
        max_rate: greatest rate of Adam in the start; SGD begins at ten times that.
        target_steps: of training on a target's labels: validation chooses one of them.
        least_steps: of the same where few labels are left; between, steps fall with the number of rows.
        num_examples: of each class, at most, that a prediction by f compares with.

    """

    narrow: int = 4
    channels: int = 64
    source_steps: int = 600
    meta_steps: int = 300
    num_ways: int = 9
    batch_size: int = 32
    max_rate: float = 1e-3
    target_steps: tuple[int, ...] = (150, 300)
    least_steps: int = 150
    num_examples: int = 100

    def __post_init__(self) -> None:
        check_whole_numbers(
            self, narrow=1, channels=1, source_steps=1, meta_steps=1, num_ways=1, batch_size=1, num_examples=1
        )
        check_whole_numbers(self, least_steps=0)
        check_numbers(self, ("max_rate",), above=0)
        if not self.target_steps:
            raise ValueError("target_steps needs a length to choose from: name one at least")
        for steps in self.target_steps:
            check_whole_number("NetworkSettings.target_steps", steps, 1)


@dataclass(frozen=True, kw_only=True)
class Method:
    """A row of the tables.

    Attributes:
        name: as the tables have it.
        kind: how it scores.
        in_curves: whether it has figures with masked labels and with imbalanced classes.

    """

    name: str
    kind: Kind
    in_curves: bool = False

    @property
    def is_random(self) -> bool:
        """Whether a seed changes its figures where all labels are used."""
        return self.kind not in ("logistic", "trees")

    @property
    def similarity(self) -> SimilarityKind | None:
        """What its g was meta-trained with; None: it is not."""
        if self.kind == "prototypes":
            return "prototypes"
        return "relation" if self.kind in ("adapted", "meta", "frozen") else None


CANDIDATE = "Meta-Profile, f adapted"
ZERO_STEPS = "Meta-Profile, no gradient step"
NORMAL = "normal training"
METHODS = (
    Method(name=ZERO_STEPS, kind="meta", in_curves=True),
    Method(name=CANDIDATE, kind="adapted", in_curves=True),
    Method(name=NORMAL, kind="scratch", in_curves=True),
    Method(name="prototypical network", kind="prototypes"),
    Method(name="multi-task network, fine-tuned", kind="fine-tuned"),
    Method(name="logistic regression on frozen g", kind="frozen"),
    Method(name="logistic regression on aggregates", kind="logistic", in_curves=True),
    Method(name="boosted trees on aggregates", kind="trees", in_curves=True),
)
# four of each, of which validation chooses
_GRIDS: Mapping[Kind, tuple[tuple[str, tuple[float, ...]], ...]] = {
    "meta": (("shots", (1, 5)), ("rate", (3e-4, 1e-3))),
    "prototypes": (("shots", (1, 5)), ("rate", (3e-4, 1e-3))),
    "adapted": (("steps", (50, 200)), ("rate", (3e-4, 3e-3))),
    "frozen": (("strength", (1e-4, 1e-3, 1e-2, 1e-1)),),
    "logistic": (("strength", (1e-4, 1e-3, 1e-2, 1e-1)),),
    "trees": (("trees", (50, 150)), ("rate", (0.03, 0.1))),
}


def candidates(kind: Kind, settings: NetworkSettings) -> list[dict[str, float]]:
    """Return the settings of which validation chooses one."""
    if kind in ("scratch", "fine-tuned"):
        low, high = (1e-3, 3e-3) if kind == "scratch" else (3e-4, 1e-3)
        steps = tuple(float(number) for number in settings.target_steps)
        grid: Sequence[tuple[str, tuple[float, ...]]] = (("rate", (low, high)), ("steps", steps))
    else:
        grid = _GRIDS[kind]
    found: list[dict[str, float]] = [{}]
    for name, values in grid:
        found = [{**one, name: float(value)} for one in found for value in values]
    return found


def stages(num_steps: int, max_rate: float, seed: int) -> StagesConfig:
    """Return both stages of training: two thirds of the steps for Adam, in two cycles, one for SGD."""
    sgd_steps = num_steps // 3
    adam_steps = num_steps - sgd_steps
    return StagesConfig(
        adam_steps=adam_steps,
        adam_rates=(max_rate / 10, max_rate),
        cycle_steps=max(adam_steps // 2, 2),
        sgd_steps=sgd_steps,
        sgd_rate=10 * max_rate,
        restart_steps=max(sgd_steps // 2, 1),
        random_seed=seed,
    )


def new_network(data: ProfileData, settings: NetworkSettings, seed: int) -> ProfileNetwork:
    """Return a new profile network; the caller's random numbers stay as they were."""
    encoding = data.encoding
    levels = narrow_levels(LEVELS[encoding.num_days], settings.narrow)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        cnn = HeatmapCNN(len(encoding.channels), encoding.num_days, levels=levels)
        return ProfileNetwork({MODALITY: HeatmapEncoder(encoding, cnn)}, out_channels=settings.channels)


def new_similarity(kind: SimilarityKind, settings: NetworkSettings, seed: int) -> Similarity:
    """Return a new similarity f."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return RelationModule(settings.channels) if kind == "relation" else PrototypeSimilarity()


@dataclass(frozen=True, kw_only=True, eq=False)
class Learned:
    """What meta-training left for the target tasks of a fold.

    Attributes:
        similarity: f.
        embedding: of g, of all target rows.

    """

    similarity: Similarity
    embedding: Tensor


def score_target(
    data: ProfileData,
    method: Method,
    setting: Setting,
    settings: NetworkSettings,
    labelled: TargetRows,
    scored: TargetRows,
    *,
    seed: int,
    fit_until: int,
    full_rows: int,
    learned: Learned | None = None,
    start: Callable[[], ProfileNetwork] | None = None,
) -> np.ndarray:
    """Fit a method to a target's labelled rows and score others.

    Args:
        data: heatmaps and aggregates.
        method: which one.
        setting: out of :func:`candidates`.
        settings: of networks.
        labelled: rows whose labels may be seen.
        scored: rows to score.
        seed: of networks and draws.
        fit_until: the end of the last label's window.
        full_rows: the target's training rows before labels were masked: from it the steps are scaled.
        learned: of meta-training, for the methods that have a ``similarity``.
        start: returns the network as the source tasks left it, for fine-tuning.

    Returns:
        A score of each row, of which the order counts.

    """
    if method.kind in ("scratch", "fine-tuned"):
        if method.kind == "scratch":
            network = new_network(data, settings, seed)
        else:
            assert start is not None
            network = start()
        steps = steps_of(int(setting["steps"]), len(labelled.row), full_rows, settings)
        model = fit_multi_task(
            network,
            data.inputs.take(labelled.row),
            labelled.label[:, None],
            fit_until=fit_until,
            config=stages(steps, setting["rate"], seed),
            batch_size=settings.batch_size,
        )
        return _scores(model, data, scored)
    if method.kind in ("logistic", "trees"):
        features = data.aggregates
        if method.kind == "trees":
            trees = BoostedTrees(
                TreesConfig(
                    num_trees=int(setting["trees"]),
                    learning_rate=setting["rate"],
                    max_leaf_nodes=7,
                    min_samples_leaf=min(max(len(labelled.row) // 20, 1), 50),
                    random_seed=seed,
                )
            ).fit(features[labelled.row], labelled.label)
            return np.asarray(trees.predict(features[scored.row]))
        return _logistic(setting, features, labelled, scored)
    assert learned is not None
    if method.kind == "frozen":
        return _logistic(setting, learned.embedding, labelled, scored)
    similarity, embedding = learned.similarity, learned.embedding
    if method.kind == "adapted":
        config = AdaptConfig(num_steps=int(setting["steps"]), learning_rate=setting["rate"], random_seed=seed)
        similarity = adapt_similarity(
            similarity, embedding[labelled.row], labelled.label, config, user=labelled.user
        )
    examples = labelled if method.kind == "prototypes" else draw_examples(labelled, settings, seed)
    logit = predict_few_shot(similarity, embedding[scored.row], embedding[examples.row], examples.label)
    return logit.double().numpy()


def steps_of(steps: int, num_rows: int, full_rows: int, settings: NetworkSettings) -> int:
    """Return how long a network trains on a target: as many epochs as with all labels, or the least steps."""
    return min(steps, max(settings.least_steps, round(steps * num_rows / full_rows)))


def draw_examples(labelled: TargetRows, settings: NetworkSettings, seed: int) -> TargetRows:
    """Draw the examples that a prediction compares with: as many of each class, as in meta-training.

    f compares each row with each example: all labelled rows would cost more than a training.
    """
    least = min(int((labelled.label == value).sum()) for value in (0, 1))
    number = min(max(least, 1), settings.num_examples)
    draw = keyed_uniform(seed, "examples", labelled.name, labelled.user, labelled.time)
    kept = torch.zeros_like(labelled.label, dtype=torch.bool)
    for value in (0, 1):
        kept[draw.masked_fill(labelled.label != value, 2.0).argsort()[:number]] = True
    return labelled.take(kept)


@torch.no_grad()
def _scores(model: MultiTaskProfile, data: ProfileData, scored: TargetRows) -> np.ndarray:
    logit: np.ndarray = embed(model, data.inputs.take(scored.row))[:, 0].double().numpy()
    return logit


def _logistic(setting: Setting, features: Tensor, labelled: TargetRows, scored: TargetRows) -> np.ndarray:
    model = RegularisedLogistic(strengths=(setting["strength"],))
    model.fit(features[labelled.row], labelled.label, user=labelled.user)
    return model.predict(features[scored.row])


# ---- which labels are seen -----------------------------------------------------------------------

MASKING = (1.0, 0.8, 0.6, 0.4, 0.2, 0.05, 0.03, 0.01, 0.005)
IMBALANCE = tuple(0.5**power for power in range(1, 8))
LEAST_POSITIVES = 20


def mask_labels(rows: TargetRows, share: float, seed: int) -> TargetRows:
    """Keep a share of the labels of each class, never below 20 of one; smaller shares lie in larger ones."""
    numbers = [max(LEAST_POSITIVES, round(share * count)) for count in _counts(rows)]
    return _thin(rows, numbers, seed)


def imbalance_classes(rows: TargetRows, ratio: float, seed: int) -> TargetRows:
    """Keep as many labels as a ratio of positives to negatives allows, never below 20 positives.

    While the ratio lies above the data's, all positives are kept and negatives drawn; below, positives are
    drawn for all negatives (but a rest below one positive's share).
    """
    negatives, positives = _counts(rows)
    kept = min(positives, max(LEAST_POSITIVES, round(ratio * negatives)))
    return _thin(rows, [round(kept / ratio), kept], seed)


def _counts(rows: TargetRows) -> list[int]:
    return [int((rows.label == value).sum()) for value in (0, 1)]


def _thin(rows: TargetRows, numbers: Sequence[int], seed: int) -> TargetRows:
    """Keep so many negatives and positives, or all there are: the first by a draw of the seed and the row."""
    draw = keyed_uniform(seed, "kept labels", rows.name, rows.user, rows.time)
    kept = torch.zeros_like(rows.label, dtype=torch.bool)
    for value, number in enumerate(numbers):
        row = (rows.label == value).nonzero().flatten()
        kept[row[draw[row].argsort()[:number]]] = True
    return rows.take(kept)
