"""How tests break a checkpoint, and which gates then fail."""

import json
from hashlib import sha256

import numpy as np

from assay.checks import declared, structure
from assay.checks.structure import Listed
from forge.core import canonical
from forge.core.errors import TensorFileError
from forge.tensors import tensorfile
from forge.tensors.tensorfile import Spec


def listed(folder):
    """The digests that a build would have taken, had it written what is there."""
    files = {name: canonical.sha256_file(folder / name) for name in declared.files_of(folder)}
    try:
        tensors = tensorfile.read_checkpoint(folder)
    except TensorFileError:  # which is what the gate is to find
        tensors = {}
    digests = {name: sha256(tensor.read()).hexdigest() for name, tensor in tensors.items()}
    return Listed(files=files, tensors=digests)


def failed(built, checkpoint, written=None):
    """The gates that fail; of a checkpoint that lists its own digests, unless they are given."""
    written = written or listed(checkpoint)
    checks = structure.run(built.made, checkpoint, built.results["fetch"], written).checks
    canonical.dumps([check.as_json() for check in checks])  # whatever was found can be reported
    return {check.name for check in checks if not check.passed}


def poke(checkpoint, name, change):
    """Changes a tensor's bytes where they lie."""
    tensor = tensorfile.read_checkpoint(checkpoint)[name]
    data = bytearray(tensor.read())
    change(data)
    with tensor.file.open("r+b") as file:
        file.seek(tensor.offset)
        file.write(data)


def edit_json(path, change):
    data = json.loads(path.read_text(encoding="utf-8"))
    change(data)
    path.write_text(json.dumps(data), encoding="utf-8")


def flip_a_bit(data):
    data[len(data) // 2] ^= 1


def set_nan(dtype):
    def change(data):
        data[: np.dtype(dtype).itemsize] = np.array([np.nan], dtype=dtype).tobytes()

    return change


def rewrite(checkpoint, file, keep):
    """Writes a shard anew with some of its tensors, and the index to match."""
    tensors = [t for t in tensorfile.read_header(checkpoint / file) if keep(t)]
    specs = [Spec(name=t.name, dtype=t.dtype, shape=t.shape) for t in tensors]
    data = b"".join(t.read() for t in tensors)
    (checkpoint / file).write_bytes(tensorfile.header_bytes(specs) + data)
    names = {spec.name for spec in specs}

    def forget(index):
        gone = [n for n, f in index["weight_map"].items() if f == file and n not in names]
        for name in gone:
            del index["weight_map"][name]
        index["metadata"]["total_size"] = sum(
            t.nbytes
            for path in checkpoint.glob("*.safetensors")
            for t in tensorfile.read_header(path)
        )

    edit_json(checkpoint / tensorfile.INDEX, forget)
