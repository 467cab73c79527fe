"""The MTP head: the declared set, byte for byte, or an error."""

import pytest
from conftest import write_checkpoint

from forge.checkpoint import graft
from forge.core import canonical
from forge.core.errors import GraftError
from forge.tensors import tensorfile


def test_copies_byte_for_byte(flagship, base, arrays, tmp_path):
    path = tmp_path / graft.FILE
    digest = graft.graft(tensorfile.read_checkpoint(base), flagship.mtp.tensors, path)
    found = tensorfile.read_header(path)
    assert sorted(flagship.mtp.tensors) == [tensor.name for tensor in found]
    assert all(arrays[tensor.name].tobytes() == tensor.read() for tensor in found)
    assert digest == canonical.sha256_file(path)


def test_missing_tensor(flagship, arrays, tmp_path):
    del arrays["mtp.norm.weight"]
    source = tensorfile.read_checkpoint(write_checkpoint(tmp_path / "base", arrays))
    with pytest.raises(GraftError, match=r"has 14 tensor\(s\).* declares 15.*mtp\.norm\.weight"):
        graft.graft(source, flagship.mtp.tensors, tmp_path / graft.FILE)
    assert not (tmp_path / graft.FILE).exists()


def test_undeclared_tensor(flagship, arrays, tmp_path):
    arrays["mtp.layers.1.norm.weight"] = arrays["mtp.norm.weight"]
    source = tensorfile.read_checkpoint(write_checkpoint(tmp_path / "base", arrays))
    with pytest.raises(GraftError, match=r"undeclared \['mtp\.layers\.1\.norm\.weight'\]"):
        graft.graft(source, flagship.mtp.tensors, tmp_path / graft.FILE)
