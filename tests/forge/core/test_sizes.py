"""A number of bytes is put into words in one way."""

import pytest

from forge.core.sizes import size


@pytest.mark.parametrize(
    ("count", "places", "said"),
    [
        (0, 2, "0.00 MB"),
        (1_575_680, 2, "1.58 MB"),
        (999_000_000, 2, "999.00 MB"),
        (1_000_000_000, 2, "1.00 GB"),
        (55_600_000_000, 2, "55.60 GB"),
        (107_000_001_000, 3, "107.000 GB"),
        (1_000, 3, "0.001 MB"),
    ],
)
def test_decimal_units(count, places, said):
    assert size(count, places) == said
