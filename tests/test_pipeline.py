"""Rehearsals of the flagship on the real stand-in, up to the structural assay: the command line,
the cache, crashes, and the reproducibility of the result. No engine."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import FLAGSHIP

from forge.core import canonical
from forge.core.errors import StoreError
from forge.inputs import standin
from forge.pipeline import STEPS

pytestmark = pytest.mark.libraries
SUMS = Path("provenance", "SHA256SUMS")


def command(root, *options):
    return [
        sys.executable, "-m", "forge", "build", FLAGSHIP, "--rehearse", "--verify", "structure",
        "--store", str(root / "store"), "--out", str(root / "out"), *options,
    ]  # fmt: skip


def rehearse(root, *options, code=0):
    """Runs a rehearsal offline; returns what it said."""
    done = subprocess.run(
        command(root, *options), capture_output=True, encoding="utf-8", check=False,
        env={"PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1", "HOME": str(root)},
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    return done.stderr + done.stdout


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory):
    root = tmp_path_factory.mktemp("rehearsed")
    said = rehearse(root)
    return root, said


@pytest.fixture
def copy(rehearsed, tmp_path):
    """A rehearsal of one's own: store and result with the same bytes, links kept as links."""
    subprocess.run(["cp", "-a", f"{rehearsed[0]}/.", str(tmp_path)], check=True)
    return tmp_path


def test_says_what_it_does_and_where_the_result_lies(rehearsed):
    root, said = rehearsed
    for step in STEPS:
        assert re.search(rf"{step.name}\s+done in", said), step.name
    assert "Hallmark corpus, evaluation part" in said
    assert "structure, 14 of 14 checks passed" in said
    assert str(root / "out") in said
    assert "\x1b" not in said  # quiet in a pipe: no bars, no colours


def test_second_run_does_no_work_and_says_so(rehearsed):
    root, _ = rehearsed
    before = {path: path.stat().st_mtime_ns for path in (root / "out").rglob("*")}
    said = rehearse(root)
    assert len(STEPS) == said.count("unchanged, nothing to do")
    assert "done in" not in said
    assert before == {path: path.stat().st_mtime_ns for path in (root / "out").rglob("*")}


@pytest.fixture
def calibrated(copy):
    """A store with nothing beyond the calibration, and no result."""
    for step in ("out", *(f"store/{step.name}" for step in STEPS[2:])):
        shutil.rmtree(copy / step)
    return copy


@pytest.mark.parametrize(
    ("before", "env"),
    [
        ("umask 077; exec <&- >&-", {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}),
        ("umask 000", {"PATH": "/nonexistent", "HOME": "/proc", "TMPDIR": "/nonexistent"}),
        ("unset HOME; exec 2>&-", {"GIT_DIR": "/nonexistent", "TZ": "No/Such"}),
        ("true", {"PYTHONOPTIMIZE": "2", "PYTHONWARNINGS": "error", "OMP_NUM_THREADS": "1"}),
    ],
)
def test_other_surroundings_give_the_same_bytes(rehearsed, calibrated, before, env):
    """And the same modes: whoever is given the folder can read it, its owner alone can write."""
    root, _ = rehearsed
    done = subprocess.run(
        ["/bin/bash", "-c", f'{before}; exec "$@"', "-", *command(calibrated)],
        env={"HF_HUB_OFFLINE": "1", "HOME": str(root), **env},
        stderr=subprocess.PIPE, check=False,
    )  # fmt: skip
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False), done.stderr.decode()
    assert (root / "out" / SUMS).read_bytes() == (calibrated / "out" / SUMS).read_bytes()
    placed = [calibrated / "out", *(calibrated / "out").rglob("*")]
    assert {path.stat().st_mode & 0o777 for path in placed if path.is_dir()} == {0o755}
    assert {path.stat().st_mode & 0o777 for path in placed if path.is_file()} == {0o644}


def test_another_folder_and_store_give_the_same_bytes(rehearsed, tmp_path):
    root, _ = rehearsed
    rehearse(tmp_path)
    assert (root / "out" / SUMS).read_bytes() == (tmp_path / "out" / SUMS).read_bytes()
    for name in ("calibration.safetensors", "tensors.jsonl"):
        file = Path("out", "provenance", name)
        assert (root / file).read_bytes() == (tmp_path / file).read_bytes()


def test_local_base(rehearsed, tmp_path):
    """The same checkpoint given as BASE=<dir> gives the same release, and says that it is local."""
    root, _ = rehearsed
    base = shutil.copytree(standin.ROOT / "qwen36-dense" / "checkpoint", tmp_path / "base")
    rehearse(tmp_path, "--base", str(base))
    assert (root / "out" / SUMS).read_bytes() == (tmp_path / "out" / SUMS).read_bytes()
    statement = json.loads(
        (tmp_path / "out" / "provenance" / "provenance.json").read_text(encoding="utf-8")
    )
    definition = statement["predicate"]["buildDefinition"]
    assert definition["internalParameters"]["fetched_from"]["base"] == "local"
    assert str(tmp_path) not in json.dumps(statement)


def test_editing_the_result_is_noticed_and_mended(copy):
    """dist/ shares its bytes with the store; an edited shard must not come back from the cache.

    What was edited is not replaced unasked.
    """
    sums = (copy / "out" / SUMS).read_bytes()
    shard = copy / "out" / "model-00001-of-00001.safetensors"
    with shard.open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\xff")
    edited = canonical.sha256_file(shard)
    assert f"changed since ({shard.name})" in rehearse(copy, code=StoreError.code)
    assert canonical.sha256_file(shard) == edited
    rehearse(copy, "--replace")
    assert sums == (copy / "out" / SUMS).read_bytes()
    subprocess.run(["sha256sum", "--check", "--quiet", str(SUMS)], cwd=copy / "out", check=True)


