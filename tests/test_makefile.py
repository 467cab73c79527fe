"""The Makefile, run by a real make: each target calls nox as it should, each value arrives as it
was written, and what is mistyped runs nothing. In nox's place is a script that notes its arguments.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys

import pytest
from conftest import FLAGSHIP

from forge.core import checkout
from forge.recipes import recipe

# The call whose number is in the file `fails` does so.
NOTE = """
import json, os, sys
with open("noted", "a+") as file:
    print(json.dumps(sys.argv[1:]), file=file)
    file.seek(0)
    sys.exit(41 if os.path.exists("fails") and len(list(file)) == int(open("fails").read()) else 0)
"""
# A shell or make that looks into it makes a file `struck`; both must find a path in it.
HOSTILE = "a b'c\" $(shell touch struck)`touch struck`;touch struck;&|*?~#%é\\ $$PATH <space>,"
HERE = "<here>/"


@pytest.fixture
def tree(tmp_path):
    """A checkout whose path has a space, with nothing but what the Makefile looks at."""
    folder = tmp_path / "the tree"
    for name in ("Makefile", "lockfiles/tools.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(checkout.ROOT / name, folder / name)
    shutil.copytree(recipe.VARIANTS, folder / "build/variants")
    (folder / "note.py").write_text(NOTE, encoding="utf-8")
    (folder / ".venv").mkdir()
    (folder / ".venv/made").touch()
    # Where a target runs a Python of the user's own, it notes its arguments as well.
    own = f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -S note.py "$@"\n'
    (folder / "own").write_text(own, encoding="utf-8")
    (folder / "own").chmod(0o755)
    return folder


def make(tree, *words, noting=True, env=()):
    """Runs make; what it said, and the arguments of each call of nox."""
    nox = [f"NOX={shlex.join([sys.executable, '-S', 'note.py'])}"] if noting else []
    done = subprocess.run(
        ["make", *nox, *words], cwd=tree, capture_output=True, encoding="utf-8", check=False,
        env={"PATH": os.environ["PATH"], **dict(env)},
    )  # fmt: skip
    noted = tree / "noted"
    calls = (
        [json.loads(line) for line in noted.read_text(encoding="utf-8").splitlines()]
        if noted.exists()
        else []
    )
    assert not list(tree.rglob("struck"))
    return done, calls


def expected(tree, *lines):
    """Calls as they are written below."""
    calls = [shlex.split(line) for line in lines]
    return [[word.replace(HERE, f"{tree}/") for word in call] for call in calls]


RUN = f"{FLAGSHIP} --rehearse --runner=host --verify"
WHERE = f"--base {HERE}base --mirror {HERE}mirror"
PLACES = "BASE=base MIRROR=mirror"
TARGETS = [
    ("help", ""),
    ("demo", f"-s build -- {RUN} all"),
    ("test", ""),
    ("test MIRROR=texts FULL=1", f"-- --mirror={HERE}texts --full"),
    ("test MIRROR=texts", f"-- --mirror={HERE}texts"),
    ("test FULL=1", "-- --full"),
    ("list", "-s forge -- list"),
    (f"preflight VARIANT={FLAGSHIP}", f"-s forge -- preflight {FLAGSHIP}"),
    (f"preflight VARIANT={FLAGSHIP} {PLACES}", f"-s forge -- preflight {FLAGSHIP} {WHERE}"),
    (f"rehearse VARIANT={FLAGSHIP}", f"-s build -- {RUN} all"),
    (f"rehearse VARIANT={FLAGSHIP} VERIFY=none", f"-s build -- {RUN} none"),
    (
        f"rehearse VARIANT={FLAGSHIP} {PLACES} OUT=out VERIFY=structure",
        f"-s build -- {FLAGSHIP} --rehearse --runner=host {WHERE} --out {HERE}out "
        "--verify structure",
    ),
    (
        f"rehearse VARIANT={FLAGSHIP} RUNNER=image MEMORY=32 SHARED=4 HOURS=2",
        f"-s build -- {FLAGSHIP} --rehearse --runner=image --verify all "
        "--memory 32 --shared 4 --hours 2",
    ),
    (FLAGSHIP, f"-s build -- {FLAGSHIP} --runner=image --verify all"),
    (
        f"{FLAGSHIP} RUNNER=host OUT=/out",
        f"-s build -- {FLAGSHIP} --runner=host --out /out --verify all",
    ),
    (
        f"{FLAGSHIP} RUNNER=host REPLACE=1",
        f"-s build -- {FLAGSHIP} --runner=host --verify all --replace",
    ),
    ("image", "-s image --"),
    ("image IMAGE_BASE=base:1 SNAPSHOT=none", "-s image -- --base base:1 --snapshot none"),
    ("container-test", "-s containers"),
    (f"verify DIR=release {PLACES}", f"-s assay -- {HERE}release {WHERE}"),
    (
        "verify DIR=release ENGINE=own.toml LOGS=logs",
        f"-s assay -- {HERE}release --engine {HERE}own.toml --logs {HERE}logs",
    ),
    ("gpu PYTHON=./own", "tests/gpu"),
    (
        "gpu PYTHON=./own DIR=built ENGINE=own.toml OUT=out",
        f"tests/gpu --rehearsals {HERE}built --engine {HERE}own.toml --out {HERE}out",
    ),
    ("lock", "-s lock"),
    (f"lock VARIANT={FLAGSHIP}", f"-s lock -- {FLAGSHIP}"),
    (f"reproduce FROM=release {PLACES}", f"-s reproduce -- {HERE}release {WHERE}"),
    ("reproduce FROM=/release RECALIBRATE=1", "-s reproduce -- /release --recalibrate"),
    ("compare A=one B=/two", f"-s compare -- {HERE}one /two"),
    ("bench", "-s bench"),
    ("faults", "-s faults"),
    ("release DIR=release", f"-s release -- forge release {HERE}release"),
    ("release DIR=/release REPLACE=1", "-s release -- forge release /release --replace"),
    ("schemas", "-s forge -- schemas"),
    ("store-list", "-s forge -- store list"),
    ("store-list FULL=1", "-s forge -- store list --full"),
    ("store-size", "-s forge -- store size"),
    ("store-gc", "-s forge -- store gc"),
    (
        "store-gc DAYS=3 CALIBRATIONS=1 ASIDE=1 CONFIRM=1",
        "-s forge -- store gc --days 3 --calibrations --aside --confirm",
    ),
    ("store-fsck", "-s forge -- store fsck"),
    ("keygen KEY=key", f"-s release -- forge keygen {HERE}key"),
    ("sign DIR=release", f"-s release -- forge sign {HERE}release"),
    (
        "sign DIR=release KEY=key MODEL_SIGNATURE=1",
        f"-s release -- forge sign {HERE}release --key {HERE}key --model-signature",
    ),
    (
        "verify-release DIR=release KEY=key POLICY=policy",
        f"-s check -- assay verify-release {HERE}release --key {HERE}key --policy {HERE}policy",
    ),
    (
        "verify-release DIR=release IDENTITY=who ISSUER=https://issuer REPRODUCED=2 "
        r"STATEMENTS='a/1 b\ c/2 /d' REBUILDERS='e.pub f.pub'",
        f"-s check -- assay verify-release {HERE}release --identity who --issuer https://issuer "
        f"--reproduced 2 --statement {HERE}a/1 --statement '{HERE}b c/2' --statement /d "
        f"--rebuilder {HERE}e.pub --rebuilder {HERE}f.pub",
    ),
    (
        f"verify-release DIR=release KEY=key VARIANT={FLAGSHIP} DIGEST=12ab SINCE=2026-11-01 "
        "COMMIT=34cd REVISION=56ef FORMATS=nvfp4,fp8 REHEARSAL=1",
        f"-s check -- assay verify-release {HERE}release --key {HERE}key --variant {FLAGSHIP} "
        "--digest 12ab --since 2026-11-01 --commit 34cd --revision 56ef --formats nvfp4,fp8 "
        "--rehearsal",
    ),
    (
        "verify-release DIR=release UNSIGNED=1",
        f"-s check -- assay verify-release {HERE}release --unsigned",
    ),
    (
        f"attest-reproduction FROM=release KEY=key BUILDER=https://me {PLACES}",
        f"-s reproduce -- {HERE}release {WHERE} --report dist/reproduced.json\n"
        f"-s check -- assay attest-reproduction {HERE}release dist/reproduced.json "
        f"--key {HERE}key --builder https://me --out dist/reproductions",
    ),
    (
        "publish DIR=release REPO=me/it KEY=key CONFIRM=1 REHEARSAL=1",
        f"-s check -- assay verify-release {HERE}release --key {HERE}key --rehearsal\n"
        f"-s release -- forge publish {HERE}release me/it --confirm --rehearsal",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("words", "calls"), TARGETS, ids=[words for words, _ in TARGETS])
def test_a_target_passes_its_arguments_on(tree, words, calls):
    done, noted = make(tree, *shlex.split(words))
    assert done.returncode == 0, done.stderr
    assert noted == ([] if words == "help" else expected(tree, *calls.split("\n")))


def test_nox_starts_in_utf8_without_the_users_modules(tree):
    """An ASCII locale would fail at a checkout's path, a user's modules shadow those locked."""
    (tree / "note.py").write_text(
        "import os; names = ('PYTHONUTF8', 'PYTHONPATH', 'PYTHONHOME');"
        "print('has', {name: os.environ[name] for name in names if name in os.environ})",
        encoding="utf-8",
    )
    given = {"PYTHONUTF8": "0", "PYTHONPATH": "/nonexistent", "PYTHONHOME": "/nonexistent"}
    done, _ = make(tree, "list", env=given)
    assert "has {'PYTHONUTF8': '1'}" in done.stdout, done.stderr


def test_every_target_is_tested():
    """All phony targets; of the variants, one stands for all."""
    text = (checkout.ROOT / "Makefile").read_text(encoding="utf-8")
    phony = {
        name
        for line in text.splitlines()
        if line.startswith(".PHONY:")
        for name in line.removeprefix(".PHONY:").split()
    }
    assert phony - {"$(VARIANTS)"} == {words.split()[0] for words, _ in TARGETS} - {FLAGSHIP} | {
        "image-test"
    }


def test_help_names_targets_and_variants(tree):
    done, _ = make(tree, "help")
    assert "verify-release" in done.stdout
    assert all(name in done.stdout for name in recipe.names())


@pytest.mark.parametrize("level", ["dist", "dist/rehearsal"])
def test_a_built_variant_stands_for_its_folder(tree, level):
    (tree / level / FLAGSHIP).mkdir(parents=True)
    for target, session in (("release", "release -- forge release"), ("verify", "assay --")):
        (tree / "noted").unlink(missing_ok=True)
        _, noted = make(tree, target, f"VARIANT={FLAGSHIP}")
        (call,) = expected(tree, f"-s {session}")
        assert [[*call, f"{tree}/{level}/{FLAGSHIP}"]] == noted


PATHS = ("A", "B", "BASE", "DIR", "ENGINE", "FROM", "KEY", "LOGS", "MIRROR", "OUT", "POLICY")
TEXTS = (
    "BUILDER", "COMMIT", "DAYS", "DIGEST", "FORMATS", "HOURS", "IDENTITY", "IMAGE_BASE", "ISSUER",
    "MEMORY", "REPO", "REPRODUCED", "REVISION", "SHARED", "SINCE", "SNAPSHOT", "VARIANT", "VERIFY",
)  # fmt: skip
USED_BY = {
    "A": "compare B=x", "B": "compare A=x", "BASE": "reproduce FROM=x", "BUILDER":
    "attest-reproduction FROM=x", "DAYS": "store-gc", "DIR": "release", "ENGINE": "verify DIR=x",
    "FROM": "reproduce", "LOGS": "verify DIR=x",
    "HOURS": FLAGSHIP,
    "IDENTITY": "verify-release DIR=x", "IMAGE_BASE": "image", "ISSUER": "verify-release DIR=x",
    "KEY": "keygen", "MEMORY": FLAGSHIP, "MIRROR": "reproduce FROM=x", "OUT": FLAGSHIP,
    "POLICY": "verify-release DIR=x", "REBUILDERS": "verify-release DIR=x",
    "REPO": "publish DIR=x", "REPRODUCED": "verify-release DIR=x", "SHARED": FLAGSHIP,
    "SNAPSHOT": "image", "STATEMENTS": "verify-release DIR=x", "VARIANT": "rehearse",
    "VERIFY": FLAGSHIP,
    **dict.fromkeys(
        ("COMMIT", "DIGEST", "FORMATS", "REVISION", "SINCE"), "verify-release DIR=x"
    ),
}  # fmt: skip


@pytest.mark.parametrize("where", ["command line", "environment"])
@pytest.mark.parametrize("name", [*PATHS, *TEXTS])
def test_a_value_arrives_as_it_was_written(tree, name, where):
    """Spaces, quotes, and what make or the shell would run."""
    words = shlex.split(USED_BY[name])
    given = {name: HOSTILE}
    if where == "command line":
        done, noted = make(tree, *words, f"{name}={HOSTILE}")
    else:
        done, noted = make(tree, *words, env=given)
    assert done.returncode == 0, done.stderr
    wanted = f"{tree}/{HOSTILE}" if name in PATHS else HOSTILE
    assert wanted in noted[-1]


@pytest.mark.parametrize("name", ["STATEMENTS", "REBUILDERS"])
def test_a_list_of_paths_with_spaces(tree, name):
    r"""They are separated by spaces; `\ ` is a space within one."""
    files = ("my dir/x", "/abs olute", "'a';$(shell touch struck)`touch struck`")
    said = " ".join(file.replace(" ", r"\ ") for file in files)
    _, (call,) = make(tree, *shlex.split(USED_BY[name]), f"{name}={said}")
    option = f"--{name.lower().removesuffix('s')}"
    given = [call[i + 1] for i, word in enumerate(call) if word == option]
    assert [str(tree / file) for file in files] == given


@pytest.mark.parametrize("target", ["", "help", "list", "lock", FLAGSHIP, "publish"])
def test_an_unknown_variable_runs_nothing(tree, target):
    done, noted = make(tree, *target.split(), "VARAINT=x")
    assert done.returncode == 2
    assert "VARAINT= is no variable of this Makefile: did you mean VARIANT=?" in done.stderr
    assert noted == []


def test_an_unknown_variable_like_none(tree):
    done, noted = make(tree, "lock", "ZZZ;touch${IFS}struck=1")
    assert done.returncode == 2
    assert "is no variable of this Makefile: there are A ASIDE B BASE" in done.stderr
    assert noted == []


def test_a_variable_of_the_environment_is_nobodys_mistake(tree):
    done, noted = make(tree, "list", env={"VARAINT": "x"})
    assert done.returncode == 0
    assert noted == [["-s", "forge", "--", "list"]]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("rehearse", "name a variant with VARIANT=<v>"),
        ("lock VARIANT=", "name a variant with VARIANT=<v>"),
        ("release", "name a built variant with VARIANT=<v>, or a folder with DIR=<dir>"),
        (f"verify VARIANT={FLAGSHIP}", "name a built variant with VARIANT=<v>"),
        ("reproduce", "name a release with FROM=<dir>"),
        ("attest-reproduction", "name a release with FROM=<dir>"),
        ("compare A=x", "name a checkpoint folder with B=<dir>"),
        ("compare B=x", "name a checkpoint folder with A=<dir>"),
        ("keygen", "name the new file with KEY=<file>"),
        (f"{FLAGSHIP} RUNNER=hots", "RUNNER= is host or image"),
        ("release 'DIR=a\nb'", "DIR= holds a line break"),
    ],
)
def test_what_is_missing_or_wrong_is_said_before_anything_runs(tree, words, said):
    done, noted = make(tree, *shlex.split(words))
    assert done.returncode == 2
    assert said in done.stderr
    assert noted == []


def test_publishing_needs_a_repository(tree):
    done, noted = make(tree, "publish", "DIR=x", "UNSIGNED=1")
    assert done.returncode == 2
    assert "name the repository with REPO=<owner/name>" in done.stderr
    assert all("publish" not in call for call in noted)


@pytest.mark.parametrize(("words", "calls"), TARGETS[1:], ids=[words for words, _ in TARGETS[1:]])
def test_a_failure_ends_the_target(tree, words, calls):
    """Nothing that comes after is run: what could not be verified is not published."""
    wanted = expected(tree, *calls.split("\n"))
    for number in range(1, len(wanted) + 1):
        (tree / "noted").unlink(missing_ok=True)
        (tree / "fails").write_text(str(number), encoding="utf-8")
        done, noted = make(tree, *shlex.split(words))
        assert done.returncode == 2
        assert noted == wanted[:number]


@pytest.mark.parametrize("same", [True, False])
def test_image_test_compares_the_sums(tree, same):
    for name, sums in (("host", "a"), ("image", "a" if same else "b")):
        folder = tree / "dist/image-test" / name / "provenance"
        folder.mkdir(parents=True)
        (folder / "SHA256SUMS").write_text(sums, encoding="utf-8")
    done, noted = make(tree, "image-test", "BASE=base", "MEMORY=9")
    assert (done.returncode == 0) == same
    assert ("host and image: the same SHA256SUMS" in done.stdout) == same
    rehearsal = f"{FLAGSHIP} --rehearse"
    assert noted == expected(
        tree,
        f"-s build -- {rehearsal} --runner=image --base {HERE}base --out dist/image-test/image "
        "--memory 9",
        f"-s build -- {rehearsal} --verify structure --out dist/image-test/host",
    )


def test_the_runner_is_installed_from_its_lock_file_first(tree):
    """With any Python, whose path may have a space; and not again."""
    (tree / ".venv/made").unlink()
    python = tree / "my python"
    python.write_text(
        f'#!/bin/sh\nmkdir -p .venv/bin && ln -sf "$PWD/my python" .venv/bin/python\n'
        f'exec {shlex.quote(sys.executable)} -S note.py "$@"\n',
        encoding="utf-8",
    )
    python.chmod(0o755)
    done, noted = make(tree, "list", "PYTHON=./my python", noting=False)
    assert done.returncode == 0, done.stderr
    install = "-m pip install --quiet --require-hashes --requirement lockfiles/tools.txt"
    runner = "noxfile.py -s forge -- list"
    assert noted == expected(tree, "-m venv --clear .venv", install, runner)
    make(tree, "list", "PYTHON=./my python", noting=False)
    lines = (tree / "noted").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines][3:] == [runner.split()]


def test_every_variable_is_tested():
    """All that the Makefile knows takes part above."""
    text = (checkout.ROOT / "Makefile").read_text(encoding="utf-8")
    names = text.split("NAMES := ")[1].split("given =")[0]
    flags = {
        "ASIDE", "CALIBRATIONS", "CONFIRM", "FULL", "MODEL_SIGNATURE", "RECALIBRATE", "REHEARSAL",
        "REPLACE", "RUNNER", "UNSIGNED",
    }  # fmt: skip
    commands = {"NOX", "PYTHON"}
    assert set(names.replace("\\", "").split()) == {*USED_BY, *flags, *commands}
