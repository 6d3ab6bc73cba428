"""The README's Python runs and prints what stands below it; its commands and links exist."""

import contextlib
import io
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SNIPPET = re.compile(r"^```python\n(.*?)^```\n(?:```text\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)
PAGES = [
    (ROOT / "docs" / name).read_text()
    for name in ("samplers.md", "evaluation.md", "models.md", "userbert_own_log.md", "meta_profile.md")
]
SNIPPETS = [
    pytest.param(*found.groups(), id=text[: found.start()].rsplit("\n# ", 1)[-1].rsplit("\n## ", 1)[-1][:20])
    for text in (README, *PAGES)
    for found in SNIPPET.finditer(text)
]


def test_there_are_snippets():
    assert len(SNIPPETS) == "".join([README, *PAGES]).count("```python") == 9
    assert all(printed for _, printed in (snippet.values for snippet in SNIPPETS))


@pytest.mark.parametrize(("code", "printed"), SNIPPETS)
def test_snippet_prints_what_the_readme_says(code, printed):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, "README.md", "exec"), {"__name__": "readme"})
    assert out.getvalue() == printed


def test_make_knows_the_commands_and_variables():
    commands = re.findall(r"^(make .*?)(?:  +#.*)?$", README, re.MULTILINE)
    assert {"make demo", "make test"} < set(commands)
    for command in commands:
        done = subprocess.run(
            f"{command} --dry-run --always-make VENV=absent",
            shell=True,
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        torch_line, package_line = (line for line in done.stdout.splitlines() if " pip install " in line)
        index = re.search(r"TORCH_INDEX=(\S+)", command)
        assert torch_line.endswith(f"--index-url {index[1]} torch==2.13.0" if index else "  torch==2.13.0")
        assert "--constraint constraints.txt --editable" in package_line
        options = re.search(r'OPTIONS="(.*)"', command)
        assert options is None or f"-m experiments demo {options[1]}\n" in done.stdout


def test_links_lead_somewhere():
    text = "".join([README, *PAGES]) + (ROOT / "docs" / "architecture.md").read_text()
    links = re.findall(r"\[[^]]*\]\(([^)#]+)\)", text)
    inside = {link for link in links if not link.startswith("http")}
    assert len(inside) > 4
    missing = {link for link in inside if not (ROOT / link).exists() and not (ROOT / "docs" / link).exists()}
    assert not missing


@pytest.mark.parametrize("part", ["lsttm", "samplers", "evaluation"])
def test_parts_made_from_results_have_their_markers(part):
    begin, end = (README.index(f"<!-- {part}:{name} -->") for name in ("begin", "end"))
    assert README.rindex("\n## ", 0, begin) < begin < end < README.index("\n## ", begin)


def test_the_architecture_names_files_that_exist():
    table = (ROOT / "docs" / "architecture.md").read_text().split("## Files\n")[1]
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", table, re.MULTILINE)
    assert [folder for folder, _ in rows] == [
        "samplers",
        "graph_builders",
        "graphrec",
        "experiments",
        "tests",
    ]
    for folder, files in rows:
        for name in re.findall(r"`([\w/]+)`", files):
            assert any((ROOT / folder).rglob(f"{name}.py")) or any((ROOT / folder).rglob(name)), (
                folder,
                name,
            )
