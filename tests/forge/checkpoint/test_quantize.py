"""The streaming quantizer: a pure function from base, record and rules to shards."""

import errno
import hashlib
import itertools
import os
import resource

import numpy as np
import pytest
from conftest import FLAGSHIP, MIXED, base_arrays, build_small, write_checkpoint

from forge.checkpoint import quantize
from forge.core import canonical, disk
from forge.core.errors import QuantizeError, SpaceError
from forge.pipeline import work_on
from forge.recipes import recipe as recipes
from forge.tensors import nvfp4, small_floats, stream, tensorfile
from forge.tensors.plan import make_plan


def run(recipe, base, out, shard_bytes=5_000_000_000, digests=None):
    tensors = tensorfile.read_checkpoint(base)
    plan = make_plan(recipe, tensors)
    maxima = {name: np.float32(1 + number) for number, name in enumerate(plan.quantized)}
    out.mkdir()
    digests = digests or {path.name: canonical.sha256_file(path) for path in base.iterdir()}
    return quantize.quantize(tensors, digests, plan, maxima, shard_bytes, out).files


def stored(folder):
    return {
        tensor.name: tensor
        for path in sorted(folder.iterdir())
        for tensor in tensorfile.read_header(path)
    }


def test_quantized_linears_and_copies(flagship, base, arrays, tmp_path):
    """A group carries one global scale, its codes are those of the loops, all else is copied."""
    run(flagship, base, tmp_path / "out")
    found = stored(tmp_path / "out")
    plan = make_plan(flagship, tensorfile.read_checkpoint(base))
    for group in plan.groups:
        largest = max(nvfp4.amax(arrays[f"{module}.weight"], module) for module in group)
        scale_2 = small_floats.global_scale(largest)
        for module in group:
            codes, scales = nvfp4.pack(arrays[f"{module}.weight"], scale_2)
            assert codes.tobytes() == found[f"{module}.weight"].read()
            assert scales.tobytes() == found[f"{module}.weight_scale"].read()
            assert scale_2.tobytes() == found[f"{module}.weight_scale_2"].read()
    for name in plan.keep:
        assert arrays[name].tobytes() == found[name].read()
    assert not any(name.startswith("mtp.") for name in found)


def test_input_scales_come_from_the_record(flagship, base, tmp_path):
    run(flagship, base, tmp_path / "out")
    found = stored(tmp_path / "out")
    plan = make_plan(flagship, tensorfile.read_checkpoint(base))
    for number, module in enumerate(plan.quantized):
        expected = small_floats.global_scale(np.float32(1 + number))
        assert expected.tobytes() == found[f"{module}.input_scale"].read()


def test_returned_digests_are_those_of_the_files(flagship, base, tmp_path):
    digests = run(flagship, base, tmp_path / "out", shard_bytes=4000)
    files = {path.name: canonical.sha256_file(path) for path in (tmp_path / "out").iterdir()}
    assert digests == files
    assert len(files) > 2


def test_another_hash_is_used_for_what_is_read_and_what_is_written(flagship, base, tmp_path):
    """The benchmark leaves sha256 out so; the bytes stay the same."""
    tensors = tensorfile.read_checkpoint(base)
    plan = make_plan(flagship, tensors)
    maxima = {name: np.float32(1 + number) for number, name in enumerate(plan.quantized)}
    (tmp_path / "md5").mkdir()
    digests = quantize.quantize(
        tensors, md5_digests(base), plan, maxima, 4000, tmp_path / "md5", new_hash=hashlib.md5
    ).files
    assert digests == md5_digests(tmp_path / "md5")
    run(flagship, base, tmp_path / "sha256", shard_bytes=4000)
    assert digests == md5_digests(tmp_path / "sha256")


@pytest.mark.parametrize("shard_bytes", [4000, 1 << 30])
def test_digests_of_tensors_are_those_of_their_bytes(flagship, base, tmp_path, shard_bytes):
    """Whether taken on writing, or, of what is copied, on arrival."""
    tensors = tensorfile.read_checkpoint(base)
    plan = make_plan(flagship, tensors)
    maxima = dict.fromkeys(plan.quantized, np.float32(1))
    files = {path.name: canonical.sha256_file(path) for path in base.glob("*.safetensors")}
    arrived = {name: hashlib.sha256(tensor.read()).hexdigest() for name, tensor in tensors.items()}
    listed = []
    for number, known in enumerate((arrived, {})):
        out = tmp_path / str(number)
        out.mkdir()
        written = quantize.quantize(
            tensors, files, plan, maxima, shard_bytes, out, arrived=known
        ).tensors
        stored = [t for path in sorted(out.iterdir()) for t in tensorfile.read_header(path)]
        assert [(t.name, t.file.name, hashlib.sha256(t.read()).hexdigest()) for t in stored] == [
            (line.name, line.file, line.sha256) for line in written
        ]
        listed.append(written)
    assert listed[0] == listed[1]


