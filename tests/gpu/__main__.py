"""The project on a machine with a GPU and packages of its own: `python3 tests/gpu`, `make gpu`.

Runs the whole assay of finished rehearsals, then a full-size build of random weights. Exits with 0
if all passed, else with 1; a result file is written in either case. docs/gpu.md says more.
"""

import argparse
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # the folder of the tests, not this one

from gpu import full_size, machines, page, stand_ins  # noqa: E402 - the path is known now


def main(words: list[str]) -> int:
    """Runs what the words ask for."""
    parser = argparse.ArgumentParser(prog="python3 tests/gpu", description=__doc__)
    parser.add_argument(
        "what",
        nargs="?",
        choices=["all", "stand-ins", "full-size", "page"],
        default="all",
        help="page writes the table of docs/gpu.md anew",
    )
    parser.add_argument(
        "--rehearsals",
        type=Path,
        default=machines.ROOT / "dist/rehearsal",
        help="the folder with a finished rehearsal of each variant",
    )
    parser.add_argument(
        "--variant",
        action="append",
        choices=stand_ins.VARIANTS,
        help="a variant to check, instead of all three",
    )
    parser.add_argument("--engine", type=Path, help="what this machine's engine needs, as TOML")
    parser.add_argument("--out", type=Path, default=machines.RESULTS, help="for result files")
    parser.add_argument("--work", type=Path, help="where the full size lies: 90 GB, best in memory")
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument(
        "--layers",
        type=int,
        choices=range(4, 65, 4),
        metavar="4..64",
        help="fewer layers of the full width, a multiple of 4",
    )
    sizes.add_argument("--small", action="store_true", help="the sizes of the stand-in")
    parser.add_argument("--without-engine", action="store_true", help="build, but load nothing")
    asked = parser.parse_args(words)
    if asked.what == "page":
        page.write()
        return 0
    passed = True
    with machines.installed():
        if asked.what in {"all", "stand-ins"}:
            variants = tuple(asked.variant or stand_ins.VARIANTS)
            passed = stand_ins.run(asked.rehearsals, asked.out, asked.engine, variants)
        if asked.what in {"all", "full-size"}:
            passed &= full_size.run(
                asked.out,
                asked.engine,
                asked.work,
                layers=asked.layers,
                small=asked.small,
                with_engine=not asked.without_engine,
            )
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
