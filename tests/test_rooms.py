"""The rooms: importlinter.toml holds for this tree, and breaks when it should."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from forge.core import checkout

CONTRACT = checkout.ROOT / "importlinter.toml"


@pytest.fixture
def tree(tmp_path):
    """A copy of the packages, to be spoilt."""
    for package in ("build/forge", "verify/assay", "verify/bench"):
        shutil.copytree(
            checkout.ROOT / package,
            tmp_path / package,
            ignore=shutil.ignore_patterns("__pycache__"),
        )
    return tmp_path


def lint(tree):
    """What the linter says of a tree, and whether it is content."""
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), CONTRACT, "--no-cache", "--no-logo"],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": f"{tree / 'build'}:{tree / 'verify'}"},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    return done.returncode == 0, " ".join(done.stdout.split())


def test_the_tree_keeps_every_contract(tree):
    kept, said = lint(tree)
    assert kept, said
    assert "0 broken" in said


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        ("build/forge/core/store.py", "from forge import pipeline", "forge-rooms"),
        ("build/forge/tensors/plan.py", "import forge.pipeline", "forge-rooms"),
        ("build/forge/manifest/document.py", "import forge.pipeline", "forge-rooms"),
        ("build/forge/manifest/document.py", "import forge.tensors.plan", "forge-rooms"),
        ("build/forge/beside_the_rooms.py", "", "forge-rooms"),
        ("build/forge/release/card.py", "from forge.container import image", "forge-rooms"),
        ("build/forge/checkpoint/graft.py", "from assay.checks import declared", "one-way"),
        ("verify/assay/checks/declared.py", "from assay.serving import engine", "assay-rooms"),
        ("verify/assay/serving/engine.py", "from bench import limits", "apart"),
        ("verify/assay/rebuild/compare.py", "import torch", "no-torch"),
        ("build/forge/container/build.py", "from forge import remedies", "remedies"),
        ("verify/assay/release/recorded.py", "from forge.tensors import nvfp4", "check-no-numba"),
        ("build/forge/release/bundle.py", "from forge.tensors import loops", "check-no-numba"),
        ("build/forge/calibration/calibrate.py", "import vllm", "vllm"),
        ("build/forge/inputs/hub.py", "import docker", "docker"),
        ("build/forge/tensors/nvfp4.py", "import numba", "numba"),
        ("build/forge/checkpoint/dress.py", "import sigstore", "signatures"),
        ("build/forge/tensors/plan.py", "import huggingface_hub", "hub"),
        ("build/forge/core/store.py", "import huggingface_hub", "hub"),
        ("build/forge/release/card.py", "from forge.checkpoint import dress", "forge-rooms"),
        ("build/forge/checkpoint/dress.py", "from forge.release import folder", "forge-rooms"),
        ("build/forge/release/card.py", "from forge.inputs import hub", "results-not-inputs"),
        ("build/forge/checkpoint/graft.py", "from forge.inputs import hub", "results-not-inputs"),
        ("build/forge/calibration/record.py", "import forge.inputs", "results-not-inputs"),
        ("verify/assay/serving/engine.py", "from assay.release import policy", "gate-not-stranger"),
        ("verify/assay/release/steps.py", "from assay.checks import declared", "stranger-not-gate"),
    ],
)
def test_a_forbidden_import_breaks_its_contract(tree, module, line, contract):
    """At the end of a module and inside a function, which counts as well."""
    with (tree / module).open("a", encoding="utf-8") as file:
        file.write(f"\n\ndef added() -> None:\n    {line or 'return'}\n")
    kept, said = lint(tree)
    assert not kept
    assert f"{names()[contract]} BROKEN" in said


def names():
    """The contracts' names by their ids."""
    contracts = tomllib.loads(CONTRACT.read_text(encoding="utf-8"))
    return {c["id"]: c["name"] for c in contracts["tool"]["importlinter"]["contracts"]}
