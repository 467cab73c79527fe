"""Experts that lie in one tensor: read slice by slice, packed as though each lay alone."""

import json
import subprocess
import sys

import numpy as np
import pytest
from conftest import EXPERTS, MIXED, WIDE, base_arrays, write_checkpoint

from forge.checkpoint import quantize
from forge.core import canonical
from forge.core.errors import QuantizeError, RecipeError
from forge.recipes import recipe
from forge.tensors import compressed_tensors, formats, nvfp4, small_floats, tensorfile
from forge.tensors.plan import make_plan

LAYER = "model.language_model.layers.0.mlp.experts"


@pytest.fixture
def mixed():
    return recipe.find(MIXED)


@pytest.fixture
def arrays():
    return base_arrays(variant=MIXED)


def run(wanted, arrays, root, **kwargs):
    base = tensorfile.read_checkpoint(write_checkpoint(root / "base", arrays))
    plan = make_plan(wanted, base)
    maxima = {name: np.float32(1 + number) for number, name in enumerate(plan.calibrated)}
    digests = {p.name: canonical.sha256_file(p) for p in (root / "base").iterdir()}
    (root / "out").mkdir()
    quantize.quantize(base, digests, plan, maxima, kwargs.get("shard_bytes", 1 << 40), root / "out")
    return {
        tensor.name: tensor
        for path in sorted((root / "out").iterdir())
        for tensor in tensorfile.read_header(path)
    }


def test_slices_are_the_experts(mixed, arrays, tmp_path):
    """Gate above up, expert after expert; both share a divisor, experts do not."""
    found = run(mixed, arrays, tmp_path)
    divisors = set()
    for expert in range(EXPERTS):
        fused = arrays[f"{LAYER}.gate_up_proj"][expert]
        scale = small_floats.divisor(nvfp4.amax(fused, "both"))
        divisors.add(scale)
        for part, weight in (("gate_proj", fused[:WIDE]), ("up_proj", fused[WIDE:])):
            codes, scales = nvfp4.pack(
                np.ascontiguousarray(weight), scale, arithmetic=compressed_tensors.ARITHMETIC
            )
            module = f"{LAYER}.{expert}.{part}"
            assert codes.tobytes() == found[f"{module}.weight_packed"].read()
            assert scales.tobytes() == found[f"{module}.weight_scale"].read()
            assert scale.tobytes() == found[f"{module}.weight_global_scale"].read()
    assert len(divisors) == EXPERTS


def test_stored_expert_by_expert(mixed, arrays, tmp_path):
    """The order that makes it possible to hold one expert at a time."""
    names = [name for name in run(mixed, arrays, tmp_path) if f"{LAYER}." in name]
    experts = [
        int(name.removeprefix(f"{LAYER}.").split(".")[0]) for name in names if "gate" in name
    ]
    assert experts == sorted(experts)


def test_split_on_disk_gives_the_same(mixed, arrays, tmp_path):
    """A base that has its experts one by one needs no [[fused]] and gives the same tensors."""
    apart = {}
    for name, array in arrays.items():
        parent, _, last = name.rpartition(".")
        if name.startswith("model.") and parent.endswith(".experts"):
            parts = ("gate_proj", "up_proj") if last == "gate_up_proj" else ("down_proj",)
            for expert, fused in enumerate(array):
                for part, weight in zip(parts, np.split(fused, len(parts)), strict=True):
                    apart[f"{parent}.{expert}.{part}.weight"] = weight
        else:
            apart[name] = array
    one, two = tmp_path / "fused", tmp_path / "apart"
    fused = run(mixed, arrays, one)
    split = run(mixed.model_copy(update={"fused": ()}), apart, two)
    # The order differs, so does the record's; input divisors are compared in test_quantize.
    weights = [name for name in fused if "input_global_scale" not in name]
    assert fused.keys() == split.keys()
    assert all(fused[name].read() == split[name].read() for name in weights)


@pytest.mark.parametrize(
    ("fault", "message"), [(0x7FC0, "holds a NaN or an infinity"), (0x7F80, "holds a NaN")]
)
def test_damaged_expert_is_named(mixed, arrays, tmp_path, fault, message):
    arrays[f"{LAYER}.gate_up_proj"][2, WIDE + 1, 3] = fault
    with pytest.raises(QuantizeError, match=rf"{LAYER}\.2\.up_proj: {message}"):
        run(mixed, arrays, tmp_path)


