"""What commands of resumable tables must hold: stored tables stay where a run has less or other options."""

import shutil

import pytest


def check_stored_tables_stay(finished, tables, page, parts, folder, read_output):
    """See that neither a fresh clone nor a run with other options changes stored tables or the page.

    Args:
        finished: a whole run, whose tables are stored.
        tables: of the same rows in ``folder``, to make tables alone, without ``replace_stored``.
        page: the command's page as the project has it.
        parts: folder of the parts of ``finished``.
        folder: holds the folders ``results``, ``docs`` and ``work`` of ``tables``.
        read_output: returns what was printed.

    """

    def contents():
        return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    shutil.copytree(finished.stored, folder / "results")
    (folder / "docs").mkdir(exist_ok=True)
    shutil.copy(page, folder / "docs")
    before = contents()
    with pytest.raises(ValueError, match="no row is finished in"):
        tables.run()
    assert contents() == before
    shutil.copytree(parts, folder / "work", dirs_exist_ok=True)
    tables.run()
    assert "--replace-stored puts them there" in read_output()
    now = contents()
    assert {path: now[path] for path in before} == before
    for path in finished.stored.glob("*.jsonl"):
        assert (tables.own_results / path.name).read_bytes() == path.read_bytes()
