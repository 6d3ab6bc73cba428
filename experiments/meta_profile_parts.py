"""Parts of the Meta-Profile Network's tables: starts, meta-trainings, tunings, tests; found again on disk.

A start, g fitted to all source tasks, and a meta-training from it are made once for each seed and fold, and
serve all targets and experiments; with a meta-training, g's embeddings of all target rows are kept.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import torch

from experiments.kept_parts import KeptPart, find_part, kept_part, part_path
from experiments.meta_profile_data import ProfileData, TargetRows
from experiments.meta_profile_methods import (
    IMBALANCE,
    MASKING,
    METHODS,
    Learned,
    Method,
    NetworkSettings,
    Setting,
    SimilarityKind,
    candidates,
    imbalance_classes,
    mask_labels,
    new_network,
    new_similarity,
    score_target,
    stages,
)
from experiments.named_rows import row_named
from graphrec.evaluation import auc
from graphrec.models.meta_profile import MultiTaskProfile, ProfileNetwork
from graphrec.training.checkpoint import load_checkpoint, save_checkpoint
from graphrec.training.episodes import EpisodeConfig
from graphrec.training.meta_profile import embed, fit_multi_task, meta_train

PROTOCOL_VERSION = 1  # raised where the same configuration would get other figures: no older part is taken
Experiment = Literal["ood", "masking", "imbalance"]
EXPERIMENTS: tuple[Experiment, ...] = ("ood", "masking", "imbalance")
LEVELS_OF: Mapping[str, tuple[float, ...]] = {
    "ood": (1.0,),
    "masking": MASKING,
    "imbalance": IMBALANCE,
}
TUNING_SEED = TUNING_FOLD = 0


@dataclass(frozen=True, kw_only=True)
class Part:
    """What one part is computed from.

    Attributes:
        stage: the start, a meta-training, the validation figures of one setting, or scores of the test.
        seed: of networks and of the labels that are masked.
        fold: of the customers.
        method: name of a row; none of a start or a meta-training.
        similarity: of a meta-training; "" elsewhere.
        experiment: of a test; "" elsewhere.
        setting: name and value of what validation chooses.
        meta: the setting of the meta-training whose g is used; none where no such g is.

    """

    stage: Literal["start", "meta", "tuning", "test"]
    seed: int
    fold: int
    method: str = ""
    similarity: str = ""
    experiment: str = ""
    setting: tuple[tuple[str, float], ...] = ()
    meta: tuple[tuple[str, float], ...] = ()

    @property
    def name(self) -> str:
        """What is printed and begins the file's name."""
        values = [f"{name} {value:g}" for name, value in self.setting]
        words = [self.stage, self.experiment, self.method or self.similarity, *values]
        return ", ".join([*(word for word in words if word), f"seed {self.seed}", f"fold {self.fold}"])


