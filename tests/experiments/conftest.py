"""Inputs that take long to load, once for all tests."""

import pytest

from experiments.inputs import load_inputs


@pytest.fixture(scope="session")
def kuairand_inputs():
    """The main job's inputs on the whole embedded data, in hours."""
    return load_inputs()
