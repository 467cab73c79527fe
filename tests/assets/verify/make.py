"""Makes the corpus of bad releases: `<out>/<case>_fail/` and `<out>/good/`, each a release folder.

`python tests/assets/verify/make.py [<out>]` writes it (by default beside this file, where git does
not look), with `expected.json`, the part of its reason that each case must fail with, and the
public key. Nothing of it is committed: git holds neither pipes nor hard links nor such names, and
a corpus that is made anew holds to the format of now.
"""

import shutil
import sys
from pathlib import Path

from forge.core import canonical
from forge.release import keys

TESTS = Path(__file__).resolve().parents[2]


def make(out: Path) -> dict[str, str]:
    """Writes every case under `out`; returns the expected reasons by folder."""
    from assets.verify.table import every

    bench = good(out)
    expected = {}
    for name, (spoil, reason) in every().items():
        expected[f"{name}_fail"] = reason
        spoil(bench.copy(out / f"{name}_fail"))
    canonical.write(out / "expected.json", expected)
    return expected


def good(out: Path):
    """A signed release in `<out>/good`, on a bench with its key and another."""
    from assets.verify.bench import Bench
    from released import signed_release

    work = out / "work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    keys.generate(work / "other")
    signed_release(work).rename(out / "good")
    return Bench(folder=out / "good", key=work / "key", other_key=work / "other")


if __name__ == "__main__":
    sys.path.insert(0, str(TESTS))
    chosen = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "made"
    shutil.rmtree(chosen, ignore_errors=True)
    print(len(make(chosen)), "cases in", chosen)  # noqa: T201
