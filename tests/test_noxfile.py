"""The sessions, run by a real nox: each in the environment that it should, with its arguments. In
the place of the environments' Pythons and of the installer are scripts that note what they are
told."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
import venv
from pathlib import Path

import pytest
from mounting import mount_memory, with_mounted

from forge.core import checkout

NOX = checkout.ROOT / ".venv" / "bin" / "python"
NOTE = """
import json, os, sys
with open({noted!r}, "a") as file:
    print(json.dumps([os.environ.get("NOX_CURRENT_SESSION"), {name!r}, *sys.argv[1:]]), file=file)
sys.exit(int(os.environ.get("EXIT", "0")))
"""
MAKE_TARGET = """
import os, sys
if "--target" in sys.argv:
    os.mkdir(sys.argv[sys.argv.index("--target") + 1])
"""
VERIFY = checkout.environment_name("verify")
GIVEN = ("one", "two words")
LEDGER = "a file"
PYTEST = ("tests", "-p", "no:cacheprovider")
# What a session runs, and where; {...} stands for the arguments of the session.
SESSIONS = {
    "build": [("host", "-m", "forge", "build", ...)],
    "forge": [("host", "-m", "forge", ...)],
    "image": [("host", "-m", "forge", "image", ...)],
    "containers": [("host", *PYTEST, "tests/forge/container", "-m", "image", ...)],
    "assay": [
        ("host", "-m", "forge", "fetch", "one", LEDGER, "two words"),
        (VERIFY, "-m", "assay", "check", "one", LEDGER),
    ],
    "compare": [("check", "-m", "assay", "compare", ...)],
    "reproduce": [("rebuild", "-m", "assay", "reproduce", ...)],
    "check": [("check", "-m", ...)],
    "release": [("release", "-m", ...)],
    "bench": [("build", "-m", "bench", ...)],
    "lock": [("host", "-m", "forge", "lock", ...)],
    "lint": [
        ("dev", "-m", "ruff", "check", "."),
        ("dev", "-m", "ruff", "format", "--check", "."),
        ("dev", "-m", "mypy"),
        ("lint-imports", "importlinter.toml", "--no-cache", "--no-logo"),
    ],
    "unit": [
        (
            "dev", "-m", "pytest", "-p", "no:cacheprovider", "tests", "-m",
            "not libraries and not engine and not image", ...,
        )
    ],
    "faults": [("dev", "tests/faults", ...)],
    "libraries": [
        (
            "build", *PYTEST, "tests/assay", "tests/forge", "tests/test_pipeline.py",
            "--ignore=tests/forge/container", "-m", "libraries", ...,
        )
    ],
    "engine": [
        (
            VERIFY, *PYTEST, "tests/assay", "tests/test_rehearsal.py",
            "tests/test_all_rehearsals.py", "-m", "engine", ...,
        )
    ],
}  # fmt: skip


class Tree:
    """A checkout with an installer and environments that only note what they are told."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.noted = folder, folder / "noted"
        for name in ("noxfile.py", "pyproject.toml"):
            shutil.copy(checkout.ROOT / name, folder / name)
        shutil.copytree(checkout.ROOT / "tools", folder / "tools")
        shutil.copytree(checkout.LOCKFILES, folder / "lockfiles")
        # `python -m uv` looks here first.
        (folder / "uv").mkdir()
        (folder / "uv/__init__.py").touch()
        (folder / "uv/__main__.py").write_text(MAKE_TARGET + self.note("uv"), encoding="utf-8")
        for name, stamp in self.stamps().items():
            self.write(name, "python")
            (folder / ".nox" / name / "made-from").write_text(stamp, encoding="utf-8")
        self.write("dev", "lint-imports", "lint-imports")

    def note(self, name: str) -> str:
        return NOTE.format(noted=str(self.noted), name=name)

    def write(self, environment: str, command: str, name: str | None = None) -> None:
        file = self.folder / ".nox" / environment / "bin" / command
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(
            f"#!{sys.executable} -S\n{self.note(name or environment)}", encoding="utf-8"
        )
        file.chmod(0o755)

    def stamps(self) -> dict[str, str]:
        """What environments must have been made from, as the module has it."""
        code = (
            "import json, tools.environments as n; "
            "print(json.dumps({x: n.stamp(x) for x in n.LOCKS}))"
        )
        command = [NOX, "-c", code]
        done = subprocess.run(
            command, cwd=self.folder, capture_output=True, encoding="utf-8", check=True
        )
        return dict(json.loads(done.stdout))

    def nox(self, *arguments: str, status: int = 0) -> list[list[str]]:
        """Runs nox; what was started, as session, environment, arguments."""
        self.noted.write_text("", encoding="utf-8")
        done = subprocess.run(
            [NOX, "-m", "nox", *arguments], cwd=self.folder, capture_output=True, encoding="utf-8",
            check=False, env={"PATH": os.environ["PATH"], "EXIT": str(status)},
        )  # fmt: skip
        assert done.returncode == status, done.stdout + done.stderr
        return [json.loads(line) for line in self.noted.read_text(encoding="utf-8").splitlines()]

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        """Starts nox, beside others."""
        return subprocess.Popen(
            [NOX, "-m", "nox", *arguments], cwd=self.folder, encoding="utf-8",
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={"PATH": os.environ["PATH"]},
        )  # fmt: skip

    def installed(self, *session: str) -> list[list[str]]:
        """What the installer is told when a session runs."""
        return [call[2:] for call in self.nox("-s", *session) if call[1] == "uv"]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    return Tree(tmp_path_factory.mktemp("tree"))


