"""Each way to stop has an exit code of its own, and the documentation has all of them."""

import pickle

import pytest

from forge.core import checkout, errors, exit_codes
from forge.core.errors import HallmarkError, ReleaseError, UnpinnedError

CLASSES = [
    found
    for found in vars(errors).values()
    if isinstance(found, type) and issubclass(found, HallmarkError) and found is not HallmarkError
]


@pytest.mark.parametrize("attribute", ["code", "name"])
def test_every_error_has_its_own(attribute):
    values = [vars(found).get(attribute) for found in CLASSES]
    assert None not in values
    assert len(set(values)) == len(values) > 20


def test_codes_are_no_shells_nor_signals():
    """1 is a bug, 2 a usage error; 126 and above are the shell's."""
    assert all(2 < found.code < 126 for found in CLASSES)


def test_documentation_has_the_table():
    page = (checkout.ROOT / "docs/exit-codes.md").read_text(encoding="utf-8")
    assert exit_codes.table() in page, "put there what `python -m forge exit-codes` prints"
    assert "| 36 | no room |" in exit_codes.table()


def test_remedy_of_the_class_and_of_the_error():
    assert UnpinnedError("x").remedy == "unpinned"
    assert UnpinnedError("x", remedy="unpinned-source").remedy == "unpinned-source"
    assert ReleaseError("x").remedy is None


def test_remedy_and_facts_survive_another_process():
    error = pickle.loads(pickle.dumps(ReleaseError("x: y.", remedy="not-released", folder="z")))  # noqa: S301
    assert (str(error), error.remedy, error.facts) == ("x: y.", "not-released", {"folder": "z"})
