"""Parts on disk: found again, and named where they cannot be read."""

import polars as pl
import pytest

from experiments.kept_parts import find_part, kept_part

CONTENT = {"seed": 0}


def make(folder):
    return kept_part(folder, "a part", CONTENT, lambda: ({"figure": 0.5}, pl.DataFrame({"value": [1.0]})))


def test_a_finished_part_is_found(tmp_path):
    assert find_part(tmp_path, "a part", CONTENT) is None
    made, found = make(tmp_path), make(tmp_path)
    assert (made.is_new, found.is_new) == (True, False)
    assert found.facts == made.facts
    assert found.frame is not None
    assert found.frame.equals(made.frame)


@pytest.mark.parametrize("suffix", [".json", ".parquet"])
@pytest.mark.parametrize("size", [0, 9])
def test_a_cut_file_is_named_with_the_remedy(tmp_path, suffix, size):
    path = make(tmp_path).path.with_suffix(suffix)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match=rf"{path.name} is cut or damaged .*: delete it"):
        find_part(tmp_path, "a part", CONTENT)


def test_json_that_is_no_part_is_refused(tmp_path):
    make(tmp_path).path.write_text("[1]")
    with pytest.raises(ValueError, match="holds no facts of a part: delete it"):
        find_part(tmp_path, "a part", CONTENT)
