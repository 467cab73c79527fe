"""The table of the corpus: every way to spoil a release, and the reason that must be given.

A case is a function of the bench; what it is called is the name of its folder. `cases.py` and the
`cases_<part>.py` beside it fill the table; :func:`every` reads them all.
"""

import importlib
from pathlib import Path

from forge.calibration import record
from forge.manifest import names

SUMS, TENSORS = f"provenance/{names.SUMS}", f"provenance/{names.TENSORS}"
VERIFICATION = f"provenance/{names.VERIFICATION}"
RECORD = f"provenance/{record.FILE}"
RECIPE = "build/variants/qwen36-27b-vlm-mtp.toml"
CASES = {}


def every():
    """The whole table: a function of the bench and a part of the reason, by the case's name."""
    for path in sorted(Path(__file__).parent.glob("cases*.py")):
        importlib.import_module(f"assets.verify.{path.stem}")
    return CASES


def add(name, spoil, reason):
    """Registers a case; two of one name would hide each other."""
    assert name not in CASES, f"{name}: is a case already"
    CASES[name] = (spoil, reason)


def case(reason):
    """Registers a case that fails for a reason."""

    def register(function):
        add(function.__name__, function, reason)
        return function

    return register


def edited(reason):
    """A case that changes the manifest."""

    def register(function):
        add(function.__name__, lambda bench: bench.restate(function), reason)
        return function

    return register


def reported(reason):
    """A case that changes the assay's report, and signs."""

    def register(function):
        def spoil(bench):
            bench.edit(VERIFICATION, function)
            bench.admit(VERIFICATION)

        add(function.__name__, spoil, reason)
        return function

    return register
