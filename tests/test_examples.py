"""Every script in examples/ runs as its docstring says and prints a result; after a few steps, if it can."""

import ast
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / "examples").glob("*.py"))
NEEDS = {"dgl_gat": ("dgl", "pandas")}  # the extra [dgl]


def test_there_are_examples():
    assert SCRIPTS


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_example_runs(script):
    missing = [name for name in NEEDS.get(script.stem, ()) if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"{script.name} needs {missing}")
    command = f"python {script.relative_to(ROOT)}"
    source = script.read_text()
    docstring = ast.get_docstring(ast.parse(source))
    assert docstring is not None
    assert command in docstring, f"the docstring of {script.name} must say how to run it: {command}"
    done = subprocess.run(
        [sys.executable, str(script), *(["--steps", "3"] if '"--steps"' in source else [])],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert any(character.isdigit() for character in done.stdout), "an example prints a figure"
