"""What a step's key depends on."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import FACTS, FLAGSHIP

from forge import pipeline
from forge.core import canonical, checkout, closure
from forge.core.errors import NoEnvironmentError
from forge.core.results import Result
from forge.core.store import Store
from forge.inputs import fetch
from forge.pipeline import STEPS, Job, work_on
from forge.recipes import recipe
from forge.tensors import family

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
        (
            "dress",
            {"base/model.safetensors", "donor/model.safetensors", "template/chat_template.jinja"},
        ),
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
REPORTS = {"calibrate", "quantize", "graft", "dress", "verify"}
LEFT = {
    "build/forge/release/card.py": REPORTS,
    "build/forge/release/report.py": REPORTS,
    "build/forge/release/templates/README.md.jinja": REPORTS,
    "build/forge/container/sandbox.py": REPORTS,
    "build/forge/driver.py": REPORTS,
    "build/forge/remedies.py": REPORTS,
    "build/forge/core/commandline.py": REPORTS,
    "verify/assay/rebuild/compare.py": REPORTS,
    "build/forge/pipeline.py": {"calibrate", "quantize", "graft", "dress"},
    "verify/assay/checks/declared.py": {"calibrate", "quantize", "graft", "dress"},
    "verify/assay/serving/smoke.py": {"calibrate", "quantize", "graft", "dress"},
    "verify/assay/serving/cpu_plugin.py": {"calibrate", "quantize", "graft", "dress"},
    "verify/assay/serving/cpu_kernels.py": {"calibrate", "quantize", "graft", "dress"},
    "build/forge/tensors/loops.py": {"calibrate", "graft", "dress"},
    "build/forge/tensors/encodings.py": {"calibrate", "graft", "dress", "verify"},
    "build/forge/tensors/formats.py": {"calibrate"},
    "build/forge/tensors/plan.py": {"calibrate"},
    "build/forge/tensors/checkpoint.py": {"calibrate"},
    "build/forge/tensors/packing.py": {"calibrate", "graft", "dress", "verify"},
    "build/forge/checkpoint/graft.py": {"calibrate", "quantize", "dress", "verify"},
    "build/forge/inputs/samples.py": REPORTS,
    "build/forge/calibration/with_modelopt.py": {"quantize", "graft", "dress", "verify"},
    "build/forge/calibration/with_llmcompressor.py": {"quantize", "graft", "dress", "verify"},
    "build/forge/core/store.py": {"calibrate", "quantize", "graft", "dress"},
    "build/forge/core/store_folders.py": {"calibrate", "quantize", "graft", "dress"},
    "build/forge/core/results.py": {"calibrate", "quantize", "graft", "dress"},
    "build/forge/core/integrity.py": {"calibrate", "quantize", "graft", "dress"},
    "build/forge/storekeeping/contents.py": REPORTS,
    "build/forge/core/failures.py": {"calibrate", "quantize", "graft", "dress"},
    # What words an error, shows a bar, or asks for room.
    "build/forge/core/console.py": {"calibrate", "quantize", "graft"},
    "build/forge/core/disk.py": {"calibrate", "quantize", "graft"},
    "build/forge/core/files.py": {"calibrate", "quantize", "graft", "dress"},
    "build/forge/core/filesystem.py": {"calibrate", "quantize", "graft"},
    "build/forge/core/libraries.py": {"calibrate", "quantize", "graft", "dress"},
    "build/forge/core/signals.py": {"calibrate", "quantize", "graft", "dress"},
    "build/forge/core/system_errors.py": {"calibrate", "quantize", "graft"},
    "build/forge/core/walking.py": {"calibrate", "quantize", "graft"},
    # What everything stands on.
    "build/forge/core/canonical.py": set(),
    "build/forge/core/errors.py": set(),
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


CODES = """
import json, sys
from multiprocessing import get_context
from pathlib import Path
from forge.core import closure
from forge.pipeline import STEPS, module_of
modules = {step.name: module_of(step.name).__name__ for step in STEPS}
def codes(changed):
    path, text = Path(changed), Path(changed).read_bytes()
    path.write_bytes(text + b"\\n# another line\\n")
    try:
        return {step: closure.of(module).code() for step, module in modules.items()}
    finally:
        path.write_bytes(text)