def test_an_environment_has_no_modules_of_the_user(tree, tmp_path):
    """No lock file names them."""
    code = "import noxfile, os; print({'PYTHONPATH', 'PYTHONHOME'} & os.environ.keys())"
    done = subprocess.run(
        [NOX, "-c", code], cwd=tree.folder, env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True, encoding="utf-8", check=True,
    )  # fmt: skip
    assert done.stdout == "set()\n"


@pytest.fixture(scope="module")
def calls(tree: Tree) -> list[list[str]]:
    return tree.nox("-s", *SESSIONS, "--", *GIVEN)


@pytest.mark.parametrize("session", SESSIONS)
def test_a_session_runs_where_it_should_with_its_arguments(calls, session):
    wanted = [
        [word for part in call for word in (GIVEN if part is ... else (part,))]
        for call in SESSIONS[session]
    ]
    found = [call[1:] for call in calls if call[0] == session]
    if session == "assay":
        (ledger,) = {call[5] for call in found}
        assert ledger.endswith("/ledger.json")
        found = [[LEDGER if word == ledger else word for word in call] for call in found]
    assert found == wanted


def test_every_session_is_tested(tree):
    listed = subprocess.run(
        [NOX, "-m", "nox", "--list-sessions"],
        cwd=tree.folder, capture_output=True, encoding="utf-8", check=True,
    )  # fmt: skip
    assert set(re.findall(r"^[*-] (\S+)", listed.stdout, re.MULTILINE)) == SESSIONS.keys()


def test_tests_are_what_runs_when_no_session_is_named(tree):
    started = tree.nox()
    assert list(dict.fromkeys(call[0] for call in started)) == [
        "lint", "unit", "libraries", "engine",
    ]  # fmt: skip


def test_calibrating_again_needs_the_libraries(tree):
    (call,) = tree.nox("-s", "reproduce", "--", "release", "--recalibrate")
    assert call[1:] == ["build", "-m", "assay", "reproduce", "release", "--recalibrate"]


def test_what_an_engine_needs_is_told_to_the_check_alone(tree):
    options = ("--base", "b", "--engine", "own.toml", "--logs", "the logs")
    fetched, checked = tree.nox("-s", "assay", "--", "folder", *options)
    assert fetched[-2:] == ["--base", "b"]
    assert checked[-2:] == ["--engine=own.toml", "--logs=the logs"]


def test_a_failure_is_the_end(tree):
    """Of a session, of the sessions after it, and of nox, which says so."""
    started = tree.nox("-s", "assay", "forge", "--", "folder", status=41)
    assert [call[:2] for call in started] == [["assay", "host"]]


