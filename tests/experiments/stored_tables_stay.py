"""What commands of resumable tables must hold: stored tables stay where a run has nothing new."""

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

    shutil.copytree(finished.stored, folder / "results")
    (folder / "docs").mkdir(exist_ok=True)
    shutil.copy(page, folder / "docs")
    before = contents(folder)
    with pytest.raises(ValueError, match="no row is finished in"):
        tables.run()
    assert contents(folder) == before
    shutil.copytree(parts, folder / "work", dirs_exist_ok=True)
    tables.run()
    assert "--replace-stored puts them there" in read_output()
    now = contents(folder)
    assert {path: now[path] for path in before} == before
    for path in finished.stored.glob("*.jsonl"):
        assert (tables.own_results / path.name).read_bytes() == path.read_bytes()


def check_second_run_computes_nothing(finished, num_files, patch, *computing, tables_once=False):
    """See that a run of finished parts computes none of them again and writes the same tables.

    Args:
        finished: a whole run, whose tables are stored.
        num_files: of these tables.
        patch: pytest's.
        computing: names of the methods that compute its parts.
        tables_once: leave out the tables that are made between parts, where they take long.

    """

    def refuse(*_, **__):
        raise AssertionError("a finished part was computed again")

    before = contents(finished.stored, "*.jsonl")
    assert len(before) == num_files
    for name in computing:
        patch.setattr(type(finished.parts), name, refuse)
    with patch.context() as while_running:
        if tables_once:
            while_running.setattr(finished, "write_tables", lambda: None)
        finished.run_parts()
    finished.write_tables()
    assert contents(finished.stored, "*.jsonl") == before


def contents(folder, pattern="*"):
    return {path: path.read_bytes() for path in folder.rglob(pattern) if path.is_file()}