def md5_digests(folder):
    return {
        path.name: hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
        for path in folder.glob("*.safetensors")
    }


@pytest.mark.parametrize("shard_bytes", [1, 3000, 10_000, 1 << 40])
def test_sharding_moves_no_byte(flagship, base, tmp_path, shard_bytes):
    """Whatever the shard size: the same tensors, and no shard over it but for single tensors."""
    run(flagship, base, tmp_path / "one")
    run(flagship, base, tmp_path / "many", shard_bytes=shard_bytes)
    one, many = stored(tmp_path / "one"), stored(tmp_path / "many")
    assert [*one] == [*many]
    assert all(one[name].read() == many[name].read() for name in one)
    for path in (tmp_path / "many").iterdir():
        tensors = tensorfile.read_header(path)
        assert len(tensors) == 1 or sum(tensor.nbytes for tensor in tensors) <= shard_bytes


def test_two_runs_give_the_same_bytes(flagship, base, tmp_path):
    assert run(flagship, base, tmp_path / "a") == run(flagship, base, tmp_path / "b")


def test_base_sharding_changes_no_tensor(flagship, base, arrays, tmp_path):
    """A group whose members lie in different files of the base is still one group."""
    other = write_checkpoint(tmp_path / "resharded", arrays, shards=7)
    run(flagship, base, tmp_path / "a")
    run(flagship, other, tmp_path / "b")
    a, b = stored(tmp_path / "a"), stored(tmp_path / "b")
    assert {name: tensor.read() for name, tensor in a.items()} == {
        name: tensor.read() for name, tensor in b.items()
    }


def test_tiny_budget_still_passes_everything(flagship, base, tmp_path, monkeypatch):
    """A tensor or group larger than the memory budget passes alone instead of blocking."""
    monkeypatch.setattr(stream, "IN_FLIGHT", 1)
    monkeypatch.setattr(stream, "CHUNK", 100)
    tiny = run(flagship, base, tmp_path / "tiny")
    monkeypatch.undo()
    assert tiny == run(flagship, base, tmp_path / "usual")


def test_base_that_changed_since_it_was_fetched(flagship, base, tmp_path):
    digests = {path.name: canonical.sha256_file(path) for path in base.iterdir()}
    shard = base / "model-00002-of-00002.safetensors"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    with pytest.raises(QuantizeError, match=r"00002-of-00002.* the file changed since"):
        run(flagship, base, tmp_path / "out", digests=digests)


@pytest.mark.parametrize("bits", [0x7FC0, 0xFFC1, 0x7F80, 0xFF80])
def test_nan_or_infinity_in_a_weight_names_the_linear(flagship, arrays, tmp_path, bits):
    name = "model.language_model.layers.1.self_attn.o_proj"
    arrays[f"{name}.weight"][3, 3] = bits
    base = write_checkpoint(tmp_path / "nan", arrays)
    with pytest.raises(QuantizeError, match=f"{name}: holds a NaN"):
        run(flagship, base, tmp_path / "out")


def test_a_zero_weight_has_scales_of_one(flagship, arrays, tmp_path):
    """Zeros of either sign: their codes are +0, and nothing that an engine divides by is 0."""
    name = "model.language_model.layers.1.self_attn.o_proj"
    arrays[f"{name}.weight"][::2] = 0x8000
    arrays[f"{name}.weight"][1::2] = 0
    run(flagship, write_checkpoint(tmp_path / "zero", arrays), tmp_path / "out")
    found = stored(tmp_path / "out")
    assert not any(found[f"{name}.weight"].read())
    assert set(found[f"{name}.weight_scale"].read()) == {0x38}  # 1 in E4M3
    assert found[f"{name}.weight_scale_2"].read() == np.float32(1).tobytes()