with get_context("fork").Pool(1, maxtasksperchild=1) as pool:  # what is read is kept by a process
    print(json.dumps(dict(zip(sys.argv[1:], pool.map(codes, sys.argv[1:], chunksize=1)))))
"""


@pytest.fixture(scope="module")
def codes(tree):
    """By changed file the digest of every step's modules, as a process of that tree finds it."""
    (tree / "nothing").touch()
    done = subprocess.run(
        [sys.executable, "-c", CODES, "nothing", *LEFT],
        env={**os.environ, "PYTHONPATH": f"{tree / 'build'}:{tree / 'verify'}"},
        cwd=tree, capture_output=True, encoding="utf-8", check=True,
    )  # fmt: skip
    return json.loads(done.stdout)


@pytest.mark.parametrize("changed", LEFT)
def test_what_a_change_leaves_in_the_store(codes, changed):
    """A report or a check costs no calibration; a loop does not leave what it packed."""
    before, after = codes["nothing"], codes[changed]
    assert {name for name in REPORTS if before[name] == after[name]} == LEFT[changed]


# All that a calibration counts as its own: hours of a GPU are repeated for a change to it. A module
# that decides no byte of the record has no place here; see what a step is given in `Work`.
CALIBRATE = {
    "forge": {"__init__"},
    "forge/calibration": {
        "__init__", "batches", "calibrate", "decided", "record", "with_llmcompressor",
        "with_modelopt",
    },
    "forge/core": {"__init__", "boundary", "canonical", "errors"},
    "forge/inputs": {"__init__", "sample_files"},
    "forge/tensors": {"__init__", "small_floats", "tensorfile"},
}  # fmt: skip
# Imported by it; what these require counts as well.
LIBRARIES = {
    "PIL", "compressed_tensors", "llmcompressor", "modelopt", "numpy", "pydantic", "torch",
    "torchvision", "transformers",
}  # fmt: skip


def test_what_a_calibration_counts_as_its_own():
    """To the module, so that an import more is seen here before it costs a calibration."""
    reached = closure.of(pipeline.module_of("calibrate").__name__)
    assert {
        checkout.ROOT / "build" / room / f"{module}.py"
        for room, modules in CALIBRATE.items()
        for module in modules
    } == set(reached.files)
    assert set(reached.packages) == LIBRARIES


@pytest.mark.parametrize(
    "change",
    [
        {"parameters": {"x": 2}},
        {"needs": {"fetch": {"base/a": "1" * 64}}},
        {"code": "1" * 64},
        {"distributions": {"numpy": "1"}},
        {"system": {"python": "3.11"}},
    ],
)
def test_the_key_holds_all_that_decides(tmp_path, change):
    """Each of the facts moves it; with the same ones nothing is made again."""
    made = []

    def key(facts):
        return pipeline.kept(Store(tmp_path), "step", facts, made.append).key

    assert key(FACTS) == key(dict(reversed(FACTS.items())))
    assert len(made) == 1
    assert key(FACTS) != key({**FACTS, **change})
    assert len(made) == 2


# The steps whose parameters move with a part of a recipe; what is fetched moves others' needs.
MOVED = {
    "title": {"attest"},
    "published": {"attest"},
    "keep.why": {"attest"},
    "keep.tensors": {"quantize", "verify", "attest"},
    "quantize.modules": {"calibrate", "quantize", "dress", "verify", "attest"},
    "calibration.attention": {"calibrate", "verify", "attest"},
    "layout.shard_bytes": {"quantize", "dress", "verify", "attest"},
    "layout.kv_cache": {"dress", "verify", "attest"},
    "strip": {"dress", "verify", "attest"},
    "perplexity.max_ratio": {"verify", "attest"},
    "perplexity.text_sha256": {"fetch", "verify", "attest"},
    "serve.acceptance_floor": {"verify", "attest"},
    "template.sha256": {"fetch", "verify", "attest"},
    "base.revision": {"verify", "attest"},
}


