"""What a step's key depends on."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import FLAGSHIP

from forge import pipeline
from forge.core import checkout, closure, machine
from forge.core.store import Result, Store
from forge.pipeline import STEPS, Job
from forge.recipes import recipe

FETCHED = {
    "base/model.safetensors": "a",
    "calibration/llm/samples.jsonl": "b",
    "donor/model.safetensors": "c",
    "inputs.json": "d",
    "perplexity/text.txt": "e",
    "template/chat_template.jinja": "f",
}


def result(step, digests):
    return Result(step=step, key="key", files=Path(step), digests=digests, record={})


def inputs(name, **changes):
    step = next(step for step in STEPS if step.name == name)
    needed = {other: result(other, {"calibration.safetensors": "g"}) for other in step.needs}
    needed["fetch"] = result("fetch", FETCHED | changes)
    return step.inputs(needed)


@pytest.mark.parametrize(
    ("step", "decides"),
    [
        ("calibrate", {"base/model.safetensors", "calibration/llm/samples.jsonl"}),
        ("quantize", {"base/model.safetensors"}),
        ("graft", {"base/model.safetensors", "donor/model.safetensors"}),
        ("dress", FETCHED.keys()),
        ("verify", FETCHED.keys()),
        ("attest", FETCHED.keys()),
    ],
)
def test_what_is_fetched_decides_the_key_where_it_is_read(step, decides):
    """Variants that differ in a template or a donor share a calibration."""
    found = {path for path in FETCHED if inputs(step, **{path: "z"}) != inputs(step)}
    assert found == set(decides)


def test_another_record_is_another_quantization():
    step = next(step for step in STEPS if step.name == "quantize")
    record = {"calibration.safetensors": "g", "calibrate.log": "h"}
    needed = {"fetch": result("fetch", FETCHED), "calibrate": result("calibrate", record)}
    assert step.inputs(needed)["calibrate"] == {"calibration.safetensors": "g"}


# What a change leaves in the store, by the file that is changed. Fetch is not asked about: it may
# run again, it only looks at what is there.
LEFT = {
    "build/forge/release/card.py": {"calibrate", "quantize", "graft", "dress", "verify"},
    "build/forge/release/report.py": {"calibrate", "quantize", "graft", "dress", "verify"},
    "build/forge/release/templates/README.md.jinja": {
        "calibrate", "quantize", "graft", "dress", "verify",
    },
    "build/forge/container/sandbox.py": {"calibrate", "quantize", "graft", "dress", "verify"},
    "build/forge/driver.py": {"calibrate", "quantize", "graft", "dress", "verify"},
    "build/forge/pipeline.py": {"calibrate", "quantize", "graft", "dress"},
    "verify/assay/rebuild/compare.py": {"calibrate", "quantize", "graft", "dress", "verify"},
    "verify/assay/checks/declared.py": {"calibrate", "quantize", "graft", "dress"},
    "verify/assay/serving/smoke.py": {"calibrate", "quantize", "graft", "dress"},
    "build/forge/tensors/loops.py": {"calibrate", "graft"},
    "build/forge/tensors/packing.py": {"calibrate", "graft", "dress", "verify"},
    "build/forge/tensors/formats.py": {"calibrate", "graft"},
    "build/forge/tensors/plan.py": {"calibrate", "graft"},
    "build/forge/checkpoint/graft.py": {"calibrate", "quantize", "dress", "verify"},
    "build/forge/calibration/with_modelopt.py": {"quantize", "graft", "dress", "verify"},
    "build/forge/calibration/with_llmcompressor.py": {"quantize", "graft", "dress", "verify"},
    "build/forge/core/canonical.py": set(),
}  # fmt: skip


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of the packages, to be changed."""
    root = tmp_path_factory.mktemp("tree")
    for package in ("build/forge", "verify/assay"):
        shutil.copytree(
            checkout.ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    return root


def codes(tree):
    """The digest of every step's modules, as a process of that tree finds it."""
    script = (
        "import json; from forge.core import closure; from forge.pipeline import STEPS, module_of\n"
        "print(json.dumps({s.name: closure.of(module_of(s.name).__name__).code() for s in STEPS}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": f"{tree / 'build'}:{tree / 'verify'}"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def before(tree):
    return codes(tree)


@pytest.mark.parametrize("changed", LEFT)
def test_what_a_change_leaves_in_the_store(tree, before, changed):
    """A report or a check costs no calibration; a loop does not leave what it packed."""
    path = tree / changed
    text = path.read_bytes()
    path.write_bytes(text + b"\n# another line\n")
    try:
        after = codes(tree)
    finally:
        path.write_bytes(text)
    steps = {"calibrate", "quantize", "graft", "dress", "verify"}
    assert {name for name in steps if before[name] == after[name]} == LEFT[changed]


def test_the_key_holds_all_that_decides(tmp_path, monkeypatch):
    """Parameters, needs, code, distributions and system, each of which moves it."""
    facts = {
        "code": "a", "distributions": {"numpy": "1"}, "system": {"python": "3.11"},
        "parameters": {"x": 1},
    }  # fmt: skip
    asked = []

    class Recorder(Store):
        def get(self, step, key):
            asked.append(key)
            return result(step, {})

    def key(**changes):
        now = facts | changes
        reached = SimpleNamespace(
            code=lambda: now["code"], distributions=lambda: now["distributions"]
        )
        module = SimpleNamespace(__name__="x", parameters=lambda _: now["parameters"])
        monkeypatch.setattr(closure, "of", lambda _: reached)
        monkeypatch.setattr(machine, "system", lambda: now["system"])
        monkeypatch.setattr(pipeline, "module_of", lambda _: module)
        job = Job(recipe=recipe.find(FLAGSHIP), store=Recorder(tmp_path), rehearsal=True)
        pipeline.run(job, until="fetch")
        return asked[-1]

    assert key() == key()
    changes = {
        "code": "b", "distributions": {"numpy": "2"}, "system": {"python": "3.12"},
        "parameters": {"x": 2},
    }  # fmt: skip
    assert len({key(), *(key(**{name: value}) for name, value in changes.items())}) == 5


def test_every_step_is_registered():
    """And its module has the face of a step."""
    for step in STEPS:
        module = pipeline.module_of(step.name)
        assert callable(module.parameters)
        assert callable(module.run)


@pytest.mark.parametrize(
    ("level", "environments"),
    [
        ("none", ("host", "build")),
        ("structure", ("host", "build")),
        ("all", ("host", "build", "verify")),
    ],
)
def test_environments_of_a_job(tmp_path, level, environments):
    """Without the engine's checks nothing needs its environment."""
    job = Job(recipe=recipe.find(FLAGSHIP), store=Store(tmp_path), rehearsal=True, level=level)
    assert job.environments == environments
