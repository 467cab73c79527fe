"""What is timed: our quantizer, and the libraries' own file to file paths over the same linears."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType

import numpy as np

from bench.bases import DIGESTS, SHARD_BYTES, VARIANT
from forge.checkpoint import quantize
from forge.core import canonical
from forge.recipes import recipe
from forge.tensors import formats, small_floats, tensor_list, tensorfile
from forge.tensors.plan import WEIGHT, Linear, Place, Plan, make_plan
from forge.tensors.tensor_list import NewHash


def rebuild(base: Path, out: Path) -> None:
    """What a rebuild does with a base: every byte checked, packed or copied, hashed, written."""
    plan = make_plan(recipe.find(VARIANT), tensorfile.read_checkpoint(base))
    arrived = {
        name: line.sha256 for name, line in tensor_list.read(base / tensor_list.FILE).items()
    }
    _quantize(base, plan, canonical.read(base / DIGESTS), out, arrived=arrived)


def hashed(base: Path, out: Path) -> None:
    """Quantizes MLPs, file to file, every byte checked and hashed."""
    _quantize(base, _mlp_plan(base), canonical.read(base / DIGESTS), out)


def unhashed(base: Path, out: Path) -> None:
    """The same without sha256, which the libraries do not compute either."""
    digests = dict.fromkeys(canonical.read(base / DIGESTS), _NoDigest().hexdigest())
    _quantize(base, _mlp_plan(base), digests, out, new_hash=_NoDigest)


class _NoDigest:
    """A digest that costs nothing and says nothing."""

    def update(self, data: memoryview, /) -> None:
        """Does nothing."""

    def hexdigest(self) -> str:
        """Always the same."""
        return "none"


def _mlp_plan(base: Path) -> Plan:
    """Every tensor quantized; gate and up share their maxima, as in the recipe."""
    stored = formats.find("modelopt", "nvfp4")
    linears = {}
    groups = defaultdict(list)
    for name, tensor in tensorfile.read_checkpoint(base).items():
        module = name.removesuffix(WEIGHT)
        place = Place(tensor=name, start=0, shape=tensor.shape)
        linears[module] = Linear(module=module, format=stored, place=place)
        parent, _, last = module.rpartition(".")
        groups[parent, last == "down_proj"].append(module)
    shared = tuple(tuple(group) for group in groups.values())
    return Plan(groups=shared, linears=linears, keep=(), mtp=(), removed=())


def _quantize(
    base: Path,
    plan: Plan,
    digests: Mapping[str, str],
    out: Path,
    *,
    arrived: Mapping[str, str] = MappingProxyType({}),
    new_hash: NewHash = sha256,
) -> None:
    maxima = dict.fromkeys(plan.quantized, np.float32(1))
    out.mkdir()
    tensors = tensorfile.read_checkpoint(base)
    quantize.quantize(
        tensors, digests, plan, maxima, SHARD_BYTES, out, arrived=arrived, new_hash=new_hash
    )


def modelopt(base: Path, out: Path) -> None:
    """The same through modelopt's own tensor class."""
    from modelopt.torch.quantization.qtensor import NVFP4QTensor
    from safetensors.torch import load_file, save_file

    stored = {}
    for path in sorted(base.glob("*.safetensors")):
        for name, weight in load_file(path).items():
            packed, scales, scale_2 = NVFP4QTensor.quantize(weight, small_floats.BLOCK)
            stored[name] = packed._quantized_data
            stored[f"{name}_scale"], stored[f"{name}_scale_2"] = scales, scale_2
    out.mkdir()
    save_file(stored, out / "model.safetensors")


def llmcompressor(base: Path, out: Path) -> None:
    """The same through llm-compressor's file to file path."""
    from llmcompressor import model_free_ptq

    model_free_ptq(str(base), str(out), scheme="NVFP4A16", device="cpu", max_workers=2)


LIBRARIES: Mapping[str, Callable[[Path, Path], None]] = {
    "modelopt": modelopt,
    "llmcompressor": llmcompressor,
}
WORK = {"rebuild": rebuild, "hashed": hashed, "unhashed": unhashed, **LIBRARIES}
