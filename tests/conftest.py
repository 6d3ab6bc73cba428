"""Switches on run-time checks of every shape and dtype annotation, before the packages are imported."""

from hypothesis import settings
from jaxtyping import install_import_hook

install_import_hook(["samplers", "graph_builders", "graphrec"], "beartype.beartype")

# the first call of a compiled function takes seconds
settings.register_profile("graphrec", deadline=None)
settings.load_profile("graphrec")
