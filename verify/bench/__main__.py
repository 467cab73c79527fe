"""Speed and memory of the streaming quantizer, against the libraries and against the machine.

All figures of one report come from one run on one machine, ours as the median of three rounds; what
may be quoted are the ratios:

- `vs_modelopt`, `vs_llmcompressor`: file to file over the same linears, how many times as fast, all
  without hashing, as the libraries work; `hashed_vs_...`: the same for what is really run here,
  which checks the sha256 of all that it reads and takes that of all that it writes;
- `floor_ratio`: the time below which no implementation can come here over our time. The floor is
  the larger of (bytes read and written at the disk's rate) and (sha256 of the same bytes, spread
  over all cores);
- `peak_rss_mib`: the peak resident set of a process that rebuilds the whole base.

The base has the layers of Qwen3.6-27B in full width, but few of them, with random weights.
"""

import sys

from forge.core import signals

if __name__ == "__main__":  # before imports that take a while
    # A part that is measured in a process of its own leaves telling to the whole.
    signals.watch(inner="--work" in sys.argv)

import argparse
import json
import resource
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench import bases, limits
from bench.work import LIBRARIES, WORK
from forge.core import canonical, checkout, commandline, machine, placing

ROUNDS = 3  # of ours, which take seconds; of the libraries', which take minutes, one
MLPS = 8  # layers whose MLPs the libraries are compared over: 4.3 GB
Measured = dict[str, float]


def main() -> None:
    """Runs the benchmark, or with `--work` one part of it in this process."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--layers", type=int, default=4, help="full-width layers of the base")
    parser.add_argument("--out", type=Path, default=checkout.ROOT / "dist" / "bench.json")
    parser.add_argument("--work", choices=WORK)
    parser.add_argument("folders", type=Path, nargs="*")
    options = parser.parse_args()
    if options.layers < 4:
        parser.error("--layers must be 4 or more: every fourth layer has full attention")
    if options.work:
        measure_here(options.work, *options.folders)
        return
    out = options.out.resolve()
    with placing.scratch(out) as folder:
        report = bench(folder, options.layers)
    placing.write(out, f"{canonical.dumps(report)}\n".encode())
    show(report)


def bench(folder: Path, layers: int) -> dict[str, Any]:
    """Makes the bases, measures everything once, and derives the ratios."""
    whole, mlps = folder / "whole", folder / "mlps"
    bases.write_base(whole, bases.base_shapes(layers))
    bases.write_base(mlps, bases.mlp_shapes(MLPS))
    measured = {}
    for name in WORK:
        base = whole if name == "rebuild" else mlps
        rounds = 1 if name in LIBRARIES else ROUNDS
        measured[name] = median([apart(name, base, folder) for _ in range(rounds)])
    seconds = {name: part["seconds"] for name, part in measured.items()}
    disk, hashing = limits.disk_rate(folder), limits.hash_rate()
    floor = measured["rebuild"]["bytes"] / min(disk, hashing)
    return {
        "machine": machine.machine().as_json(),
        "layers": layers,
        "measured": measured,
        "in_memory_mb_s": limits.in_memory_rate() / 1e6,
        "disk_mb_s": disk / 1e6,
        "sha256_mb_s": hashing / 1e6,
        "floor_seconds": floor,
        "vs_modelopt": seconds["modelopt"] / seconds["unhashed"],
        "vs_llmcompressor": seconds["llmcompressor"] / seconds["unhashed"],
        "hashed_vs_modelopt": seconds["modelopt"] / seconds["hashed"],
        "hashed_vs_llmcompressor": seconds["llmcompressor"] / seconds["hashed"],
        "floor_ratio": floor / seconds["rebuild"],
        "peak_rss_mib": measured["rebuild"]["peak_rss_mib"],
    }


def apart(work: str, base: Path, folder: Path) -> Measured:
    """Measures one part in a process of its own, with the base out of the page cache."""
    out = folder / "out"
    limits.drop_from_cache(base)
    done = subprocess.run(  # noqa: S603 - ourselves
        [sys.executable, "-m", "bench", "--work", work, str(base), str(out)],
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


def median(rounds: Sequence[Measured]) -> Measured:
    """The round of median duration, with the highest peak of all rounds."""
    middle = sorted(rounds, key=lambda one: one["seconds"])[len(rounds) // 2]
    return middle | {"peak_rss_mib": max(one["peak_rss_mib"] for one in rounds)}


def measure_here(work: str, base: Path, out: Path) -> None:
    """Times one part without imports and compilation, until its bytes are on the disk."""
    warm_up(work, out.with_name("warm"))
    started = time.perf_counter()
    WORK[work](base, out)
    for path in out.rglob("*.safetensors"):
        limits.flush(path)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(canonical.dumps({"seconds": seconds, "peak_rss_mib": peak}))  # noqa: T201


def warm_up(work: str, folder: Path) -> None:
    """Runs the same path over a small MLP, so that nothing is imported or compiled later."""
    base = folder / "base"
    bases.write_base(base, dict.fromkeys(bases.mlp_shapes(1), (64, 64)))
    WORK["hashed" if work == "rebuild" else work](base, folder / "out")
    shutil.rmtree(folder)


def show(report: Mapping[str, Any]) -> None:
    """Prints the figures as one table."""
    table = Table(title="bench", show_header=False)
    for name, part in report["measured"].items():
        table.add_row(
            name,
            f"{part['seconds']:.1f} s, {part['read_mb_s']:.0f} MB/s of BF16 read, "
            f"peak {part['peak_rss_mib']:.0f} MiB",
        )
    for name in ("in_memory_mb_s", "disk_mb_s", "sha256_mb_s", "floor_seconds"):
        table.add_row(name, f"{report[name]:.1f}")
    for name, value in report.items():
        if "_vs_" in f"_{name}" or name in {"floor_ratio", "peak_rss_mib"}:
            table.add_row(name, f"{value:.2f}")
    Console(width=110).print(table)


if __name__ == "__main__":
    commandline.run(main, lambda _: None, tell_code="--work" not in sys.argv)