@pytest.mark.parametrize("step", ["calibrate", "quantize", "dress"])
def test_killed_in_a_step_the_next_run_finishes(rehearsed, copy, step):
    """Killed while the step works: nothing half-written is published, earlier steps are kept."""
    names = [entry.name for entry in STEPS]
    for name in names[names.index(step) :]:
        shutil.rmtree(copy / "store" / name)
    shutil.rmtree(copy / "out")
    child = subprocess.Popen(
        command(copy), stderr=subprocess.PIPE, encoding="utf-8",
        env={"PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1", "HOME": str(copy)},
    )  # fmt: skip
    for line in child.stderr:
        if line.split()[:2] == [step, "..."]:
            time.sleep(0.05)
            break
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stderr.close()
    assert not (copy / "out").exists()
    said = rehearse(copy)
    assert said.count("unchanged, nothing to do") >= names.index(step)
    assert (rehearsed[0] / "out" / SUMS).read_bytes() == (copy / "out" / SUMS).read_bytes()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_the_processes_of_a_build_end_with_it(tmp_path, number):
    """However the driver ends, the environment that it runs ends, too; nothing is published.

    A signal is told in one line, and in five seconds nothing is left, not even for the next run.
    """
    # A shell in the background hands on that SIGINT is ignored; here it must not be.
    driver = subprocess.Popen(
        ["env", "--default-signal=INT", *command(tmp_path)],
        env={"PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1", "HOME": str(tmp_path)},
        stderr=subprocess.PIPE, encoding="utf-8",
    )  # fmt: skip
    for line in driver.stderr:
        if line.split()[:2] == ["calibrate", "..."]:
            break
    assert processes(tmp_path)
    driver.send_signal(number)
    deadline = time.monotonic() + 5
    said, code = driver.stderr.read(), driver.wait()
    while processes(tmp_path):
        assert time.monotonic() < deadline, "a process is left"
        time.sleep(0.1)
    assert time.monotonic() < deadline
    if number == signal.SIGKILL:
        assert (code, said) == (-number, "")
    else:
        told = f"hallmark: exit {128 + number}, stopped by {number.name}\n"
        assert (code, said) == (128 + number, told)
        assert list((tmp_path / "store/tmp").iterdir()) == []
    driver.stderr.close()
    assert not (tmp_path / "out").exists()
    assert not list((tmp_path / "store").glob("calibrate/*"))


def processes(root):
    """The processes that run the steps of a build below a folder, as the kernel lists them."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it may end meanwhile
            words = path.read_bytes().decode().split("\0")
            if "steps" in words and str(root) in " ".join(words):
                found.append(words)
    return found


def test_two_builders_of_one_thing_do_each_step_once(rehearsed, tmp_path):
    """They share a store, at the same time, and place the same bytes at folders of their own."""
    outs = [tmp_path / "one", tmp_path / "other"]
    running = [
        subprocess.Popen(
            command(tmp_path, "--out", str(out)), stderr=subprocess.STDOUT, stdout=subprocess.PIPE,
            env={"PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1", "HOME": str(tmp_path)},
            encoding="utf-8",
        )
        for out in outs
    ]  # fmt: skip
    said = "".join(child.communicate()[0] for child in running)
    assert [child.returncode for child in running] == [0, 0], said
    for step in STEPS:
        assert len(re.findall(rf"{step.name}\s+done in", said)) == 1, said
        assert len(list((tmp_path / "store" / step.name).iterdir())) == 1
    assert said.count("unchanged, nothing to do") == len(STEPS)
    expected = (rehearsed[0] / "out" / SUMS).read_bytes()
    assert [(out / SUMS).read_bytes() for out in outs] == [expected, expected]


def test_record_has_one_positive_number_a_linear(rehearsed):
    from safetensors.numpy import load_file

    values = load_file(rehearsed[0] / "out" / "provenance" / "calibration.safetensors")
    assert len(values) == 31
    assert all(value.shape == () and value > 0 for value in values.values())


@pytest.mark.parametrize(
    ("variant", "code", "why"),
    [
        ("qwen36-27b-vlm-cascade-mtp", 4, "lock qwen36-27b-vlm-cascade-mtp"),
        ("carnice-v2-27b-text-mtp", 16, "repeated `language_model.` prefix"),
    ],
)
def test_real_build_is_refused_where_it_is_not_ready(tmp_path, variant, code, why):
    """Without its pins, or for the recipe's own reason; nothing was fetched."""
    done = subprocess.run(
        [sys.executable, "-m", "forge", "build", variant, "--store", str(tmp_path)],
        capture_output=True, encoding="utf-8", check=False,
    )  # fmt: skip
    assert done.returncode == code
    assert why in done.stderr
    assert not list(tmp_path.glob("*/*"))


def test_unknown_variant(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "forge", "build", "nonesuch", "--rehearse", "--store", tmp_path],
        capture_output=True, encoding="utf-8", check=False,
    )  # fmt: skip
    assert done.returncode == 3
    assert done.stderr.startswith("error: no variant 'nonesuch'; there are: ")


def test_verification_is_in_the_release(rehearsed):
    report = canonical.read(rehearsed[0] / "out" / "provenance" / "verification.json")
    assert (report["level"], report["passed"]) == ("structure", True)
    assert len(report["checks"]) == 14
