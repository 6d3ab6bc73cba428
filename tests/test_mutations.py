"""The mutations of ``tests/mutations.py`` still apply to the code; running them all takes minutes."""

import pytest

from tests.mutations import MUTATIONS, ROOT, Mutation


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_mutation_applies(mutation, tmp_path):
    target = tmp_path / mutation.file
    target.parent.mkdir(parents=True)
    before = (ROOT / mutation.file).read_text()
    target.write_text(before)
    mutation.apply(tmp_path)
    after = target.read_text()
    assert after != before
    compile(after, mutation.file, "exec")
    assert all((ROOT / test).exists() for test in mutation.tests)


def test_a_text_that_is_not_there_once_is_told(tmp_path):
    (tmp_path / "twice.py").write_text("x = 1\nx = 1\n")
    for old in ("x = 1", "y"):
        with pytest.raises(ValueError, match=r"twice.py has [02] times the text"):
            Mutation("name", "twice.py", old, "x = 2").apply(tmp_path)


def test_names_differ():
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS)
