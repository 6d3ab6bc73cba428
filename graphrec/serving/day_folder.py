"""The day's folder: everything that serving one day needs, written whole or not at all.

The daily job writes it; it holds no code and needs none of the experiments to be read.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graph_builders.behavior_graph import BehaviorGraph
from graph_builders.ids import IdMap
from graphrec.models import LSTTM
from graphrec.models.inputs import InputSizes, NodeFields
from graphrec.serving.counts import CountedEvents, CountedFeatures, CountPlan, GroupedTimes, PastCounts
from graphrec.serving.scaling import FittedScaler
from graphrec.training.batches import ShortTermConfig
from graphrec.training.checkpoint import load_checkpoint, save_checkpoint
from graphrec.training.online import OnlineConfig
from samplers import EdgeType, TemporalCSR
from samplers.saved_folder import check_files, checksum, describe_files, new_folder, write_array, write_json

FORMAT = "graphrec day folder"
FORMAT_VERSION = 2
_HEADER = "day.json"
_PACKAGES = ("graphrec", "torch", "numpy", "polars", "scipy")
_COUNTS = ("code", "code_ptr", "row_ptr", "row_first", "time")
_MAPPED = (*(f"counts.{name}.npy" for name in (*_COUNTS, "user_value", "item_attributes")), "graph/")


class DayFolderError(ValueError):
    """A folder that is not a whole day's folder of this version."""


