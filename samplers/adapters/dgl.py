"""Imports DGL beside a torch that its graphbolt library was not built for.

``dgl.distributed`` imports ``dgl.graphbolt``, which needs a native library made for one exact version of
torch and parts of torchdata that are gone. The core (graphs, message passing, layers, samplers, data loaders)
needs neither, so a stub stands in for ``dgl.graphbolt`` where that library is missing.
"""

import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

_GRAPHBOLT = "dgl.graphbolt"
_LIBRARY_NAME = {"darwin": "libgraphbolt_pytorch_{}.dylib", "win32": "graphbolt_pytorch_{}.dll"}


def import_dgl() -> Any:
    """Import and return the module ``dgl``; later ``import dgl`` statements find it as well.

    Where DGL has a graphbolt library for the installed torch, this is a plain import. Elsewhere
    ``dgl.graphbolt`` becomes a stub whose attributes raise ``ImportError``, and all else works. If the import
    fails, the stub is taken away again.

    DGL asks for its backend in the environment variable ``DGLBACKEND`` or writes a file in the home folder;
    unset, it is "pytorch" during the import.

    Raises:
        ImportError: DGL is not installed, or cannot be imported for another reason.

    """
    if "dgl" in sys.modules:
        return sys.modules["dgl"]
    spec = importlib.util.find_spec("dgl")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError('DGL is not installed: pip install "graphrec[dgl]"')
    package = Path(spec.submodule_search_locations[0])
    with _backend_is_pytorch():
        if _GRAPHBOLT in sys.modules or graphbolt_library(package).exists():
            return importlib.import_module("dgl")
        stub = sys.modules[_GRAPHBOLT] = _GraphboltStub()
        try:
            dgl: Any = importlib.import_module("dgl")
        except BaseException:
            del sys.modules[_GRAPHBOLT]
            raise
    dgl.graphbolt = stub
    return dgl


def graphbolt_library(package: Path) -> Path:
    """Return where DGL, installed in the folder ``package``, looks for graphbolt's native library."""
    version = torch.__version__.split("+", maxsplit=1)[0]
    name = _LIBRARY_NAME.get(sys.platform, "libgraphbolt_pytorch_{}.so")
    return package / "graphbolt" / name.format(version)


class _GraphboltStub(ModuleType):
    """A package ``dgl.graphbolt`` without contents."""

    def __init__(self) -> None:
        super().__init__(_GRAPHBOLT, "Stands in for dgl.graphbolt, which cannot run on this torch.")
        self.__path__: list[str] = []
        self.__spec__ = ModuleSpec(_GRAPHBOLT, None, is_package=True)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # the import system and inspect ask for these and expect this answer
            raise AttributeError(name)
        raise ImportError(
            f"dgl.graphbolt.{name} needs a graphbolt library built for torch {torch.__version__}, which "
            "this DGL lacks: install a torch that it was built for, or use dgl.sampling and dgl.dataloading"
        )


@contextmanager
def _backend_is_pytorch() -> Iterator[None]:
    if "DGLBACKEND" in os.environ:
        yield
        return
    os.environ["DGLBACKEND"] = "pytorch"
    try:
        yield
    finally:
        del os.environ["DGLBACKEND"]
