"""The lock files: what each environment has, and what none but `dev` has."""

import re
import sys
from functools import cache
from importlib.metadata import packages_distributions

import grimp
import pytest

from forge.core import checkout

ENVIRONMENTS = ("build", "verify", "verify-cpu", "host", "check", "rebuild", "release", "dev")
LIGHT = ("host", "check", "rebuild", "release")
HEAVY = {
    "torch",
    "torchvision",
    "transformers",
    "nvidia-modelopt",
    "llmcompressor",
    "vllm",
    "triton",
}
TEST_TOOLS = {"pytest", "hypothesis", "iniconfig", "sortedcontainers"}
# What of forge and assay runs in an environment, as far as it decides what that must have.
RUNS = {
    "host": (
        "forge.driver", "forge.container", "forge.inputs", "forge.recipes",
    ),
    "check": ("assay.release", "assay.rebuild.compare", "assay.rebuild.tables"),
    "rebuild": (
        "assay.rebuild", "forge.inputs", "forge.calibration.record", "forge.checkpoint",
        "forge.tensors",
    ),
    "release": ("forge.release",),
    "build": (
        "forge.calibration", "forge.checkpoint", "forge.tensors", "forge.release.attest",
        "assay.checks",
    ),
    "verify": ("assay.verify", "assay.serving", "forge.tensors", "forge.release.attest"),
}  # fmt: skip
# The distributions of packages that are not installed here, where the names differ.
DISTRIBUTIONS = {"modelopt": ["nvidia-modelopt"], "PIL": ["pillow"]}


@cache
def pins(name):
    """The versions in a lock file by distribution: several, where they depend on a marker."""
    found = {}
    text = (checkout.LOCKFILES / f"{name}.txt").read_text(encoding="utf-8")
    for distribution, version in re.findall(r"^([a-z0-9-]+)==(\S+)", text, re.MULTILINE):
        found.setdefault(distribution, set()).add(version)
    return found


@cache
def imports():
    graph = grimp.build_graph(
        "forge", "assay", "bench",
        include_external_packages=True, exclude_type_checking_imports=True,
    )  # fmt: skip
    # In a function that only the steps after fetch call; who runs those has the module named above.
    graph.remove_import(importer="forge.pipeline", imported="forge.tensors.checkpoint")
    return graph


@pytest.mark.parametrize("name", ["tools", "test", *ENVIRONMENTS])
def test_every_package_has_hashes_and_no_address(name):
    text = (checkout.LOCKFILES / f"{name}.txt").read_text(encoding="utf-8")
    assert "://" not in text
    assert "--index" not in text
    entries = re.split(
        r"^(?=\S)", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE), flags=re.MULTILINE
    )
    entries = [entry for entry in entries if entry]
    assert len(entries) >= len(pins(name)) > 0
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}$", entry, re.MULTILINE) for entry in entries)


@pytest.mark.parametrize("name", [name for name in ENVIRONMENTS if name != "dev"])
def test_what_runs_elsewhere_has_no_test_tools(name):
    assert not TEST_TOOLS & pins(name).keys()


def test_test_tools_are_those_of_dev():
    """So that a test means the same in every environment."""
    assert pins("test").keys() >= TEST_TOOLS
    assert pins("test").items() <= pins("dev").items()


@pytest.mark.parametrize("name", [*LIGHT, "test", "dev"])
def test_versions_are_those_of_the_build_environment(name):
    """Wherever both have a package: a rebuild computes with what the build computed with."""
    here, there = pins(name), pins("build")
    assert {key: here[key] for key in here.keys() & there} == {
        key: there[key] for key in here.keys() & there
    }


def test_dev_can_run_what_the_light_environments_run():
    for name in LIGHT:
        assert pins(name).items() <= pins("dev").items(), name


@pytest.mark.parametrize("name", [*LIGHT, "dev"])
def test_no_torch_where_none_is_needed(name):
    assert not HEAVY & pins(name).keys()


def test_checking_has_no_compiled_loops_and_asks_no_hub():
    assert not {"numba", "llvmlite", "huggingface-hub", "pyarrow"} & pins("check").keys()


@pytest.mark.parametrize("name", RUNS)
def test_an_environment_has_what_its_modules_import(name):
    """Imports in functions included."""
    graph = imports()
    modules = {module for start in RUNS[name] for module in (start, *graph.find_descendants(start))}
    reached = modules.union(*map(graph.find_upstream_modules, modules))
    packages = {module.split(".")[0] for module in reached}
    packages -= {"forge", "assay", "bench", *sys.stdlib_module_names}
    if name == "host":
        packages -= {"numba"}  # of the loops, which no command there calls
    known = DISTRIBUTIONS | packages_distributions()
    missing = {
        package
        for package in packages
        if not {one.lower().replace("_", "-") for one in known.get(package, [package])}
        & pins(name).keys()
    }
    assert not missing
    assert "pydantic" in packages  # something was looked at
