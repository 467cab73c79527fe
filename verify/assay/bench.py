"""Speed and memory of the streaming quantizer, against the libraries and against the machine.

All figures of one report come from one run on one machine; what may be quoted are the ratios:

- `vs_modelopt`, `vs_llmcompressor`: file to file, over the same tensors, how many times as fast;
- `floor_ratio`: the time below which no implementation can come here over our time. The floor is
  the larger of (bytes read and written at the disk's rate) and (sha256 of the same bytes, spread
  over all cores);
- `peak_rss_mib`: the peak resident set of a process that rebuilds the whole base.

The base has the layers of Qwen3.6-27B in full width, but few of them, with random weights.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from forge import canonical, formats, identity, nvfp4, quantize, recipe, rules, tensorfile
from forge.tensorfile import INDEX, Spec

VARIANT = "qwen36-27b-vlm-mtp"
HIDDEN, WIDE, VOCABULARY = 5120, 17408, 248_320
SHARD_BYTES = 4_000_000_000
PROBE_BYTES = 1 << 30
CHUNK = 16 << 20
Measured = dict[str, float]


def layer_shapes(number: int) -> dict[str, tuple[int, ...]]:
    """The tensors of one layer of the 27B; every fourth has full attention."""
    prefix = f"model.language_model.layers.{number}"
    parts: dict[str, tuple[int, ...]] = {
        "input_layernorm": (HIDDEN,),
        "post_attention_layernorm": (HIDDEN,),
        "mlp.gate_proj": (WIDE, HIDDEN),
        "mlp.up_proj": (WIDE, HIDDEN),
        "mlp.down_proj": (HIDDEN, WIDE),
    }
    if number % 4 == 3:
        heads = {"q": 2 * 24, "k": 4, "v": 4}  # the query carries the output gate
        parts |= {f"self_attn.{n}_proj": (256 * count, HIDDEN) for n, count in heads.items()}
        parts |= {"self_attn.o_proj": (HIDDEN, 24 * 256)}
        parts |= {f"self_attn.{n}_norm": (256,) for n in ("q", "k")}
        return {f"{prefix}.{name}.weight": shape for name, shape in parts.items()}
    rows = {"qkv": 10_240, "z": 6144, "a": 48, "b": 48}
    parts |= {f"linear_attn.in_proj_{name}": (count, HIDDEN) for name, count in rows.items()}
    parts |= {
        "linear_attn.out_proj": (HIDDEN, 6144),
        "linear_attn.conv1d": (10_240, 1, 4),
        "linear_attn.norm": (128,),
    }
    shapes = {f"{prefix}.{name}.weight": shape for name, shape in parts.items()}
    return shapes | {f"{prefix}.linear_attn.{name}": (48,) for name in ("A_log", "dt_bias")}


def base_shapes(layers: int) -> dict[str, tuple[int, ...]]:
    """A base of full-width layers with the embeddings, and one tensor for every other rule."""
    shapes: dict[str, tuple[int, ...]] = {
        "lm_head.weight": (VOCABULARY, HIDDEN),
        "model.language_model.embed_tokens.weight": (VOCABULARY, HIDDEN),
        "model.language_model.norm.weight": (HIDDEN,),
        "model.visual.patch_embed.proj.weight": (1152, 3, 2, 16, 16),
    }
    shapes |= dict.fromkeys(recipe.find(VARIANT).mtp.tensors, (HIDDEN,))
    for number in range(layers):
        shapes |= layer_shapes(number)
    return dict(sorted(shapes.items()))


def write_base(folder: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Writes random BF16 weights in shards with an index."""
    folder.mkdir(parents=True)
    shards: list[list[Spec]] = [[]]
    for name, shape in shapes.items():
        spec = Spec(name=name, dtype="BF16", shape=shape)
        if sum(one.nbytes for one in shards[-1]) + spec.nbytes > SHARD_BYTES:
            shards.append([])
        shards[-1].append(spec)
    placed = []
    # One piece of noise over and over: the kernel's work does not depend on the values.
    noise = np.random.default_rng(0).standard_normal(CHUNK // 2, dtype=np.float32) * 0.02
    tile = (noise.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    for number, specs in enumerate(shards, start=1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        with (folder / name).open("wb") as file:
            file.write(tensorfile.header_bytes(specs))
            left = sum(spec.nbytes for spec in specs)
            while left:
                left -= file.write(tile[: min(left, len(tile))])
        placed += [(name, spec) for spec in specs]
    canonical.write(folder / INDEX, tensorfile.index_json(placed))


def rebuild(base: Path, out: Path) -> None:
    """What a rebuild does with a base: every byte checked, packed or copied, hashed, written."""
    tensors = tensorfile.read_checkpoint(base)
    plan = rules.plan(recipe.find(VARIANT), tensors)
    maxima = dict.fromkeys(plan.quantized, np.float32(1))
    digests = json.loads((base / "digests.json").read_text())
    out.mkdir()
    quantize.quantize(tensors, digests, plan, maxima, SHARD_BYTES, out)


def mlp_only(base: Path, out: Path) -> None:
    """Quantizes the linears of one MLP alone, file to file, as the libraries are asked to."""
    tensors = tensorfile.read_checkpoint(base)
    modules = [name.removesuffix(".weight") for name in tensors]
    shared = tuple(name for name in modules if not name.endswith("down_proj"))
    down = tuple(name for name in modules if name.endswith("down_proj"))
    stored = formats.find("modelopt", "nvfp4")
    linears = {
        name.removesuffix(".weight"): rules.Linear(
            module=name.removesuffix(".weight"),
            format=stored,
            place=rules.Place(tensor=name, start=0, shape=tensor.shape),
        )
        for name, tensor in tensors.items()
    }
    plan = rules.Plan(groups=(down, shared), linears=linears, keep=(), mtp=(), removed=())
    maxima = dict.fromkeys(plan.quantized, np.float32(1))
    digests = json.loads((base / "digests.json").read_text())
    out.mkdir()
    quantize.quantize(tensors, digests, plan, maxima, SHARD_BYTES, out)


def modelopt(base: Path, out: Path) -> None:
    """The same linears through modelopt's own tensor class."""
    from modelopt.torch.quantization.qtensor import NVFP4QTensor
    from safetensors.torch import load_file, save_file

    stored = {}
    for path in sorted(base.glob("*.safetensors")):
        for name, weight in load_file(path).items():
            packed, scales, scale_2 = NVFP4QTensor.quantize(weight, nvfp4.BLOCK)
            stored[name] = packed._quantized_data
            stored[f"{name}_scale"], stored[f"{name}_scale_2"] = scales, scale_2
    out.mkdir()
    save_file(stored, out / "model.safetensors")


def llmcompressor(base: Path, out: Path) -> None:
    """The same linears through llm-compressor's file to file path."""
    from llmcompressor import model_free_ptq

    model_free_ptq(str(base), str(out), scheme="NVFP4A16", device="cpu", max_workers=2)


WORK: dict[str, Callable[[Path, Path], None]] = {
    "rebuild": rebuild,
    "mlp_only": mlp_only,
    "modelopt": modelopt,
    "llmcompressor": llmcompressor,
}


def main() -> None:
    """Runs the benchmark, or with `--work` one part of it in this process."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--layers", type=int, default=4, help="full-width layers of the base")
    parser.add_argument("--out", type=Path, default=identity.ROOT / "dist" / "bench.json")
    parser.add_argument("--work", choices=WORK)
    parser.add_argument("folders", type=Path, nargs="*")
    options = parser.parse_args()
    if options.layers < 4:
        parser.error("--layers must be 4 or more: every fourth layer has full attention")
    if options.work:
        measure_here(options.work, *options.folders)
        return
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=options.out.parent) as folder:
        report = bench(Path(folder), options.layers)
    canonical.write(options.out, report)
    show(report)


def bench(folder: Path, layers: int) -> dict[str, Any]:
    """Makes the bases, measures everything once, and derives the ratios."""
    whole, mlp = folder / "whole", folder / "mlp"
    write_base(whole, base_shapes(layers))
    write_base(mlp, {name: s for name, s in layer_shapes(0).items() if ".mlp." in name})
    for base in (whole, mlp):
        digests = {p.name: canonical.sha256_file(p) for p in base.glob("*.safetensors")}
        canonical.write(base / "digests.json", digests)
        (base / "config.json").write_text('{"architectures": ["x"], "model_type": "llama"}')
    ours = {name: apart(name, mlp, folder) for name in ("mlp_only", "modelopt", "llmcompressor")}
    full = apart("rebuild", whole, folder)
    disk, hashing = disk_rate(folder), hash_rate()
    floor = full["bytes"] / min(disk, hashing)
    return {
        "machine": identity.machine(),
        "layers": layers,
        "in_memory_mb_s": in_memory_rate() / 1e6,
        "file_to_file": ours,
        "rebuild": full,
        "disk_mb_s": disk / 1e6,
        "sha256_mb_s": hashing / 1e6,
        "floor_seconds": floor,
        "vs_modelopt": ours["modelopt"]["seconds"] / ours["mlp_only"]["seconds"],
        "vs_llmcompressor": ours["llmcompressor"]["seconds"] / ours["mlp_only"]["seconds"],
        "floor_ratio": floor / full["seconds"],
        "peak_rss_mib": full["peak_rss_mib"],
    }


def apart(work: str, base: Path, folder: Path) -> Measured:
    """Measures one part in a process of its own, with the base out of the page cache."""
    out = folder / "out"
    drop_from_cache(base)
    done = subprocess.run(  # noqa: S603 - ourselves
        [sys.executable, "-m", "assay.bench", "--work", work, str(base), str(out)],
        stdout=subprocess.PIPE,
        check=True,
    )
    written = sum(path.stat().st_size for path in out.rglob("*.safetensors"))
    read = sum(path.stat().st_size for path in base.glob("*.safetensors"))
    shutil.rmtree(out)
    measured: Measured = json.loads(done.stdout.splitlines()[-1])
    return measured | {
        "bytes": read + written,
        "read_mb_s": read / measured["seconds"] / 1e6,
    }


def measure_here(work: str, base: Path, out: Path) -> None:
    """Times one part without imports and compilation, until its bytes are on the disk."""
    warm_up(work, out.with_name("warm"))
    started = time.perf_counter()
    WORK[work](base, out)
    for path in out.rglob("*.safetensors"):
        flush(path)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(canonical.dumps({"seconds": seconds, "peak_rss_mib": peak}))  # noqa: T201


def warm_up(work: str, folder: Path) -> None:
    """Runs the same path over a small MLP, so that nothing is imported or compiled later."""
    names = ("gate_proj", "up_proj", "down_proj")
    shapes = {f"model.language_model.layers.0.mlp.{name}.weight": (64, 64) for name in names}
    base = folder / "base"
    write_base(base, shapes)
    digests = {path.name: canonical.sha256_file(path) for path in base.glob("*.safetensors")}
    canonical.write(base / "digests.json", digests)
    (base / "config.json").write_text('{"architectures": ["x"], "model_type": "llama"}')
    WORK["mlp_only" if work == "rebuild" else work](base, folder / "out")
    shutil.rmtree(folder)


def in_memory_rate() -> float:
    """Bytes of BF16 a second that the kernel packs on all cores, from memory to memory."""
    rng = np.random.default_rng(0)
    weight = rng.integers(0, 0x7F00, (4096, HIDDEN), dtype=np.uint16)
    scale_2 = nvfp4.global_scale(nvfp4.amax(weight, "noise"))
    nvfp4.pack(weight, scale_2)
    rounds = 16
    with ThreadPoolExecutor() as pool:
        started = time.perf_counter()
        list(pool.map(lambda _: nvfp4.pack(weight, scale_2), range(rounds)))
        return rounds * weight.nbytes / (time.perf_counter() - started)


def hash_rate() -> float:
    """Bytes a second of sha256 over all cores."""
    data = bytes(CHUNK)
    rounds = 64
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        started = time.perf_counter()
        list(pool.map(lambda _: sha256(data).digest(), range(rounds)))
        return rounds * len(data) / (time.perf_counter() - started)


def disk_rate(folder: Path) -> float:
    """Bytes a second that the disk takes and gives, written and read in turn, uncached."""
    path = folder / "probe"
    data = os.urandom(CHUNK)
    started = time.perf_counter()
    with path.open("wb") as file:
        for _ in range(PROBE_BYTES // CHUNK):
            file.write(data)
    flush(path)
    drop_from_cache(folder)
    with path.open("rb", buffering=0) as file:
        while file.read(CHUNK):
            pass
    seconds = time.perf_counter() - started
    path.unlink()
    return 2 * PROBE_BYTES / seconds


def flush(path: Path) -> None:
    """Waits until a file is on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def drop_from_cache(folder: Path) -> None:
    """Asks the kernel to forget the files' pages, so that reading them reads the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def show(report: Mapping[str, Any]) -> None:
    """Prints the figures as one table."""
    table = Table(title="bench", show_header=False)
    for name, part in {**report["file_to_file"], "rebuild": report["rebuild"]}.items():
        table.add_row(
            name,
            f"{part['seconds']:.1f} s, {part['read_mb_s']:.0f} MB/s of BF16 read, "
            f"peak {part['peak_rss_mib']:.0f} MiB",
        )
    for name in ("in_memory_mb_s", "disk_mb_s", "sha256_mb_s", "floor_seconds"):
        table.add_row(name, f"{report[name]:.1f}")
    for name in ("vs_modelopt", "vs_llmcompressor", "floor_ratio", "peak_rss_mib"):
        table.add_row(name, f"{report[name]:.2f}")
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
