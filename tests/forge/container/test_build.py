"""Whole rehearsals in the image: killed in every way, then to the end, and their manifest."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import FLAGSHIP

from forge.core import checkout, machine
from forge.manifest import provenance

pytestmark = pytest.mark.image


def command(root: Path) -> list[str]:
    return [
        sys.executable, "-m", "forge", "build", FLAGSHIP, "--rehearse", "--verify", "structure",
        "--runner=image", "--store", str(root / "store"), "--out", str(root / "out"),
    ]  # fmt: skip


def wait_until(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "never came"
        time.sleep(0.1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_killed_run_leaves_nothing(left, tmp_path, number):
    """No container, no half-written result, nothing at the target; not even after SIGKILL."""
    # A shell in the background hands on that SIGINT is ignored; here it must not be.
    heeding = ["env", "--default-signal=INT", *command(tmp_path)]
    runner = subprocess.Popen(heeding, stderr=subprocess.DEVNULL, start_new_session=True)
    scratch = tmp_path / "store/tmp"
    wait_until(lambda: list(scratch.glob("calibrate-*")))
    assert len(left(tmp_path / "store")) == 1
    runner.send_signal(number)
    code = runner.wait(timeout=5)
    assert code == (-number if number == signal.SIGKILL else 128 + number)
    wait_until(lambda: not left(tmp_path / "store"), seconds=30)
    assert not list((tmp_path / "store/calibrate").glob("*"))
    assert not (tmp_path / "out").exists()
    if number != signal.SIGKILL:
        assert not list(scratch.glob("image-*"))


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """A rehearsal after a killed one in the same store."""
    root = tmp_path_factory.mktemp("released")
    runner = subprocess.Popen(command(root), stderr=subprocess.DEVNULL)
    wait_until(lambda: list((root / "store/tmp").glob("calibrate-*")))
    runner.kill()
    runner.wait()
    done = subprocess.run(command(root), capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    return root


@pytest.fixture
def statement(released):
    path = released / "out/provenance/provenance.json"
    return json.loads(path.read_text(encoding="utf-8"))["predicate"]


def test_nothing_is_left(released, left):
    assert left(released / "store") == []
    assert list((released / "store/tmp").iterdir()) == []
    assert {path.stat().st_uid for path in released.rglob("*")} == {os.getuid()}


def test_result_is_linked_from_the_store(released):
    """Published here, not in the container, where a link cannot leave its mount."""
    assert (released / "out/model-mtp.safetensors").stat().st_nlink >= 2


def test_second_run_does_no_work(released):
    done = subprocess.run(command(released), capture_output=True, encoding="utf-8", check=True)
    assert "done in" not in done.stderr
    assert "is up to date" in done.stderr


def test_builder_is_another_than_the_hosts(statement):
    builder = statement["runDetails"]["builder"]["id"]
    assert builder == provenance.REHEARSALS["image"]
    assert builder not in (provenance.REHEARSALS["host"], *provenance.BUILDERS.values())


def test_manifest_names_image_base_engine_and_locks(statement, client, found):
    built_on = statement["buildDefinition"]["internalParameters"]["machine"]
    inside = built_on["container"]
    assert inside["image"] == found.facts().as_json()
    assert inside["engine"]["version"] == client.version()["Version"]
    assert (inside["graphics"] is None) == (not machine.has_gpu())
    named = {item["name"]: item for item in statement["buildDefinition"]["resolvedDependencies"]}
    assert f"sha256:{named['image']['digest']['sha256']}" == found.id
    base = found.labels["org.opencontainers.image.base.digest"]
    assert f"sha256:{named['image/base']['digest']['sha256']}" == base
    assert named["hallmark"]["digest"]["gitCommit"] == checkout.commit()[0]
    assert {"lockfiles/host.txt", "lockfiles/build.txt"} <= named.keys()


def test_every_step_but_fetch_ran_in_the_image(statement, found):
    steps = {
        item["name"].removeprefix("step/"): item["annotations"]
        for item in statement["runDetails"]["byproducts"]
        if item["name"].startswith("step/")
    }
    base = found.labels["org.opencontainers.image.base.digest"]
    assert steps.pop("fetch")["system"]["base"] is None
    assert {step["system"]["base"] for step in steps.values()} == {base}
