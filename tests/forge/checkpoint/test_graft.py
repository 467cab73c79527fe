"""The MTP head: the declared set, byte for byte, or an error."""

import os
from hashlib import sha256

import pytest
from conftest import write_checkpoint

from forge.checkpoint import graft, layout
from forge.core import canonical
from forge.core.errors import GraftError
from forge.tensors import tensorfile


def test_copies_byte_for_byte(flagship, base, arrays, tmp_path):
    path = tmp_path / layout.HEAD
    source = tensorfile.read_checkpoint(base)
    digest, lines = graft.graft(source, digests(source), flagship.mtp.tensors, path)
    found = tensorfile.read_header(path)
    assert sorted(flagship.mtp.tensors) == [tensor.name for tensor in found]
    assert all(arrays[tensor.name].tobytes() == tensor.read() for tensor in found)
    assert digest == canonical.sha256_file(path)
    assert {line.name: line.sha256 for line in lines} == digests({t.name: t for t in found})
    assert {path.name} == {line.file for line in lines}


def digests(tensors):
    return {name: sha256(tensor.read()).hexdigest() for name, tensor in tensors.items()}


def test_bit_that_flipped_since_the_head_was_fetched(flagship, base, tmp_path):
    """With the same size and time of the file, nothing else would tell."""
    source = tensorfile.read_checkpoint(base)
    before = digests(source)
    tensor = source["mtp.fc.weight"]
    status = tensor.file.stat()
    with tensor.file.open("r+b") as file:
        file.seek(tensor.offset)
        file.write(bytes([tensor.read()[0] ^ 1]))
    os.utime(tensor.file, ns=(status.st_atime_ns, status.st_mtime_ns))
    now = digests(source)["mtp.fc.weight"]
    said = rf"'mtp\.fc\.weight' has sha256 {now}, fetched was {before['mtp.fc.weight']}"
    with pytest.raises(GraftError, match=said):
        graft.graft(source, before, flagship.mtp.tensors, tmp_path / layout.HEAD)


def test_missing_tensor(flagship, arrays, tmp_path):
    del arrays["mtp.norm.weight"]
    source = tensorfile.read_checkpoint(write_checkpoint(tmp_path / "base", arrays))
    with pytest.raises(GraftError, match=r"has 14 tensor\(s\).* declares 15.*mtp\.norm\.weight"):
        graft.graft(source, digests(source), flagship.mtp.tensors, tmp_path / layout.HEAD)
    assert not (tmp_path / layout.HEAD).exists()


def test_undeclared_tensor(flagship, arrays, tmp_path):
    arrays["mtp.layers.1.norm.weight"] = arrays["mtp.norm.weight"]
    source = tensorfile.read_checkpoint(write_checkpoint(tmp_path / "base", arrays))
    with pytest.raises(GraftError, match=r"undeclared \['mtp\.layers\.1\.norm\.weight'\]"):
        graft.graft(source, digests(source), flagship.mtp.tensors, tmp_path / layout.HEAD)
