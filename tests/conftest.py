"""What tests share: a small base checkpoint that needs no torch, and the flagship recipe."""

import functools
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import settings

from forge.calibration import decided, record
from forge.core import canonical, console
from forge.core.commandline import INTERFACE
from forge.core.results import Result
from forge.core.store import Store
from forge.manifest import document
from forge.manifest.inputs import Inputs, InputSource
from forge.manifest.names import INPUTS
from forge.pipeline import Job, work_on
from forge.recipes import recipe
from forge.recipes.recipe import Recipe
from forge.tensors import family, tensor_list, tensorfile
from forge.tensors.plan import Plan
from forge.tensors.tensorfile import Spec

if TYPE_CHECKING:
    from forge.tensors.checkpoint import Checkpoint

# The first example compiles the loops, and machines differ; wall time is no verdict.
settings.register_profile("hallmark", deadline=None)
settings.load_profile("hallmark")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--mirror", type=Path, default=None, help="a folder with inputs, as MIRROR= in the Makefile"
    )
    parser.addoption(
        "--fuzz", type=int, default=1, help="so many times the examples of the fuzzers of releases"
    )
    parser.addoption(
        "--full", action="store_true", help="every variant with a real engine, not only two"
    )


@pytest.fixture(autouse=True)
def plain_interface(monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors speak of the commands, also where make runs the tests."""
    monkeypatch.delenv(INTERFACE, raising=False)


@pytest.fixture(scope="session")
def rehearse(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Rehearses a variant, once a session, a dense one and one with experts with an engine, the
    others too if asked; all of them share a store."""
    from rehearsals import Rehearsal

    root = tmp_path_factory.mktemp("rehearsals")
    mirror = request.config.getoption("--mirror")
    options = ["--mirror", str(mirror)] if mirror else []
    made: dict[str, Rehearsal] = {}

    def get(variant: str) -> Rehearsal:
        if variant not in made:
            full = request.config.getoption("--full") or variant in (FLAGSHIP, MIXED)
            made[variant] = Rehearsal(variant, root, options, "all" if full else "structure")
            assert made[variant].said
        return made[variant]

    return get


def refusing(code: int) -> Callable[..., Any]:
    """What raises an error of the system, which names the file if the call does."""

    def refuse(*arguments: Any, **_: Any) -> Any:
        named = [str(one) for one in arguments[:1] if isinstance(one, str | Path)]
        raise OSError(code, os.strerror(code), *named)

    return refuse


def names(folder: Path) -> list[str]:
    """What is in a folder."""
    return sorted(path.name for path in folder.iterdir())


FLAGSHIP = "qwen36-27b-vlm-mtp"
MIXED = "qwen36-35b-a3b-nvfp4-fp8-mtp"
HIDDEN, WIDE, EXPERTS = 32, 64, 3
LAYERS = ("linear_attn", "self_attn")
Arrays = Mapping[str, np.ndarray]
# What a step's record says besides its outputs, of results that are made by hand.
FACTS: Mapping[str, Any] = {
    "parameters": {}, "needs": {}, "code": "0" * 64, "distributions": {}, "system": {},
}  # fmt: skip


def of_few(wanted: Recipe, *, rehearsal: bool = True) -> Recipe:
    """The recipe as it judges a build, by as few texts, tokens and windows as a test has."""
    judging = wanted.judging(rehearsal=rehearsal)
    samples = judging.gates.samples.model_copy(
        update=dict.fromkeys(("texts", "tokens", "positions", "timed", "windows"), 1)
    )
    gates = judging.gates.model_copy(update={"samples": samples})
    return judging.model_copy(update={"gates": gates})


def bf16(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Normal values as the bits of BF16."""
    values = rng.standard_normal(shape, dtype=np.float32)
    return (values.view(np.uint32) >> 16).astype(np.uint16)


def base_config(wanted: Recipe | None = None) -> dict[str, Any]:
    """The config.json of a two-layer model, of a recipe's architecture or the flagship's."""
    wanted = wanted or recipe.find(FLAGSHIP)
    moe = "Moe" in wanted.architecture
    experts = {
        "num_experts": EXPERTS, "moe_intermediate_size": WIDE,
        "shared_expert_intermediate_size": WIDE,
    }  # fmt: skip
    return {
        "architectures": [wanted.architecture],
        "model_type": "qwen3_5_moe" if moe else "qwen3_5",
        "text_config": {
            "vocab_size": 64, "hidden_size": HIDDEN, "num_hidden_layers": len(LAYERS),
            "layer_types": ["linear_attention", "full_attention"],
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
            "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8,
            "linear_value_head_dim": 8, "linear_conv_kernel_dim": 4, "mtp_num_hidden_layers": 1,
            **(experts if moe else {"intermediate_size": WIDE}),
        },
        "vision_config": {
            "depth": 1, "hidden_size": 8, "intermediate_size": 16, "out_hidden_size": HIDDEN,
            "in_channels": 3, "patch_size": 2, "temporal_patch_size": 2, "spatial_merge_size": 2,
            "num_position_embeddings": 16, "num_heads": 2,
        },
    }  # fmt: skip


def base_arrays(seed: int = 0, variant: str = FLAGSHIP) -> dict[str, np.ndarray]:
    """Every tensor of a two-layer model of a variant's architecture, as bits of BF16."""
    rng = np.random.default_rng(seed)
    config = family.Config(path=Path("config.json"), data=base_config(recipe.find(variant)))
    expected = family.find(config).expected(config)
    return {name: bf16(rng, *one.shape) for name, one in sorted(expected.items())}


def maxima_by_hand(plan: Plan) -> dict[str, float]:
    """Input maxima without a forward pass; linears that receive the same tensor have the same."""
    numbers = {module: number for number, group in enumerate(plan.groups) for module in group}
    return {module: 1.0 + numbers[module] for module in plan.calibrated}


def record_by_hand(path: Path, made: "Checkpoint") -> None:
    """Writes the calibration record of these maxima, which says what calibrate's would."""
    plan = made.plan
    origin = {"device": "a hand", "calibration_sha256": decided.digest(made.recipe, plan)}
    record.write(path, maxima_by_hand(plan), origin)


def write_checkpoint(folder: Path, arrays: Arrays, shards: int = 2) -> Path:
    """Writes a sharded checkpoint with an index, in the given order; uint16 stands for BF16."""
    dtypes = {"uint16": "BF16", "float16": "F16", "float32": "F32", "float64": "F64"}
    folder.mkdir(parents=True, exist_ok=True)
    names = list(arrays)
    size = -(-len(names) // shards)
    placed = []
    for number in range(shards):
        part = names[number * size : (number + 1) * size]
        specs = [
            Spec(name=name, dtype=dtypes[arrays[name].dtype.name], shape=arrays[name].shape)
            for name in part
        ]
        file = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        data = b"".join(arrays[name].tobytes() for name in part)
        (folder / file).write_bytes(tensorfile.header_bytes(specs) + data)
        placed += [(file, spec) for spec in specs]
    canonical.write(folder / tensorfile.INDEX, tensorfile.index_json(placed))
    return folder


def cut_samples(folder: Path, count: int) -> None:
    """Leaves so many samples of each calibration set below a folder of fetched inputs."""
    for lines in (folder / "calibration").glob("*/samples.jsonl"):
        first = lines.read_text(encoding="utf-8").splitlines(keepends=True)[:count]
        lines.write_text("".join(first), encoding="utf-8")


def without_head(checkpoint: Path, folder: Path) -> Path:
    """Copies a checkpoint but for its MTP head, as every fine-tune that transformers saved is."""
    weights = shutil.ignore_patterns("*.safetensors", tensorfile.INDEX)
    shutil.copytree(checkpoint, folder, ignore=weights)
    tensors = tensorfile.read_checkpoint(checkpoint).values()
    body = [tensor for tensor in tensors if not tensor.name.startswith("mtp.")]
    file = "model-00001-of-00001.safetensors"
    header = tensorfile.header_bytes([tensor.spec for tensor in body])
    (folder / file).write_bytes(header + b"".join(tensor.read() for tensor in body))
    index = tensorfile.index_json((file, tensor.spec) for tensor in body)
    canonical.write(folder / tensorfile.INDEX, index)
    return folder


def write_list(
    path: Path,
    tensors: Mapping[str, tensorfile.Tensor],
    order: Callable[[Any], str] = tensor_list.by_name,
) -> None:
    """Writes the list of tensors as they lie there, each with its digest."""
    lines = [
        tensor_list.line(tensor.spec, sha256(tensor.read()).hexdigest(), tensor.file.name)
        for tensor in tensors.values()
    ]
    tensor_list.write(path, lines, order)


def list_inputs(inputs: Path) -> None:
    """Lists the tensors of base and donor, as fetch does."""
    for role in ("base", "donor"):
        if (inputs / role).is_dir():
            path = inputs / tensor_list.of_input(role)
            write_list(path, tensorfile.read_checkpoint(inputs / role), tensor_list.by_file)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The lines of progress, from now on."""
    lines: list[str] = []
    monkeypatch.setattr(console, "say", lines.append)
    return lines


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store(tmp_path / "store")


@pytest.fixture(scope="session")
def flagship() -> Recipe:
    return recipe.find(FLAGSHIP)


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    return base_arrays()


@pytest.fixture
def base(tmp_path: Path, arrays: Arrays) -> Path:
    return write_checkpoint(tmp_path / "base", arrays)


@dataclass(frozen=True, kw_only=True)
class Built:
    """A checkpoint built from the small base by the real steps, with all that they left."""

    job: Job
    results: Mapping[str, Result]

    @property
    def inputs(self) -> Path:
        return self.results["fetch"].files

    @property
    def checkpoint(self) -> Path:
        return self.results["dress"].files

    @property
    def made(self) -> "Checkpoint":
        return work_on(self.job, self.results).checkpoint


def build_small(root: Path, arrays: Arrays, wanted: Recipe | None = None) -> Built:
    """Runs quantize, graft and dress on a small base; inputs and record are written by hand."""
    # Here, since the host's environment, whose tests share this file, has no numba.
    from forge.checkpoint import dress, graft, quantize

    wanted = wanted or recipe.find(FLAGSHIP)
    job = Job(recipe=wanted, store=Store(root / "store"), rehearsal=True, level="structure")
    results: dict[str, Result] = {}

    def make(step: str, work: Callable[[Path], Mapping[str, str] | None]) -> None:
        results[step] = job.store.make(step, "key", work, FACTS)

    def fetched(out: Path) -> None:
        base = write_checkpoint(out / "base", arrays)
        canonical.write(base / "config.json", base_config(wanted))
        canonical.write(base / "tokenizer_config.json", {"backend": "tokenizers", "model": 1})
        canonical.write(base / "vocab.json", {"a": 0})
        (base / "chat_template.jinja").write_text("of the base", encoding="utf-8")
        if wanted.template is not None:
            (out / "template").mkdir()
            (out / "template" / "chat_template.jinja").write_text("of the recipe", encoding="utf-8")
        if wanted.mtp.donor is not None:
            head = {name: array for name, array in base_arrays(9).items() if name[:4] == "mtp."}
            write_checkpoint(out / "donor", head)
            canonical.write(out / "donor/config.json", base_config(wanted))
        list_inputs(out)
        source = InputSource(kind="standin", uri="standin:x", revision="x", name="x")
        document.write(out / INPUTS, Inputs(sources={"base": source}, files=()))

    def calibrated(out: Path) -> None:
        plan = work_on(job, results).checkpoint.plan
        record.write(out / record.FILE, dict.fromkeys(plan.calibrated, 3.0), {"device": "none"})

    make("fetch", fetched)
    make("calibrate", calibrated)
    for step, module in {"quantize": quantize, "graft": graft, "dress": dress}.items():
        make(step, lambda out, module=module: module.run(work_on(job, results), out))
    return Built(job=job, results=results)


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Built]:
    """Builds a variant on its small base once, for all tests; with `again`, once more elsewhere."""

    @functools.cache
    def build(variant: str, again: bool = False) -> Built:
        del again  # is part of what the cache goes by
        root = tmp_path_factory.mktemp(variant)
        return build_small(root, base_arrays(variant=variant), recipe.find(variant))

    return build


@pytest.fixture
def built(tmp_path: Path, arrays: Arrays) -> Built:
    return build_small(tmp_path, arrays)
