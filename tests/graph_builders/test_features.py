import math

import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graph_builders import build_feature_table, fit_fields


def table():
    return build_feature_table(
        pl.DataFrame(
            {
                "city": ["b", "a", "b", None, "c", "a", "b"],
                "age": [1.0, 2.0, 3.0, 4.0, None, 6.0, 7.0],
                "tags": [["x"], ["y", "x", "z"], None, [], ["x", "y"], ["y"], ["y"]],
            }
        )
    )


def test_words_are_coded_by_frequency_and_rare_ones_are_unknown():
    assert fit_fields(table()).codes(table(), ["city"])[:, 0].tolist() == [1, 2, 1, 0, 3, 2, 1]
    fitted = fit_fields(table(), min_count=2)
    assert fitted.codes(table(), ["city"])[:, 0].tolist() == [1, 2, 1, 0, 0, 2, 1]
    assert fitted.num_codes["city"] == 3
    assert fitted.bag(table(), "tags").tolist() == [
        [2, 0, 0],
        [1, 2, 0],
        [0, 0, 0],
        [0, 0, 0],
        [2, 1, 0],
        [1, 0, 0],
        [1, 0, 0],
    ]
    assert fitted.bag(table(), "tags", max_values=1).tolist() == [[2], [1], [0], [0], [2], [1], [1]]


def test_fields_stand_in_the_order_asked_for():
    fitted = fit_fields(table(), num_bins=3)
    both = fitted.codes(table())
    assert both.shape == (7, 2)
    assert torch.equal(fitted.codes(table(), ["age", "city"]), both.flip(1))


def test_new_words_get_code_0_and_codes_follow_the_word():
    later = build_feature_table(pl.DataFrame({"city": ["new", "c", "a", "b"]}))
    assert fit_fields(table()).codes(later, ["city"])[:, 0].tolist() == [0, 3, 2, 1]


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.none() | st.integers(0, 6).map(float), min_size=1, max_size=12),
    num_bins=st.integers(1, 5),
)
def test_bins_are_ordered_and_no_wider_than_asked(values, num_bins):
    numbers = build_feature_table(pl.DataFrame({"age": values}, schema={"age": pl.Float64}))
    fitted = fit_fields(numbers, num_bins=num_bins)
    codes = fitted.codes(numbers)[:, 0].tolist()
    assert fitted.num_codes["age"] <= num_bins + 1
    assert all((code == 0) == (value is None) for code, value in zip(codes, values, strict=True))
    present = sorted((value, code) for code, value in zip(codes, values, strict=True) if code)
    assert [code for _, code in present] == sorted(code for _, code in present)
    for value in {value for value, _ in present}:
        assert len({code for other, code in present if other == value}) == 1
    if present:
        assert max(codes) == fitted.num_codes["age"] - 1  # every bin is used
        if len({value for value, _ in present}) == len(present):
            counts = [sum(code == bin_ for _, code in present) for bin_ in range(1, max(codes) + 1)]
            assert max(counts) <= math.ceil(len(present) / num_bins)


def test_only_fit_rows_are_looked_at():
    first = torch.tensor([True, True, True, False, False, False, False])
    fitted = fit_fields(table(), fit_rows=first, num_bins=2)
    assert fitted.fields["city"].words.to_list() == ["b", "a"]
    assert fitted.fields["tags"].words.to_list() == ["x", "y", "z"]
    assert fitted.fields["age"].edges.tolist() == [2.0]
    assert fitted.codes(table(), ["city"])[4].item() == 0


def test_a_fit_on_later_data_is_an_error():
    fitted = fit_fields(table(), fit_until=100)
    fitted.check_before(100)
    with pytest.raises(ValueError, match="until 100, labels begin at 99"):
        fitted.check_before(99)
    fit_fields(table()).check_before(0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fit_fields(table(), names=["town"]), r"no columns \['town'\]"),
        (lambda: fit_fields(table(), min_count=0), "at least 1"),
        (lambda: fit_fields(table()).codes(table(), ["town"]), "was not fitted"),
        (lambda: fit_fields(table()).codes(table(), ["tags"]), r"use bag\(\)"),
        (lambda: fit_fields(table()).bag(table(), "city"), r"use codes\(\)"),
    ],
)
def test_mistakes_are_told(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_rows_place_the_values():
    frame = pl.DataFrame({"a": ["x", "y"], "n": [1, 2], "l": [["u"], ["v", "u"]]})
    placed = build_feature_table(frame, rows=torch.tensor([3, 1]), num_rows=4)
    assert placed["a"].code.tolist() == [0, 1, 0, 2]
    assert placed["a"].vocabulary.to_list() == ["y", "x"]
    assert placed["n"].value.nan_to_num(-1).tolist() == [-1, 2, -1, 1]
    assert placed["l"].ptr.tolist() == [0, 0, 2, 2, 3]
    with pytest.raises(KeyError, match="no column 'b'"):
        placed["b"]
