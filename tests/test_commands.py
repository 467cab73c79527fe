"""Every subcommand of both packages, as a real process: what it does, and the code of a refusal."""

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import released
from conftest import FLAGSHIP

from forge.core.errors import (
    BaseError,
    DifferenceError,
    EngineError,
    FileSystemError,
    NoEngineError,
    RecipeError,
    ReleaseError,
    SigningError,
    StoreError,
    UploadError,
    VerificationError,
)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A small build with its base and its store, which no test changes."""
    root = tmp_path_factory.mktemp("commands")
    released.build(root, released.local_base(root / "base"))
    return root


@pytest.fixture
def bench(built, tmp_path):
    """A build of one's own."""
    return shutil.copytree(built, tmp_path / "bench", symlinks=True)


def command(package, *arguments, code=0, **env):
    """Runs a subcommand offline; returns what it said, and printed."""
    done = subprocess.run(
        [sys.executable, "-m", package, *map(str, arguments)],
        env={**os.environ, "HF_HUB_OFFLINE": "1", **env},
        capture_output=True, encoding="utf-8", check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert (f"hallmark: exit {code}" in done.stderr.splitlines()) == (code != 0)
    return done.stderr, done.stdout


def test_a_folder_that_is_no_store_is_left_alone(tmp_path):
    for place in ("tmp", "Documents"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "mine").touch()
    for asked in (("build", FLAGSHIP, "--rehearse"), ("store", "gc", "--confirm")):
        said, _ = command("forge", *asked, "--store", tmp_path, code=StoreError.code)
        assert f"{tmp_path}: is not a store: it has 'Documents' and no result" in said
    assert (tmp_path / "tmp" / "mine").exists()


def test_forge_list():
    _, printed = command("forge", "list")
    assert f"{FLAGSHIP}  ready; " in printed


def test_forge_exit_codes():
    _, printed = command("forge", "exit-codes")
    assert f"| {ReleaseError.code} |" in printed


def test_forge_schemas():
    """It writes what is there: another test fails if that is stale."""
    said, _ = command("forge", "schemas")
    assert "provenance.schema.json is written" in said


def test_forge_build():
    said, _ = command("forge", "build", "nonesuch", "--rehearse", code=RecipeError.code)
    assert "no variant 'nonesuch'" in said


@pytest.mark.parametrize(
    ("out", "code", "line"),
    [
        ("/", StoreError.code, "/: is the root of the file system, and no build goes there."),
        ("/dev/null/out", FileSystemError.code, "/dev/null: Not a directory"),
        ("/dev/null", StoreError.code, "/dev/null exists and is no earlier build, so"),
        ("/proc/hallmark/out", FileSystemError.code, "/proc/hallmark: No such file or directory"),
    ],
)
def test_places_that_no_build_can_go_to(tmp_path, out, code, line):
    """Real ones; refused in one line, before anything is fetched or started."""
    said, _ = command(
        "forge", "build", FLAGSHIP, "--rehearse", "--verify", "none",
        "--store", tmp_path / "store", "--out", out, code=code,
    )  # fmt: skip
    assert said.startswith(f"error: {line}")
    assert "Traceback" not in said


def test_forge_preflight(tmp_path):
    """Of the stand-in, and of a base whose config is another's."""
    store = ("--store", tmp_path / "store")
    said, _ = command("forge", "preflight", FLAGSHIP, "--rehearse", *store)
    assert "104 tensors of the base are what the recipe needs" in said
    base = released.local_base(tmp_path / "base")
    (base / "config.json").write_text('{"architectures": ["X"]}', encoding="utf-8")
    said, _ = command("forge", "preflight", FLAGSHIP, "--base", base, *store, code=BaseError.code)
    assert f'{base}/config.json: architectures is ["X"], but {FLAGSHIP}.toml is for' in said


def test_forge_lock():
    said, _ = command("forge", "lock", "nonesuch", code=RecipeError.code)
    assert "no variant 'nonesuch'" in said


def test_forge_image(tmp_path):
    nowhere = f"unix://{tmp_path}/none.sock"
    command("forge", "image", code=NoEngineError.code, DOCKER_HOST=nowhere)


def test_forge_steps(tmp_path):
    """Its parent tells the code, so it does not."""
    done = subprocess.run(
        [sys.executable, "-m", "forge", "steps", tmp_path / "ledger.json", "build"],
        capture_output=True, encoding="utf-8", check=False,
    )  # fmt: skip
    assert done.returncode == StoreError.code
    assert "is no ledger of a build" in done.stderr
    assert "hallmark: exit" not in done.stderr


def test_forge_fetch_and_assay_check(bench):
    """The first writes the ledger that the second reads; an edited file fails the second."""
    release, ledger = bench / "release", bench / "ledger.json"
    where = ("--base", bench / "base", "--store", bench / "store")
    command("forge", "fetch", release, ledger, *where)
    # What is stored passes, so the engine is asked for, which this environment does not have.
    command("assay", "check", release, ledger, code=EngineError.code)
    (release / "config.json").write_text("{}", encoding="utf-8")
    said, printed = command("assay", "check", release, ledger, code=VerificationError.code)
    assert "FAIL  structure.config" in said
    assert not json.loads(printed)["passed"]


def test_assay_check_on_a_machine_with_an_engine_of_its_own(bench):
    """The report names what is not of the lock file; what is no settings file is refused first."""
    release, ledger, own = bench / "release", bench / "ledger.json", bench / "own.toml"
    command("forge", "fetch", release, ledger, "--base", bench / "base", "--store", bench / "store")
    check = ("assay", "check", release, ledger, "--engine", own, "--logs")
    own.write_text("[serve]\nport = 1\n", encoding="utf-8")
    said, _ = command(*check, bench / "logs", code=EngineError.code)
    assert "--port is what the assay sets itself" in said
    own.write_text('[serve]\ngdn-prefill-backend = "triton"\n', encoding="utf-8")
    said, _ = command(*check, release / "logs", code=FileSystemError.code)
    assert "which is only read" in said
    command(*check, bench / "logs", code=EngineError.code)  # there is none
    assert not list((bench / "logs").iterdir())
    (release / "config.json").write_text("{}", encoding="utf-8")
    _, printed = command(*check, bench / "logs", code=VerificationError.code)
    found = json.loads(printed)["own_engine"]
    assert found["settings"] == {"env": {}, "serve": {"gdn-prefill-backend": "triton"}}
    assert found["differing"]["vllm"] == {"locked": "0.32.0"}
    assert "pydantic" not in found["differing"]


def test_places_that_cannot_be(built, tmp_path):
    """Real ones, told in one line: a ledger in no folder, a store in a file or of the kernel."""
    fetch = ("forge", "fetch", built / "release")
    base, store = ("--base", built / "base"), ("--store", built / "store")
    nowhere = tmp_path / "missing" / "ledger.json"
    said, _ = command(*fetch, nowhere, *base, *store, code=FileSystemError.code)
    beside = nowhere.with_name(".ledger.json.hallmark-new")
    assert f"error: {beside}: No such file or directory (touch)\n" in said
    (tmp_path / "file").touch()
    for root in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/below")):
        said, _ = command(*fetch, tmp_path / "l.json", *base, "--store", root, code=StoreError.code)
        assert f"\nerror: the store {root} cannot be written: {root}" in said
        assert "Traceback" not in said


def test_links_that_lead_back_to_themselves(tmp_path):
    """As a store, a folder or a key: one line, and the code of the file system."""
    loop = tmp_path / "loop"
    loop.symlink_to("loop")
    build = ("forge", "build", FLAGSHIP, "--rehearse", "--store")
    for line in (
        (*build, loop),
        (*build, tmp_path / "store", "--out", loop),
        ("forge", "sign", tmp_path / "out", "--key", loop),
        ("assay", "verify-release", loop, "--unsigned"),
    ):
        said, _ = command(*line, code=FileSystemError.code)
        told = [one for one in said.splitlines() if one.startswith("error: ")]
        assert len(told) == 1, said
        assert f"{loop}: Too many levels of symbolic links" in told[0]
        assert "Traceback" not in said
    assert [path.name for path in tmp_path.iterdir()] == ["loop"]


def test_from_a_build_to_a_verified_reproduced_release(bench):
    """release, keygen, sign, verify-release, publish, reproduce, attest-reproduction, compare."""
    release, key, out = bench / "release", bench / "key", bench / "statements"
    where = ("--base", bench / "base", "--store", bench / "store")
    command("forge", "sign", release, "--key", key, code=SigningError.code)
    command("forge", "keygen", key)
    command("forge", "keygen", key, code=SigningError.code)
    command("forge", "sign", release, "--key", key, code=ReleaseError.code)
    command("forge", "release", release)
    command("forge", "publish", release, "owner/name", code=UploadError.code)
    command("forge", "sign", release, "--key", key)
    trusted = ("--key", f"{key}.pub")
    _, printed = command("assay", "verify-release", release, *trusted, "--rehearsal")
    assert "is verified" in printed
    command("assay", "verify-release", release, *trusted, code=ReleaseError.code)
    command("assay", "verify-release", release, code=ReleaseError.code)
    said, _ = command("forge", "publish", release, "owner/name", "--rehearsal")
    assert "nothing was sent" in said
    report = bench / "reproduced.json"
    _, printed = command("assay", "reproduce", release, *where, "--report", report)
    assert "is reproduced" in printed
    command("assay", "attest-reproduction", release, report, "--key", key, "--out", out)
    assert len(list(out.iterdir())) == 1
    other = shutil.copytree(release, bench / "other")
    command("assay", "compare", release, other)
    with (other / "model-mtp.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x7f")
    command("assay", "compare", release, other, code=DifferenceError.code)


@pytest.mark.parametrize("package", ["forge", "assay"])
def test_no_subcommand_is_left_out(package):
    """Of each there is a test above, by its name."""
    app = importlib.import_module(f"{package}.__main__").app
    names = {one.name or one.callback.__name__ for one in app.registered_commands}
    text = Path(__file__).read_text(encoding="utf-8")
    assert {name for name in names if f'"{package}", "{name}"' not in text} <= {"steps"}
