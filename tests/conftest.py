"""Switches on run-time checks of every shape and dtype annotation, before the packages are imported."""

from jaxtyping import install_import_hook

install_import_hook(["samplers", "graph_builders", "graphrec"], "beartype.beartype")