@dataclass(frozen=True, kw_only=True)
class DayConfig:
    """What a day's folder says about itself; all times are in the unit of the data.

    Attributes:
        day: its name.
        start: its first time, which the model and everything else precede.
        period: length of a period; queries are as of the period's start.
        utc_offset: local time minus UTC.
        units_per_hour: units of time in an hour.
        model_options: arguments of LSTTM beside the sizes.
        sizes: numbers of codes of the model's inputs.
        short_term: how the short-term graph is sampled.
        online: form and rates of the update at the end of a period.
        batch_size: impressions in a batch when a period's gradient is taken.
        contexts: the model's context fields: "hour" is the local hour in which the period starts, every other
            one is a column of the events and of a request's context.
        relations: (domain, behaviour) of the short-term graph, in the order of its edge types.
        known_relations: pairs that events may have.
        label_domains: domains whose events are impressions to learn from.
        clicked, skipped: behaviours of an impression with label 1 and 0.
        counts: the model's past counts; None for a model without them.
        event_sizes: one more than the largest code of each of the counts' event columns.
        fingerprint: of the data that the model was trained on.

    """

    day: str
    start: int
    period: int
    utc_offset: int
    units_per_hour: int
    model_options: Mapping[str, Any]
    sizes: InputSizes
    short_term: ShortTermConfig
    online: OnlineConfig
    batch_size: int
    contexts: tuple[str, ...]
    relations: tuple[tuple[str, str], ...]
    known_relations: tuple[tuple[str, str], ...]
    label_domains: tuple[str, ...]
    clicked: str
    skipped: str
    counts: CountedFeatures | None
    event_sizes: tuple[int, ...]
    fingerprint: str

    @property
    def event_columns(self) -> tuple[str, ...]:
        """Columns of whole numbers that events and requests have beyond the log's own."""
        counted = () if self.counts is None else self.counts.event_columns
        return tuple(dict.fromkeys([*counted, *(name for name in self.contexts if name != "hour")]))

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {**asdict(self), "counts": None if self.counts is None else self.counts.to_json()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "DayConfig":
        """Read what :meth:`to_json` returned, from JSON."""
        sizes: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in value["sizes"].items()}
        pairs = {n: tuple((d, b) for d, b in value[n]) for n in ("relations", "known_relations")}
        return cls(
            **{
                **value,
                **pairs,
                "sizes": InputSizes(**sizes),
                "short_term": ShortTermConfig(**value["short_term"]),
                "online": OnlineConfig(**value["online"]),
                "contexts": tuple(value["contexts"]),
                "label_domains": tuple(value["label_domains"]),
                "event_sizes": tuple(value["event_sizes"]),
                "counts": None if value["counts"] is None else CountedFeatures.from_json(value["counts"]),
            }
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class DayFolder:
    """An opened folder.

    Attributes:
        config: what it says about itself.
        graph: the short-term graph as of the day's start, with the ID maps of users and items.
        model: the weights as trained.
        long_term: long-term vectors of all users and items, by node type; the last row is of unseen IDs.
        preference: preference vectors of the same rows, the bias last; none for a model without them.
        user_fields, item_fields: field codes of all nodes.
        counts: past counts as of the day's start; None for a model without them.
        scaler: of the counts; None for a model without them.
        identity: a checksum of all files' checksums; empty until the folder has been written.

    """

    config: DayConfig
    graph: BehaviorGraph
    model: LSTTM
    long_term: Mapping[str, Tensor]
    preference: Mapping[str, Tensor]
    user_fields: NodeFields
    item_fields: NodeFields
    counts: PastCounts | None
    scaler: FittedScaler | None
    identity: str = ""

    @property
    def ids(self) -> Mapping[str, IdMap]:
        """ID maps by node type."""
        return self.graph.ids

    def short_term_graph(self) -> dict[EdgeType, TemporalCSR]:
        """Return the edge types of the short-term graph in the model's order; some may be empty."""
        there, sizes = self.graph.csrs(), self.graph.num_nodes
        out = {}
        for domain, behavior in self.config.relations:
            for edge_type in (
                ("user", f"{domain}:{behavior}", "item"),
                ("item", f"rev_{domain}:{behavior}", "user"),
            ):
                out[edge_type] = there.get(edge_type) or TemporalCSR.from_edge_index(
                    torch.zeros(2, 0, dtype=torch.int64),
                    torch.zeros(0, dtype=torch.int64),
                    num_rows=sizes[edge_type[2]],
                    num_cols=sizes[edge_type[0]],
                    row="destination",
                )
        return out


def make_counts(
    config: DayConfig,
    num_users: int,
    item_attributes: np.ndarray,
    user_value: np.ndarray,
    events: CountedEvents | GroupedTimes | None,
) -> PastCounts:
    """Return past counts over events before the day, or over what has been grouped of them already.

    Args:
        config: of the day, with counts.
        num_users: rows of users, without the unseen one.
        item_attributes: (item rows, item columns), int64.
        user_value: (user rows, stored numbers), float32.
        events: before the day; None: there are none.

    """
    assert config.counts is not None
    plan = CountPlan(config.counts, item_attributes, num_users, config.event_sizes)
    nothing = np.zeros(0, np.int64)
    none = CountedEvents(nothing, nothing, nothing, nothing, np.zeros((0, len(config.event_sizes)), np.int64))
    base = events if isinstance(events, GroupedTimes) else plan.group(none if events is None else events)
    return PastCounts(plan, user_value, base, plan.group(none))


def write_day_folder(path: Path, day: DayFolder) -> None:
    """Write a folder under another name, then rename it, so that it is whole or absent.

    Raises:
        FileExistsError: there is something at ``path`` already.

    """
    with new_folder(path) as folder:
        day.graph.compact().save(folder / "graph")
        save_checkpoint(folder / "model.pt", day.model.state_dict())
        save_checkpoint(folder / "long_term.pt", dict(day.long_term))
        save_checkpoint(folder / "preference.pt", dict(day.preference))
        fields = {"user": day.user_fields, "item": day.item_fields}
        save_checkpoint(
            folder / "fields.pt", {name: {"codes": f.codes, "bag": f.bag} for name, f in fields.items()}
        )
        if day.counts is not None and day.scaler is not None:
            arrays = {name: getattr(day.counts.base, name) for name in _COUNTS}
            arrays |= {
                "user_value": day.counts.user_value,
                "item_attributes": day.counts.plan.item_attributes,
            }
            arrays |= {name: getattr(day.scaler, name) for name in ("quantiles", "references", "marked")}
            for name, array in arrays.items():
                write_array(folder / f"counts.{name}.npy", array)
        header = {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "config": day.config.to_json(),
            "packages": {name: version(name) for name in _PACKAGES},
            "files": describe_files(folder),
        }
        write_json(folder / _HEADER, header)


def open_day_folder(path: Path, *, verify: bool = False) -> DayFolder:
    """Open a folder; the graph and the counts are mapped into memory, the rest is read.

    Args:
        path: the folder.
        verify: compare the checksums of mapped files too, which reads all of them. The sizes of all files and
            the checksums of those that are read are always compared.

    Raises:
        DayFolderError: no such folder, another format or version, or a file missing, cut off or changed.

    """
    header = _read_header(path)
    for name, described in header["files"].items():
        check_files(
            path,
            {name: described},
            verify=verify or not name.startswith(_MAPPED),
            error=DayFolderError,
            remedy="copy the folder again",
        )
    try:
        config = DayConfig.from_json(header["config"])
        model = LSTTM(config.sizes, **config.model_options)
        model.load_state_dict(load_checkpoint(path / "model.pt"))
        fields = {name: NodeFields(**part) for name, part in load_checkpoint(path / "fields.pt").items()}
        graph = BehaviorGraph.open(path / "graph")
        counts, scaler = _open_counts(path, config, graph) if config.counts is not None else (None, None)
        return DayFolder(
            config=config,
            graph=graph,
            model=model.eval(),
            long_term=load_checkpoint(path / "long_term.pt"),
            preference=load_checkpoint(path / "preference.pt"),
            user_fields=fields["user"],
            item_fields=fields["item"],
            counts=counts,
            scaler=scaler,
            identity=checksum(path / _HEADER),
        )
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise DayFolderError(f"{path} is damaged ({error}): run its daily job again") from error


def _open_counts(path: Path, config: DayConfig, graph: BehaviorGraph) -> tuple[PastCounts, FittedScaler]:
    def array(name: str) -> np.ndarray:
        return np.load(path / f"counts.{name}.npy", mmap_mode="c", allow_pickle=False)

    base = GroupedTimes(*(np.asarray(array(name)) for name in _COUNTS))
    attributes, user_value = np.asarray(array("item_attributes")), np.asarray(array("user_value"))
    counts = make_counts(config, graph.ids["user"].num_ids, attributes, user_value, base)
    scaler = FittedScaler(*(np.array(array(name)) for name in ("quantiles", "references", "marked")))
    return counts, scaler


def _read_header(path: Path) -> dict[str, Any]:
    try:
        header = json.loads((path / _HEADER).read_text())
    except (OSError, ValueError) as error:
        raise DayFolderError(
            f"{path} holds no readable {_HEADER}: make it with `python -m experiments daily_job`"
        ) from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise DayFolderError(f"{path / _HEADER} is not that of a day's folder: check the path")
    if header.get("version") != FORMAT_VERSION:
        raise DayFolderError(
            f"{path} has version {header.get('version')!r}, this release reads version {FORMAT_VERSION}: "
            "run its daily job again with this release"
        )
    return header