def test_a_signal_ends_every_command_of_a_session(tmp_path):
    """The last of lint as well, which is a script and no Python of ours."""
    fresh = Tree(tmp_path)
    script = fresh.folder / ".nox" / "dev" / "bin" / "lint-imports"
    begun = fresh.folder / "begun"
    script.write_text(f"#!/bin/sh\ntouch {begun}\nexec sleep 60\n", encoding="utf-8")
    started = fresh.start("-s", "lint")
    while not begun.exists():
        assert started.poll() is None
        time.sleep(0.01)
    started.terminate()
    said, _ = started.communicate()
    assert started.returncode == 128 + signal.SIGTERM, said
    assert "hallmark: exit 143, stopped by SIGTERM" in said.splitlines()


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_standard_streams_may_be_closed(tree, closed):
    """As make starts it: nox itself needs a standard output. What runs finds all three open."""
    tree.noted.write_text("", encoding="utf-8")
    shell = f"exec {shlex.quote(str(NOX))} noxfile.py -s forge -- list {closed}"
    done = subprocess.run(
        ["bash", "-c", shell], cwd=tree.folder, capture_output=True, encoding="utf-8", check=False,
        env={"PATH": os.environ["PATH"]},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    (call,) = tree.noted.read_text(encoding="utf-8").splitlines()
    assert json.loads(call) == ["forge", "host", "-m", "forge", "list"]


class TestLock:
    """`make lock` without a variant."""

    def test_every_lock_file_is_resolved_again(self, tree):
        calls = tree.nox("-s", "lock")
        assert {call[1] for call in calls} == {"uv"}
        for _, _, *arguments in calls:
            options = " ".join(arguments)
            for option in ("--generate-hashes", "--no-emit-index-url", "--universal"):
                assert option in options
        written = [call[call.index("--output-file") + 1] for call in calls]
        files = {path.name for path in checkout.LOCKFILES.glob("*.txt")}
        assert {Path(path).name for path in written} == files

    def test_constraints_are_resolved_before_what_they_constrain(self, tree):
        calls = tree.nox("-s", "lock")
        order = [Path(call[-1]).name for call in calls]
        for number, name in enumerate(order):
            source = (
                (checkout.LOCKFILES / name)
                .with_suffix(".in")
                .read_text(encoding="utf-8")
                .splitlines()
            )
            needed = {line.split()[1] for line in source if line.startswith("-c ")}
            assert needed <= set(order[:number]), name


class TestEnvironment:
    """When an environment is made again, and from what."""

    @pytest.fixture
    def fresh(self, tmp_path):
        return Tree(tmp_path)

    def test_again_with_another_interpreter(self, fresh):
        """One of another version finds none of the packages, which lie in a folder of its name."""
        code = (
            "import sys, tools.environments as n; one = n.stamp('check'); "
            "sys.version_info = (3, 99, 0); print(one != n.stamp('check'))"
        )
        done = subprocess.run(
            [NOX, "-c", code], cwd=fresh.folder, capture_output=True, encoding="utf-8", check=True
        )
        assert done.stdout == "True\n"

    @pytest.mark.parametrize(
        ("options", "file"),
        [("nr_inodes=1", "check.lock"), ("size=4k,nr_inodes=64", "check/made-from")],
    )
    def test_a_full_disk_is_told_in_one_line(self, fresh, options, file):
        """Of a lock that cannot be made, and of the note from what an environment was made."""

        def fill():
            mount_memory(fresh.folder / ".nox", options)
            if file != "check.lock":
                (fresh.folder / ".nox" / "check").mkdir()
                (fresh.folder / ".nox" / "check.lock").touch()
                (fresh.folder / ".nox" / "full").write_bytes(bytes(4096))
            done = fresh.start("-s", "check")
            said, _ = done.communicate()
            assert (done.returncode, said.splitlines()[-1]) == (
                1,
                f"nox > Session check aborted: {fresh.folder}/.nox/{file}: "
                "No space left on device.",
            )
            assert "Traceback" not in said

        with_mounted({}, fill)

    def test_from_its_lock_file_with_hashes(self, fresh):
        (fresh.folder / ".nox/check/made-from").unlink()
        made, synced, installed = fresh.installed("check")
        python = str(fresh.folder / ".nox/check/bin/python")
        assert made == [
            "--quiet", "venv", "--clear", "--python", str(NOX), str(fresh.folder / ".nox/check"),
        ]  # fmt: skip
        lock = str(fresh.folder / "lockfiles/check.txt")
        assert synced == [
            "--quiet", "pip", "sync", "--require-hashes", "--python", python, lock,
        ]  # fmt: skip
        assert installed == [
            "--quiet", "pip", "install", "--no-deps", "--no-build-isolation",
            "--python", python, "--editable", str(fresh.folder),
        ]  # fmt: skip
        assert fresh.installed("check") == []

    @pytest.mark.parametrize(
        ("file", "old", "new"),
        [
            ("lockfiles/check.txt", "typer==", "typer ==="),
            ("pyproject.toml", 'version = "0.1.0"', 'version = "0.1.1"'),
            ("pyproject.toml", "cpu_plugin:register", "cpu_plugin:other"),
            ("pyproject.toml", 'requires = ["hatchling"]', 'requires = ["hatchling>=1"]'),
            ("pyproject.toml", 'dev-mode-dirs = ["build", "verify"]', 'dev-mode-dirs = ["build"]'),
        ],
    )
    def test_again_when_what_it_installs_changes(self, fresh, file, old, new):
        self.edit(fresh.folder / file, old, new)
        assert len(fresh.installed("check")) == 3
        assert fresh.installed("check") == []

    @pytest.mark.parametrize(
        ("file", "old", "new"),
        [
            ("lockfiles/build.txt", "typer==", "typer ==="),
            ("pyproject.toml", "line-length = 100", "line-length = 99"),
            ("pyproject.toml", "xfail_strict = true", "xfail_strict = false"),
            ("pyproject.toml", "Reproducible NVFP4 builds", "NVFP4 builds"),
        ],
    )
    def test_not_when_something_else_does(self, fresh, file, old, new):
        self.edit(fresh.folder / file, old, new)
        assert fresh.installed("check") == []

    @pytest.mark.parametrize(
        ("options", "wanted"),
        [
            (("--rehearse",), ["build", VERIFY]),
            (("--verify", "all"), ["build", VERIFY]),
            (("--verify", "structure"), ["build"]),
            (("--verify", "none"), ["build"]),
            (("--runner=image",), []),
        ],
    )
    def test_those_of_the_steps_before_a_build(self, fresh, options, wanted):
        """The driver starts their Pythons, so they are there when it needs them."""
        for name in ("build", VERIFY):
            (fresh.folder / ".nox" / name / "made-from").unlink()
        told = fresh.installed("build", "--", "variant", *options)
        assert [Path(call[-1]).name for call in told if call[1] == "venv"] == wanted

    def test_not_half_made(self, fresh):
        """What failed is made anew by the next session."""
        (fresh.folder / ".nox/check/made-from").unlink()
        assert len(fresh.nox("-s", "check", status=1)) == 1
        assert len(fresh.installed("check")) == 3

    def test_test_tools_lie_in_a_folder_of_their_own(self, fresh):
        folder = fresh.folder / ".nox/test"
        (folder / "made-from").unlink()
        (folder / "of_an_older_lock_file.py").touch()
        assert fresh.installed("containers") == [
            [
                "--quiet", "pip", "install", "--require-hashes", "--python", str(NOX),
                "--target", str(folder),
                "--requirement", str(fresh.folder / "lockfiles/test.txt"),
            ]
        ]  # fmt: skip
        assert [path.name for path in folder.iterdir()] == ["made-from"]
        assert fresh.installed("containers") == []

    def edit(self, file: Path, old: str, new: str) -> None:
        text = file.read_text(encoding="utf-8")
        assert old in text
        file.write_text(text.replace(old, new, 1), encoding="utf-8")


# Takes its time, and fails if another works on the same environment or runs in it.
SLOW_UV = """
import os, sys, time
from pathlib import Path
if "venv" in sys.argv:
    folder = Path(sys.argv[-1])
    assert not (folder / "in use").exists()
    folder.mkdir(exist_ok=True)
    (folder / "being made").touch(exist_ok=False)
    while Path("slow").exists() and not Path("go").exists():
        time.sleep(0.01)
elif "--target" in sys.argv:
    Path(sys.argv[sys.argv.index("--target") + 1]).mkdir()
time.sleep(0.1)
if "--editable" in sys.argv:
    python = Path(sys.argv[sys.argv.index("--python") + 1])
    python.parent.mkdir(exist_ok=True)
    python.write_text({python!r})
    python.chmod(0o755)
    (python.parents[1] / "being made").unlink()
"""
IN_USE = """
import os, sys, time
from pathlib import Path
used = Path(sys.argv[0]).parents[1] / "in use"
used.touch()
while not Path("go").exists():
    time.sleep(0.01)
used.unlink()
"""
# What a session does that is handed a changed lock file between its first and its second command.
CHANGED_MEANWHILE = """
import sys
from pathlib import Path
from tools import environments

class Session:
    def log(self, text):
        sys.exit(text)

with environments.using(Session(), "build", "host"):
    Path("lockfiles/build.txt").write_text("")
    assert not environments.is_made(Path(".nox/build"), environments.stamp("build"))
    with environments.using(Session(), "build", "test"):
        assert environments.HELD == {"build", "host", "test"}
    assert environments.HELD == {"build", "host"}
assert environments.HELD == set()
"""


class TestSeveralAtOnce:
    """Processes that make and use the same environments."""

    @pytest.fixture
    def fresh(self, tmp_path):
        tree = Tree(tmp_path)
        python = f"#!{sys.executable} -S\n{tree.note('new')}"
        slow = tree.note("uv").rpartition("sys.exit")[0] + SLOW_UV.format(python=python)
        (tmp_path / "uv/__main__.py").write_text(slow, encoding="utf-8")
        tree.noted.write_text("", encoding="utf-8")
        yield tree
        (tmp_path / "go").touch()  # for what still waits if a test failed

    def noted(self, fresh):
        return [
            json.loads(line)[1] for line in fresh.noted.read_text(encoding="utf-8").splitlines()
        ]

    def wait_for(self, file, started):
        while not file.exists():
            assert started.poll() is None
            time.sleep(0.01)

    def waiting(self, started):
        """The line that says for what a process waits."""
        while "waiting" not in (line := started.stdout.readline()):
            assert line, "it did not wait"
        return line

    def go(self, fresh, *started):
        (fresh.folder / "go").touch()
        for one in started:
            said = one.communicate(timeout=60)[0]
            assert one.returncode == 0, said

    def test_an_environment_is_made_once(self, fresh):
        shutil.rmtree(fresh.folder / ".nox/check")
        (fresh.folder / "slow").touch()
        first = fresh.start("-s", "check")
        self.wait_for(fresh.folder / ".nox/check/being made", first)
        second = fresh.start("-s", "check")
        assert ".nox/check, which another process is making" in self.waiting(second)
        self.go(fresh, first, second)
        assert self.noted(fresh) == ["uv", "uv", "uv", "new", "new"]

    def test_none_is_made_again_under_those_who_use_it(self, fresh):
        python = fresh.folder / ".nox/check/bin/python"
        python.write_text(f"#!{sys.executable} -S\n{IN_USE}", encoding="utf-8")
        user = fresh.start("-s", "check")
        self.wait_for(fresh.folder / ".nox/check/in use", user)
        (fresh.folder / "lockfiles/check.txt").write_text("", encoding="utf-8")
        maker = fresh.start("-s", "check")
        assert ".nox/check, to make it: another process uses" in self.waiting(maker)
        time.sleep(0.2)
        assert self.noted(fresh) == []
        self.go(fresh, user, maker)
        assert self.noted(fresh) == ["uv", "uv", "uv", "new"]

    def test_two_that_need_several_do_not_wait_for_each_other(self, fresh):
        """Each names them in another order."""
        names = ("build", VERIFY, "host", "test")
        for name in names:
            shutil.rmtree(fresh.folder / ".nox" / name)
        both = [fresh.start("-s", "build", "assay", "--", "x"), fresh.start("-s", "engine")]
        said = [one.communicate(timeout=60)[0] for one in both]
        assert [one.returncode for one in both] == [0, 0], said
        assert sum(text.count("installing") for text in said) == len(names)

    def test_a_process_does_not_wait_for_itself(self, fresh):
        subprocess.run([NOX, "-c", CHANGED_MEANWHILE], cwd=fresh.folder, check=True, timeout=60)

    def test_who_may_not_write_the_lock_shares_it(self, fresh):
        code = "from tools import environments as n; n.os.close(n.open_lock(n.Path('lock')))"
        lock = fresh.folder / "lock"
        lock.touch(mode=0o444)
        subprocess.run([NOX, "-c", code], cwd=fresh.folder, check=True)


IN_AN_ENVIRONMENT = """
import subprocess, sys
import shadow

def test_what_is_imported():
    assert shadow.OF == "the environment"
    import only_a_tool

def test_what_is_started_has_no_test_tools():
    for name in ("pytest", "only_a_tool"):
        assert subprocess.run([sys.executable, "-c", f"import {name}"]).returncode == 1
"""


def test_tools_come_after_the_environment_and_in_one_process_alone(tmp_path):
    """In a real environment that has no pytest, with the tools of this one in the folder."""
    venv.create(tmp_path / "environment", symlinks=True)
    (packages,) = (tmp_path / "environment/lib").glob("python*/site-packages")
    tools = tmp_path / ".nox/test"
    tools.mkdir(parents=True)
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        (tools / entry.name).symlink_to(entry)
    (packages / "shadow.py").write_text("OF = 'the environment'", encoding="utf-8")
    (tools / "shadow.py").write_text("OF = 'the tools'", encoding="utf-8")
    (tools / "only_a_tool.py").touch()
    (tmp_path / "tests").mkdir()
    shutil.copy(checkout.ROOT / "tests/__main__.py", tmp_path / "tests")
    (tmp_path / "tests/test_it.py").write_text(IN_AN_ENVIRONMENT, encoding="utf-8")
    done = subprocess.run(
        [tmp_path / "environment/bin/python", "tests", "-p", "no:cacheprovider"],
        cwd=tmp_path, capture_output=True, encoding="utf-8", check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout
    assert "1 error" not in done.stdout