class ProfileParts:
    """A folder of parts of one data set, and what computes them.

    Args:
        data: heatmaps and tasks.
        settings: of networks.
        folder: of the files.
        curve_targets: of masking and imbalance.
        tuned_targets: on which settings are chosen.

    """

    def __init__(
        self,
        data: ProfileData,
        settings: NetworkSettings,
        folder: Path,
        *,
        curve_targets: tuple[str, ...],
        tuned_targets: tuple[str, ...],
    ) -> None:
        self.data, self.settings, self.folder = data, settings, folder
        self.curve_targets, self.tuned_targets = curve_targets, tuned_targets
        self._rows: dict[int, dict[str, TargetRows]] = {}
        self._learned: tuple[Part, Learned] | None = None
        self._digests: dict[int, str] = {}

    # ---- what a part is --------------------------------------------------------------------------

    def content(self, part: Part) -> dict[str, Any]:
        """Return everything that decides what a part is."""
        if part.fold not in self._digests:
            self._digests[part.fold] = self.data.digest(part.fold)
        names = {
            "start": (),
            "meta": (),
            "tuning": self.tuned_targets,
            "test": self.data.target_names if part.experiment == "ood" else self.curve_targets,
        }[part.stage]
        return {
            "version": PROTOCOL_VERSION,
            "data": self.data.fingerprint,
            "tasks": self._digests[part.fold],
            "targets": list(names),
            "settings": asdict(self.settings),
            "part": asdict(part),
            "levels": list(LEVELS_OF[part.experiment]) if part.stage == "test" else [],
        }

    def find(self, part: Part) -> KeptPart | None:
        """Return a finished part, or None."""
        return find_part(self.folder, part.name, self.content(part))

    def run(self, part: Part) -> KeptPart:
        """Return a part, computed where it is missing; what it needs must be there."""

        def compute() -> tuple[dict[str, Any], pl.DataFrame | None]:
            if part.stage == "start":
                return self._fit_start(part), None
            if part.stage == "meta":
                return self._meta_train(part), None
            if part.stage == "tuning":
                return {"figures": self._tune(part)}, None
            return self._test(part)

        return kept_part(self.folder, part.name, self.content(part), compute)

    def needed(self, part: Part) -> list[Part]:
        """Return the start and the meta-training that a part begins with, in their order."""
        method = self._method(part)
        start = Part(stage="start", seed=part.seed, fold=part.fold)
        if part.stage == "meta":
            return [start]
        if method is None:
            return []
        if method.similarity is not None:
            return [start, self._meta_of(part, method.similarity)]
        return [start] if method.kind == "fine-tuned" else []

    # ---- what validation chooses ------------------------------------------------------------------

    def tuning_parts(self, method: Method, meta: Setting) -> list[Part]:
        """Return the parts that choose a method's setting, on validation customers of one seed and fold.

        Args:
            method: a row.
            meta: the chosen setting of meta-training, for rows that take over its g.

        """
        found = []
        for setting in candidates(method.kind, self.settings):
            own = tuple(setting.items())
            found.append(
                Part(
                    stage="tuning",
                    seed=TUNING_SEED,
                    fold=TUNING_FOLD,
                    method=method.name,
                    setting=own,
                    meta=self._meta_setting(method, own, tuple(meta.items())),
                )
            )
        return found

    def test_part(
        self, method: Method, experiment: Experiment, setting: Setting, meta: Setting, *, seed: int, fold: int
    ) -> Part:
        """Return a method's test of an experiment on one fold."""
        own = tuple(setting.items())
        return Part(
            stage="test",
            seed=seed,
            fold=fold,
            method=method.name,
            experiment=experiment,
            setting=own,
            meta=self._meta_setting(method, own, tuple(meta.items())),
        )

    def choose(self, parts: list[Part]) -> tuple[dict[str, float], float] | None:
        """Return the best setting and its mean validation AUC, or None where parts are missing."""
        found = [self.find(part) for part in parts]
        figures = [np.mean(one.facts["figures"]) for one in found if one is not None]
        if len(figures) < len(parts):
            return None
        best = int(np.argmax(figures))
        return dict(parts[best].setting), float(figures[best])

    # ---- computing -------------------------------------------------------------------------------

    def rows(self, fold: int) -> dict[str, TargetRows]:
        """Return the rows of the targets of a fold, kept for the next call."""
        if fold not in self._rows:
            self._rows[fold] = self.data.targets(fold)
        return self._rows[fold]

    def start_network(self, seed: int, fold: int) -> ProfileNetwork:
        """Return g as the source tasks left it.

        Raises:
            FileNotFoundError: the start is not there.

        """
        network = new_network(self.data, self.settings, seed)
        state = load_checkpoint(self._weights(Part(stage="start", seed=seed, fold=fold)))
        network.load_state_dict(state["profile"])
        return network

    def _fit_start(self, part: Part) -> dict[str, Any]:
        """Fit g to all source tasks; say how well it does on those of the fold's test customers."""
        data, settings, fold = self.data, self.settings, self.data.fold(part.fold)
        row, label = data.source_labels(part.fold, "train")
        network = new_network(data, settings, part.seed)
        model = fit_multi_task(
            network,
            data.inputs.take(row),
            label,
            fit_until=fold.split.end,
            config=stages(settings.source_steps, settings.max_rate, part.seed),
            batch_size=settings.batch_size,
        )
        save_checkpoint(self._weights(part), {"profile": network.state_dict()})
        return {"source_auc": self._source_figures(part.fold, model), "num_rows": len(row)}

    def _source_figures(self, fold: int, model: MultiTaskProfile) -> dict[str, float]:
        """Return the AUC of each source task on the test customers, NaN as None."""
        row, label = self.data.source_labels(fold, "test")
        logit = embed(model, self.data.inputs.take(row)).double().numpy()
        figures = {}
        for number, task in enumerate(self.data.fold(fold).sources):
            known = (~label[:, number].isnan()).numpy()
            truth = label[:, number].numpy()[known]
            if truth.min() < truth.max():
                figures[task.name] = float(auc(truth, logit[known, number]))
        return figures

    def _meta_train(self, part: Part) -> dict[str, Any]:
        """Meta-train g and f from the start on, and keep g's embeddings of the target rows."""
        data, settings = self.data, self.settings
        setting = dict(part.setting)
        row, label = data.source_labels(part.fold, "train")
        network = self.start_network(part.seed, part.fold)
        similarity = new_similarity(_similarity_of(part), settings, part.seed)
        losses = meta_train(
            network,
            similarity,
            data.inputs.take(row),
            label,
            fit_until=data.fold(part.fold).split.end,
            episodes=EpisodeConfig(
                num_ways=min(settings.num_ways, label.shape[1]),
                num_shots=int(setting["shots"]),
                batch_size=settings.batch_size,
                random_seed=part.seed,
            ),
            config=stages(settings.meta_steps, setting["rate"], part.seed),
            user=data.users_of(row),
        )
        embedding = embed(network, data.inputs.take(torch.arange(data.num_target_rows)))
        save_checkpoint(
            self._weights(part), {"similarity": similarity.state_dict(), "embedding": embedding.detach()}
        )
        tenth = max(len(losses) // 10, 1)
        return {"losses": [float(np.mean(losses[i : i + tenth])) for i in range(0, len(losses), tenth)]}

    def _tune(self, part: Part) -> list[float]:
        """Return the AUC of each tuned target on validation customers."""
        figures = []
        for name in self.tuned_targets:
            rows = self.rows(part.fold)[name]
            train, scored = rows.of_part("train"), rows.of_part("validation")
            value = self._score(part, train, scored, len(train.row))
            figures.append(float(auc(scored.label.numpy(), value)))
        return figures

    def _test(self, part: Part) -> tuple[dict[str, Any], pl.DataFrame]:
        """Score the test rows of all targets with the labels that each level of the experiment leaves."""
        names = self.data.target_names if part.experiment == "ood" else self.curve_targets
        frames, counts = [], list[dict[str, Any]]()
        for name in names:
            rows = self.rows(part.fold)[name]
            train, scored = rows.of_part("train"), rows.of_part("test")
            for level in LEVELS_OF[part.experiment]:
                labelled = _labelled(part, train, level)
                value = self._score(part, labelled, scored, len(train.row))
                positives = int(labelled.label.sum())
                counts.append(
                    {
                        "target": name,
                        "level": level,
                        "positives": positives,
                        "negatives": len(labelled.row) - positives,
                    }
                )
                frames.append(
                    pl.DataFrame(
                        {
                            "user_id": scored.user.numpy(),
                            "time": scored.time.numpy(),
                            "label": scored.label.numpy().astype(np.uint8),
                            "value": value,
                        }
                    ).select(pl.lit(name).alias("target"), pl.lit(level).alias("level"), pl.all())
                )
        return {"counts": counts}, pl.concat(frames)

    def _score(self, part: Part, labelled: TargetRows, scored: TargetRows, full_rows: int) -> np.ndarray:
        method = self._method(part)
        assert method is not None
        return score_target(
            self.data,
            method,
            dict(part.setting),
            self.settings,
            labelled,
            scored,
            seed=part.seed,
            fit_until=self.data.fold(part.fold).split.end,
            full_rows=full_rows,
            learned=None if method.similarity is None else self._load(self._meta_of(part, method.similarity)),
            start=lambda: self.start_network(part.seed, part.fold),
        )

    def _load(self, part: Part) -> Learned:
        """Return what a meta-training left, kept for the next call."""
        if self._learned is None or self._learned[0] != part:
            state = load_checkpoint(self._weights(part))
            similarity = new_similarity(_similarity_of(part), self.settings, part.seed)
            similarity.load_state_dict(state["similarity"])
            self._learned = part, Learned(similarity=similarity, embedding=state["embedding"])
        return self._learned[1]

    # ---- parts -----------------------------------------------------------------------------------

    def _weights(self, part: Part) -> Path:
        return part_path(self.folder, part.name, self.content(part)).with_suffix(".pt")

    def _method(self, part: Part) -> Method | None:
        return row_named(part.method, METHODS) if part.method else None

    def _meta_of(self, part: Part, similarity: SimilarityKind) -> Part:
        """Return the meta-training whose g and f a part reads."""
        return Part(stage="meta", seed=part.seed, fold=part.fold, similarity=similarity, setting=part.meta)

    def _meta_setting(
        self, method: Method, own: tuple[tuple[str, float], ...], chosen: tuple[tuple[str, float], ...]
    ) -> tuple[tuple[str, float], ...]:
        """Return the setting of the meta-training that a row with its own setting reads."""
        if method.kind in ("meta", "prototypes"):
            return own  # its setting is that of the meta-training
        return chosen if method.similarity is not None else ()


def _similarity_of(part: Part) -> SimilarityKind:
    return "prototypes" if part.similarity == "prototypes" else "relation"


def _labelled(part: Part, train: TargetRows, level: float) -> TargetRows:
    """Return the training rows whose labels a level of the part's experiment leaves."""
    if part.experiment == "masking":
        return mask_labels(train, level, part.seed)
    return imbalance_classes(train, level, part.seed) if part.experiment == "imbalance" else train