def test_width_that_is_no_multiple_of_16(flagship, arrays, tmp_path):
    name = "model.language_model.layers.0.mlp.down_proj.weight"
    arrays[name] = np.ascontiguousarray(arrays[name][:, :40])
    base = write_checkpoint(tmp_path / "odd", arrays)
    with pytest.raises(QuantizeError, match="multiple of 16"):
        run(flagship, base, tmp_path / "out")


def test_dtype_that_cannot_be_quantized(flagship, arrays, tmp_path):
    name = "model.language_model.layers.0.mlp.down_proj.weight"
    arrays[name] = arrays[name].astype(np.float64)
    base = write_checkpoint(tmp_path / "double", arrays)
    with pytest.raises(QuantizeError, match=f"{name.removesuffix('.weight')}: dtype F64 cannot"):
        run(flagship, base, tmp_path / "out")


def test_base_that_shrinks_while_it_is_read(flagship, base, tmp_path):
    """Its headers were whole when they were read; nothing is left behind as if it were done."""
    tensors = tensorfile.read_checkpoint(base)
    digests = {path.name: canonical.sha256_file(path) for path in base.glob("*.safetensors")}
    shard = base / "model-00002-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-100])
    plan = make_plan(flagship, tensors)
    maxima = dict.fromkeys(plan.quantized, np.float32(1))
    (tmp_path / "out").mkdir()
    with pytest.raises(QuantizeError, match="ends early; it changed"):
        quantize.quantize(tensors, digests, plan, maxima, 1 << 30, tmp_path / "out")


def test_an_error_of_the_disk_while_reading_is_told_as_such(base, monkeypatch):
    """Not as a digest that differs, though the reading goes on until the error is noticed."""
    path = base / "model-00001-of-00002.safetensors"
    tensors = tensorfile.read_header(path)
    calls = itertools.count()

    def preadv(*given):
        if next(calls) == 3:
            raise OSError(errno.EIO, "Input/output error")
        return os_preadv(*given)

    os_preadv = os.preadv
    monkeypatch.setattr(stream.os, "preadv", preadv)
    digests = {path.name: canonical.sha256_file(path)}

    def read_all():
        with stream.Reader(path, digests, lambda _: None) as reader:
            for tensor in tensors:
                reader.read(tensor, memoryview(bytearray(tensor.nbytes)))

    with pytest.raises(OSError, match="Input/output error"):
        read_all()
    assert next(calls) > len(tensors)


def test_full_disk_is_an_error(flagship, base, tmp_path, monkeypatch):
    """The writer's error reaches the caller, and the reader does not wait for it forever."""
    monkeypatch.setattr(stream, "IN_FLIGHT", 1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            run(flagship, base, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("variant", [FLAGSHIP, MIXED])
def test_the_room_of_a_checkpoint_is_known_beforehand(tmp_path, variant):
    """Its shards to the byte, from headers and rules; the other files but for what dress edits."""
    built = build_small(tmp_path, base_arrays(variant=variant), recipes.find(variant))
    base = built.inputs / "base"
    others = [path.stat().st_size for path in base.iterdir() if path.suffix != ".safetensors"]
    shards = [path.stat().st_size for path in built.checkpoint.glob("*.safetensors")]
    assert sum(shards) + sum(others) == quantize.checkpoint_bytes(built.made, base)
    real = sum(path.stat().st_size for path in built.checkpoint.rglob("*") if path.is_file())
    assert abs(real - quantize.checkpoint_bytes(built.made, base)) < 20_000


def test_no_room_is_told_before_a_byte_is_written(built, tmp_path, monkeypatch):
    """What is needed, what is free, and where."""
    work, out = work_on(built.job, built.results), tmp_path / "out"
    out.mkdir()
    needed = quantize.checkpoint_bytes(built.made, built.inputs / "base")
    monkeypatch.setattr(disk, "free", lambda _: needed - 1)
    place = built.job.store.root
    wanted = f"the checkpoint takes {needed / 1e6:.3f} MB, and {(needed - 1) / 1e6:.3f} MB are free"
    with pytest.raises(SpaceError, match=f"^{wanted} at {place}. Nothing was written"):
        quantize.run(work, out)
    assert not list(out.iterdir())

    monkeypatch.setattr(disk, "free", lambda _: needed)
    assert quantize.run(work, out)
