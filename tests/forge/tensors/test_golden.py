"""The streaming quantizer against checkpoints that modelopt itself exported on an NVIDIA GPU.

tests/golden/make.py made them, see there. `random` holds every awkward block that the format
knows, `trained` ordinary trained weights.
"""

from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from forge.calibration import calibrate, record
from forge.checkpoint import quantize
from forge.core import canonical
from forge.tensors import formats, small_floats, tensorfile
from forge.tensors.plan import make_plan

GOLDEN = Path(__file__).parents[2] / "golden"
RECORDED = canonical.read(GOLDEN / "golden.json")
SHARD_BYTES = 100_000  # several shards of each model


@pytest.fixture(params=["random", "trained"])
def folder(request):
    return GOLDEN / request.param


@pytest.fixture
def plan(flagship, folder):
    return make_plan(flagship, tensorfile.read_checkpoint(folder / "base"))


def exported(folder):
    """Every tensor of the golden export: dtype, shape and bytes."""
    tensors = tensorfile.read_checkpoint(folder / "export").values()
    return {tensor.name: (tensor.dtype, tensor.shape, tensor.read()) for tensor in tensors}


def built(folder, plan, out):
    """The same of what the quantize step makes of base and calibration record."""
    base = tensorfile.read_checkpoint(folder / "base")
    digests = {"model.safetensors": canonical.sha256_file(folder / "base" / "model.safetensors")}
    maxima = calibrate.merge(plan, record.read(folder / record.FILE, plan.quantized))
    out.mkdir()
    quantize.quantize(base, digests, plan, maxima, SHARD_BYTES, out)
    return {
        tensor.name: (tensor.dtype, tensor.shape, tensor.read())
        for shard in sorted(out.iterdir())
        for tensor in tensorfile.read_header(shard)
    }


def differing(theirs, ours):
    """The names of the tensors that are not the same, missing ones included."""
    return sorted(
        name for name in theirs.keys() | ours.keys() if theirs.get(name) != ours.get(name)
    )


def test_every_byte_is_modelopts(folder, plan, tmp_path):
    """Codes, block scales, global scales, input scales and all that is copied; no tensor more,
    none less."""
    assert differing(exported(folder), built(folder, plan, tmp_path / "out")) == []


def test_groups_are_the_linears_that_modelopt_fuses(folder, plan):
    """Of one layer, those linears carry the same scales that the recipe has in one group."""
    theirs = exported(folder)
    fused = defaultdict(set)
    for module in plan.quantized:
        layer = ".".join(module.split(".")[:4])
        scales = (theirs[f"{module}.{name}"] for name in ("weight_scale_2", "input_scale"))
        fused[layer, *scales].add(module)
    assert {frozenset(group) for group in plan.groups} == set(map(frozenset, fused.values()))
    assert any(len(group) == 4 for group in fused.values())


def test_dividing_as_a_cpu_does_is_noticed(folder, plan, tmp_path):
    """The golden can fail: what modelopt computes on a CPU is not what it holds."""
    as_a_cpu = replace(
        formats.find("modelopt", "nvfp4"),
        global_scale=lambda amax: np.float32(amax) / np.float32(2688),
    )
    linears = {name: replace(one, format=as_a_cpu) for name, one in plan.linears.items()}
    other = replace(plan, linears=linears)
    found = differing(exported(folder), built(folder, other, tmp_path / "out"))
    kinds = {name.rpartition(".")[2] for name in found}
    assert {"weight_scale_2", "input_scale"} <= kinds
    assert folder.name == "trained" or "weight" in kinds


@pytest.mark.parametrize("folder", [GOLDEN / "trained"])  # `random` has an all-zero member
def test_sharing_no_maxima_is_noticed(folder, plan, tmp_path):
    alone = replace(plan, groups=tuple((module,) for module in plan.quantized))
    found = differing(exported(folder), built(folder, alone, tmp_path / "out"))
    assert {"weight", "weight_scale", "weight_scale_2"} == {
        name.rpartition(".")[2] for name in found
    }


def test_awkward_blocks_are_there():
    """What the golden claims to cover, it holds: each midpoint from both sides of zero, clamped
    block scales, zeros of either sign, subnormal and the largest values."""
    tensors = tensorfile.read_checkpoint(GOLDEN / "random" / "base")
    theirs = exported(GOLDEN / "random")
    weights = {
        name: np.frombuffer(tensor.read(), dtype=np.uint16).reshape(tensor.shape)
        for name, tensor in tensors.items()
        if f"{name}_scale" in theirs
    }
    blocks = np.concatenate([bits.reshape(-1, 16) for bits in weights.values()])
    assert {0x0000, 0x8000, 0x0001, 0x8001, 0x007F, 0x7F7F} <= set(blocks.reshape(-1).tolist())
    assert {16, 48, 80, 272} == {bits.shape[1] for bits in weights.values()}
    assert 1 in {bits.shape[0] for bits in weights.values()}
    assert all(np.any(np.all(blocks == zero, axis=1)) for zero in (0x0000, 0x8000))

    quotients, unclamped = set(), []
    for name, bits in weights.items():
        scales = np.frombuffer(theirs[f"{name}_scale"][2], dtype=np.uint8)
        scale_2 = np.frombuffer(theirs[f"{name}_scale_2"][2], dtype=np.float32)
        values = (bits.astype(np.uint32) << 16).view(np.float32).reshape(-1, 16)
        steps = small_floats.E4M3_VALUES[scales].reshape(-1, 1) * scale_2
        quotients |= set((values / steps).reshape(-1).tolist())
        unclamped.append(np.abs(values).max(axis=1) / (np.float32(6) * scale_2))
    midpoints = {0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0}
    assert midpoints | {-point for point in midpoints} <= quotients
    scales = np.concatenate(unclamped)
    assert np.any((scales > 0) & (scales < 2.0**-10))
    assert np.any(scales > 448)


def test_golden_files_are_those_of_two_equal_runs(folder):
    """golden.json names the digests of both runs on the GPU, and these are their files."""
    for run in RECORDED["runs"]:
        for file in ("export/model.safetensors", record.FILE):
            assert run[f"{folder.name}/{file}"] == canonical.sha256_file(folder / file)
    base = canonical.sha256_file(folder / "base" / "model.safetensors")
    assert RECORDED["bases"][folder.name] == base
