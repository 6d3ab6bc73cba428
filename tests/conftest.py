"""Switches on run-time checks of every shape and dtype annotation, before the packages are imported."""

import pytest
import torch
from hypothesis import settings
from jaxtyping import install_import_hook

install_import_hook(["samplers", "graph_builders", "graphrec"], "beartype.beartype")

# the first call of a compiled function takes seconds
settings.register_profile("graphrec", deadline=None)
settings.load_profile("graphrec")


@pytest.fixture(autouse=True)
def _same_number_of_threads():
    """Put back what a command sets for its process: with other threads, sums differ in the last bit."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
