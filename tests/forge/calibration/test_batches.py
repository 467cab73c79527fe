"""Rows are joined into samples in order, each at most once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forge.calibration.batches import Joined, join


def test_the_row_that_fills_a_sample_is_cut_there():
    """The next sample starts with the row after it, and what does not fill one is left out."""
    rows = [[1, 2], [3, 4], [5], [6, 7, 8, 9], [10]]
    assert list(join(rows, 9, 3)) == [
        Joined(ids=(1, 2, 3), rows=(0, 1)),
        Joined(ids=(5, 6, 7), rows=(2, 3)),
    ]


def test_a_row_of_just_the_length_is_a_sample():
    assert [sample.rows for sample in join([[1, 2], [3], [4]], 9, 2)] == [(0, 0), (1, 2)]


def test_rows_beyond_the_last_sample_are_not_looked_at():
    """Tokens are made as they are asked for."""

    def rows():
        yield [1, 2]
        yield [3, 4]
        pytest.fail("a third row was asked for")

    assert len(list(join(rows(), 2, 2))) == 2


@given(
    st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=5), max_size=30),
    st.integers(1, 6),
    st.integers(1, 8),
)
def test_every_sample_is_full_and_no_row_is_in_two(rows, count, tokens):
    made = list(join(rows, count, tokens))
    assert len(made) <= count
    after = 0
    for sample in made:
        first, last = sample.rows
        assert first == after
        joined = [token for row in rows[first : last + 1] for token in row]
        assert sample.ids == tuple(joined[:tokens])
        assert len(sample.ids) == tokens
        assert len(joined) - len(rows[last]) < tokens
        after = last + 1
    # Whatever is left would not fill another sample.
    assert len(made) == count or sum(map(len, rows[after:])) < tokens
