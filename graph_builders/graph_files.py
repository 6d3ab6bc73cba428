"""A BehaviorGraph on disk: a folder of columns and a JSON header, memory-mapped when opened."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from graph_builders.behavior_graph import BehaviorGraph, Relation, RelationEdges
from graph_builders.feature_table import FeatureTable, column_arrays, column_from_arrays
from graph_builders.ids import IdMap
from samplers import TemporalCSR
from samplers.saved_folder import check_files, describe_files, new_folder, write_array, write_json

FORMAT = "BehaviorGraph"
FORMAT_VERSION = 1
_HEADER = "header.json"


class CorruptedGraphError(ValueError):
    """A folder that is not a whole BehaviorGraph of a known version."""


def save_graph(graph: BehaviorGraph, path: str | Path) -> None:
    """Write the folder ``path``: under another name first, then renamed, so that it is whole or absent.

    Raises:
        FileExistsError: there is something at ``path`` already.

    """
    with new_folder(Path(path)) as folder:
        header = _write(graph, folder)
        header["files"] = describe_files(folder)
        write_json(folder / _HEADER, header)


def open_graph(path: str | Path, *, verify: bool = False) -> BehaviorGraph:
    """Memory-map what ``save_graph`` wrote; the columns are read when they are looked at.

    Args:
        path: the folder.
        verify: compare the checksum of every file, which reads all of them. Sizes are always compared.

    Raises:
        CorruptedGraphError: no header, an unknown version, or a file that is missing, cut off or changed.

    """
    path = Path(path)
    header = _read_header(path)
    check_files(
        path, header["files"], verify=verify, error=CorruptedGraphError, remedy="copy or save the graph again"
    )
    try:
        return _read_graph(path, header)
    except Exception as error:  # each file's own reader has its own way to say that it is damaged
        raise CorruptedGraphError(f"{path} is damaged ({error}): copy or save the graph again") from error


def _read_graph(path: Path, header: dict[str, Any]) -> BehaviorGraph:
    ids = {name: IdMap.open(path / f"{name}.ids.arrow") for name in header["node_types"]}
    features = {
        name: _read_table(path / f"{name}.features", header["features"][name])
        for name in header["node_types"]
    }
    texts = {name: pl.read_ipc(path / f"{name}.text.arrow")["text"] for name in header["texts"]}
    relations = {
        Relation(entry["domain"], entry["behavior"]): RelationEdges(
            TemporalCSR.open(path / entry["folder"] / "by_item"),
            TemporalCSR.open(path / entry["folder"] / "by_user"),
            _read_table(path / entry["folder"] / "attributes", entry["attributes"]),
        )
        for entry in header["relations"]
    }
    return BehaviorGraph(ids, relations, features, texts, header["time_resolution"])


def _write(graph: BehaviorGraph, folder: Path) -> dict[str, Any]:
    header: dict[str, Any] = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "time_resolution": graph.time_resolution,
        "node_types": list(graph.node_types),
        "num_events": graph.num_events,
        "features": {},
        "texts": list(graph.texts),
        "relations": [],
    }
    for name, ids in graph.ids.items():
        ids.save(folder / f"{name}.ids.arrow")
        header["features"][name] = _write_table(graph.features[name], folder / f"{name}.features")
    for name, text in graph.texts.items():
        text.to_frame("text").write_ipc(folder / f"{name}.text.arrow")
    for number, (relation, edges) in enumerate(graph.relations.items()):
        place = folder / f"edges_{number:03d}"
        edges.by_item.save(place / "by_item")
        edges.by_user.save(place / "by_user")
        attributes = _write_table(edges.attributes, place / "attributes")
        header["relations"].append({**relation._asdict(), "folder": place.name, "attributes": attributes})
    return header


def _write_table(table: FeatureTable, folder: Path) -> dict[str, Any]:
    """Write a table's columns under numbers, since a name may be no file name; return its header."""
    folder.mkdir(parents=True)
    entries = []
    for number, (name, column) in enumerate(table.columns.items()):
        tensors = column_arrays(column)
        for key, tensor in tensors.items():
            write_array(folder / f"{number:03d}.{key}.npy", tensor.cpu().numpy())
        vocabulary = getattr(column, "vocabulary", None)
        if vocabulary is not None:
            vocabulary.to_frame("value").write_ipc(folder / f"{number:03d}.vocabulary.arrow")
        entries.append({"name": name, "tensors": list(tensors), "vocabulary": vocabulary is not None})
    return {"num_rows": table.num_rows, "columns": entries}


def _read_table(folder: Path, header: dict[str, Any]) -> FeatureTable:
    columns = {}
    for number, entry in enumerate(header["columns"]):
        tensors = {key: _map_column(folder / f"{number:03d}.{key}.npy") for key in entry["tensors"]}
        words = (
            pl.read_ipc(folder / f"{number:03d}.vocabulary.arrow")["value"] if entry["vocabulary"] else None
        )
        columns[entry["name"]] = column_from_arrays(tensors, words)
    return FeatureTable(header["num_rows"], columns)


def _map_column(file: Path) -> Tensor:
    # copy-on-write: torch has no read-only tensors, and nothing written to one reaches the file
    return torch.from_numpy(np.load(file, mmap_mode="c", allow_pickle=False))


def _read_header(path: Path) -> dict[str, Any]:
    try:
        header = json.loads((path / _HEADER).read_text())
    except (OSError, ValueError) as error:
        raise CorruptedGraphError(f"{path} holds no readable {_HEADER}: it is not a saved graph") from error
    if not isinstance(header, dict) or "files" not in header:
        raise CorruptedGraphError(
            f"{path / _HEADER} is no header of a saved graph: copy or save the graph again"
        )
    if header.get("format") != FORMAT or header.get("version") != FORMAT_VERSION:
        raise CorruptedGraphError(
            f"{path} has format {header.get('format')!r} version {header.get('version')!r}, this release "
            f"reads {FORMAT!r} version {FORMAT_VERSION}: build the graph again from its events"
        )
    return header