def test_a_zero_expert_has_scales_that_engines_can_divide_by(mixed, arrays, tmp_path):
    """An expert of a fused tensor cannot be kept, so it is stored as what it is."""
    arrays[f"{LAYER}.down_proj"][1] = 0
    found = run(mixed, arrays, tmp_path)
    expert = f"{LAYER}.1.down_proj"
    assert not any(found[f"{expert}.weight_packed"].read())
    assert set(found[f"{expert}.weight_scale"].read()) == {0x20}  # 0.125, as the library has it
    assert found[f"{expert}.weight_global_scale"].read() == np.float32(1).tobytes()


@pytest.mark.parametrize("shape", [(3, 95, 32), (96, 32)])
def test_tensor_that_cannot_be_split(mixed, arrays, shape):
    arrays[f"{LAYER}.gate_up_proj"] = np.zeros(shape, dtype=np.uint16)
    with pytest.raises(RecipeError, match=r"gate_up_proj' into 2 linear\(s\) an expert"):
        make_plan(mixed, arrays)


def test_expert_without_a_rule(mixed, arrays):
    kept = tuple(rule for rule in mixed.quantize if "down_proj" not in str(rule.modules))
    kept += tuple(rule for rule in mixed.quantize if rule.format == "fp8")
    with pytest.raises(RecipeError, match=r"no rule covers .*experts\.0\.down_proj\.weight"):
        make_plan(mixed.model_copy(update={"quantize": kept}), arrays)


def test_fused_tensor_is_not_kept_as_well(mixed, arrays):
    """Its slices are what rules name; a rule over the tensor itself matches nothing."""
    extra = recipe.Keep(tensors=(f"{LAYER}.down_proj",), why="a test")
    with pytest.raises(RecipeError, match=r"experts\.down_proj' matches no tensor"):
        make_plan(mixed.model_copy(update={"keep": (*mixed.keep, extra)}), arrays)


MEMORY = """
import json, resource, sys
from pathlib import Path
import numpy as np
from forge.tensors import formats
from forge.checkpoint import quantize
from forge.tensors import plan as rules
from forge.tensors import tensorfile

root = Path(sys.argv[1])
base = tensorfile.read_checkpoint(root)
(name, tensor), = base.items()
experts, rows, columns = tensor.shape
kind = formats.find("compressed-tensors", "nvfp4")
linears = {
    f"experts.{e}": rules.Linear(
        module=f"experts.{e}", format=kind,
        place=rules.Place(tensor=name, start=e * rows * columns, shape=(rows, columns)),
    )
    for e in range(experts)
}
plan = rules.Plan(
    groups=tuple((m,) for m in linears), linears=linears, keep=(), mtp=(), removed=()
)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
out = root / "out"
out.mkdir()
digests = {"model.safetensors": sys.argv[2]}
quantize.quantize(base, digests, plan, dict.fromkeys(linears, np.float32(1)), 1 << 40, out)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
json.dump({"before": before << 10, "peak": peak << 10}, sys.stdout)
"""


def test_memory_is_bounded(tmp_path):
    """A fused tensor of 0.8 GB, most of it holes in the file, takes less than a quarter of that."""
    shape = (512, 512, 1536)
    spec = tensorfile.Spec(name="experts.down_proj", dtype="BF16", shape=shape)
    path = tmp_path / "model.safetensors"
    one = np.full(1, 0x3F80, dtype=np.uint16).tobytes()
    header = tensorfile.header_bytes([spec])
    with path.open("wb") as file:
        file.write(header)
        for expert in range(shape[0]):  # one value each, so that no expert is zero throughout
            file.seek(len(header) + expert * spec.nbytes // shape[0])
            file.write(one)
        file.truncate(len(header) + spec.nbytes)
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path), canonical.sha256_file(path)],
        capture_output=True, encoding="utf-8", check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)
    assert measured["peak"] - measured["before"] < spec.nbytes / 4, measured
    stored = tensorfile.read_checkpoint(tmp_path / "out")
    assert len(stored) == 4 * shape[0]
    assert formats.find("compressed-tensors", "nvfp4").specs("experts.0", shape[1:]) == [
        stored[f"experts.0.{part}"].spec
        for part in ("weight_packed", "weight_scale", "weight_global_scale", "input_global_scale")
    ]