def changed(flagship, part):
    """The flagship with one part of its recipe changed to another value that it can have."""
    data = flagship.model_dump(mode="json")
    edits = {
        "title": lambda: data.update(title="another"),
        "published": lambda: data.update(
            published=[{"figure": "x", "value": 1.0, "source": "a card"}]
        ),
        "keep.why": lambda: data["keep"][0].update(why="another reason"),
        "keep.tensors": data["keep"][1]["tensors"].reverse,
        "quantize.modules": lambda: (
            data["quantize"].pop(1)
            and data["keep"][0]["tensors"].append(
                "model.language_model.layers.*.self_attn.o_proj.weight"
            )
        ),
        "calibration.attention": lambda: data["calibration"].update(attention="eager"),
        "layout.shard_bytes": lambda: data["layout"].update(shard_bytes=1),
        "layout.kv_cache": lambda: data["layout"].update(kv_cache="fp8"),
        "strip": lambda: data.update(strip={}),
        "perplexity.max_ratio": lambda: data["perplexity"].update(max_ratio=1.2),
        "perplexity.text_sha256": lambda: data["perplexity"].update(text_sha256="0" * 64),
        "serve.acceptance_floor": lambda: data["serve"].update(acceptance_floor=[0.7]),
        "template.sha256": lambda: data["template"].update(sha256="0" * 64),
        "base.revision": lambda: data["base"].update(revision="0" * 40),
    }
    edits[part]()
    return recipe.Recipe.model_validate_json(json.dumps(data))


@pytest.mark.parametrize("part", MOVED)
def test_which_parameters_move_with_a_recipe(built, flagship, part):
    """Prose moves no step that works for hours; what the assay compares with moves verify."""

    def parameters(wanted):
        job = fetch.choose(replace(built.job, recipe=wanted))
        work = work_on(job, built.results)
        return {
            step.name: canonical.dumps(pipeline.module_of(step.name).parameters(work))
            for step in STEPS
        }

    before, after = parameters(flagship), parameters(changed(flagship, part))
    assert {name for name in before if before[name] != after[name]} == MOVED[part]


DONATED = "carnice-v2-27b-text-mtp"


@pytest.mark.parametrize(
    ("variant", "name", "key", "moved"),
    [
        (FLAGSHIP, "qwen3_5", 'units = ["', {"verify"}),
        (FLAGSHIP, "qwen3_5", 'head_layers = "', {"verify"}),
        (FLAGSHIP, "qwen3_5_moe", 'head_layers = "', set()),
        (DONATED, "qwen3_5", 'head_layers = "', {"dress", "verify"}),
        (DONATED, "qwen3_5_text", 'head_layers = "', {"dress"}),  # the donor's may be of this one
    ],
)
def test_which_parameters_move_with_a_family(  # noqa: PLR0917 - what is changed, and what follows
    built, tmp_path, monkeypatch, variant, name, key, moved
):
    """No module holds what its file says, so the step that reads it declares it."""
    job = replace(built.job, recipe=recipe.find(variant))

    def parameters():
        family.load.cache_clear()
        work = replace(work_on(built.job, built.results), job=job)
        modules = {name: pipeline.module_of(name) for name in ("dress", "verify")}
        return {name: canonical.dumps(one.parameters(work)) for name, one in modules.items()}

    before = parameters()
    folder = shutil.copytree(family.FOLDER, tmp_path / "families")
    text = (folder / f"{name}.toml").read_text(encoding="utf-8")
    assert key in text
    (folder / f"{name}.toml").write_text(text.replace(key, f"{key}x_"), encoding="utf-8")
    monkeypatch.setattr(family, "FOLDER", folder)
    try:
        after = parameters()
    finally:
        family.load.cache_clear()
    assert {name for name in before if before[name] != after[name]} == moved


def test_a_step_that_nobody_registered():
    with pytest.raises(NoEnvironmentError, match="0 modules are registered for the step 'polish'"):
        pipeline.module_of("polish")


def test_source_that_is_edited_while_a_step_works_is_not_what_ran(built, monkeypatch):
    """The digests are those of the source as it was when the process began to work."""
    now = ["before"]
    codes = []
    monkeypatch.setattr(pipeline, "code_of", lambda module: {"code": f"{now[0]} {module}"})

    def kept(store, step, facts, make):
        del store, make
        codes.append(facts["code"])
        now[0] = "after"
        return built.results[step]

    monkeypatch.setattr(pipeline, "kept", kept)
    given = {name: built.results[name] for name in ("fetch", "calibrate")}
    pipeline.run(built.job, until="dress", given=given)
    assert [code.split()[0] for code in codes] == ["before"] * 3


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
