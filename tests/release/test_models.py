"""The documents of a real release and of its store, through their models: the same bytes again."""

import pytest

from forge.core.results import Record
from forge.manifest.inputs import Inputs
from forge.manifest.provenance import Manifest
from forge.manifest.release_list import Release
from forge.manifest.tensor_list import TensorLine
from forge.manifest.verification import Report


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("provenance.json", Manifest),
        ("release.json", Release),
        ("verification.json", Report),
    ],
)
def test_document_of_a_release(good, name, model):
    data = (good / "provenance" / name).read_bytes()
    assert model.parse(data).encoded() == data


def test_lines_of_tensors(good):
    lines = (good / "provenance" / "tensors.jsonl").read_bytes().splitlines(keepends=True)
    assert len(lines) > 50
    for line in lines:
        assert TensorLine.parse(line).encoded() == line


@pytest.mark.parametrize(("name", "model"), [("record.json", Record), ("inputs.json", Inputs)])
def test_document_of_the_store(good, name, model):
    found = sorted((good.key.parent / "store").rglob(name))
    assert found
    for path in found:
        assert model.parse(path.read_bytes()).encoded() == path.read_bytes()
