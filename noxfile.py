"""The environments of Hallmark, made from lockfiles/, and what runs in each of them.

An environment lives in `.nox/<name>` and is exactly its lock file, installed with hashes, plus
this checkout. It is made again when what it installs changes, and only then. No environment but
`dev` has test tools: those lie in a folder of their own, `.nox/test`, which tests/__main__.py
puts behind the packages of the environment that is tested.

Any number of processes may want an environment at once. Whoever makes it holds `.nox/<name>.lock`
alone; whoever runs Python in it shares that lock with others of the kind, for as long as it runs.
"""

import os
import sys

for number, standard in enumerate(("stdin", "stdout", "stderr")):  # before nox, which needs them
    try:
        os.fstat(number)
    except OSError:
        nowhere = os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free: this one
        os.set_inheritable(nowhere, True)
        mode = "r" if number == 0 else "w"
        setattr(sys, standard, os.fdopen(nowhere, mode, encoding="utf-8", closefd=False))

import signal
from pathlib import Path

SIGNALS: list[int] = []  # that came
# Which of them are handed on to what runs. A terminal has told it of SIGINT, but our commands take
# that for the same one, and then it does not matter whom it was sent to.
HANDED_ON = {signal.SIGTERM, signal.SIGHUP}
COMMANDS = {"forge", "assay", "bench"}


def stop(number: int, _: object) -> None:
    """Hands a signal on to what runs, with which nox ends; if nothing does, nox ends now."""
    SIGNALS.append(number)
    children = Path("/proc/self/task", str(os.getpid()), "children").read_text(encoding="ascii")
    if not children:
        end(told=False)
    if number not in HANDED_ON:
        raise KeyboardInterrupt  # for nox, which waits
    for child in children.split():
        os.kill(int(child), number)


def end(*, told: bool) -> None:
    """Ends nox after a signal, with a line about it unless the command has told."""
    name, code = signal.Signals(SIGNALS[0]).name, 128 + SIGNALS[0]
    if not told:
        print(f"hallmark: exit {code}, stopped by {name}", file=sys.stderr, flush=True)
    raise SystemExit(code)


for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # before imports that take a while
    if signal.getsignal(one) is not signal.SIG_IGN:
        signal.signal(one, stop)

import argparse
import errno
import fcntl
import hashlib
import json
import shutil
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import nox
from nox.command import CommandFailed

# An environment is its lock file and nothing beside it, so none of a user's modules.
for name in ("PYTHONHOME", "PYTHONPATH"):
    os.environ.pop(name, None)
# Python finds this checkout through a file that it reads in the locale's encoding.
os.environ["LC_ALL"] = "C.UTF-8"

ROOT = Path(__file__).parent
UV = (sys.executable, "-m", "uv", "--quiet")
PYTEST = ("-p", "no:cacheprovider")
# Seconds between Ctrl-C and a harder signal, for what is no command of ours: tests clean up, too.
PATIENCE = 30.0
# What an editable install takes of [project]; the rest of that table describes, or is read by none.
PROJECT = ("name", "version", "requires-python", "dependencies", "scripts", "entry-points")
# Those that others name as constraints come first. It is also the order in which a process takes
# several environments, without which two could wait for each other.
LOCKS = (
    "tools", "build", "verify", "verify-cpu", "host", "check", "rebuild", "release", "test", "dev",
)  # fmt: skip

HELD: set[str] = set()  # the environments that this process shares; they stay as they are

nox.options.default_venv_backend = "none"
nox.options.stop_on_first_error = True
nox.options.sessions = ["lint", "unit", "libraries", "engine"]


@contextmanager
def environments(session: nox.Session, *names: str) -> Iterator[None]:
    """Makes environments if need be, and sees to it that they stay as they are for a block.

    What this process has already is not made again: it would wait for itself. A block within a
    block may add environments that come later in `LOCKS`.
    """
    with ExitStack() as stack:
        for name in sorted(set(names) - HELD, key=LOCKS.index):
            assert all(LOCKS.index(name) > LOCKS.index(held) for held in HELD), (name, HELD)  # noqa: S101
            path = ROOT / ".nox" / f"{name}.lock"
            with told(session, path):
                lock = open_lock(path)
            stack.callback(os.close, lock)
            share(session, name, lock)
            HELD.add(name)
            stack.callback(HELD.remove, name)
        yield


@contextmanager
def told(session: nox.Session, path: Path) -> Iterator[None]:
    """Ends the session with one line if the system refuses a file, as on a full disk."""
    try:
        yield
    except OSError as error:
        session.error(f"{error.filename or path}: {error.strerror}")


def share(session: nox.Session, name: str, lock: int) -> None:
    """Takes an environment's lock together with others, when it is made or after making it."""
    folder = ROOT / ".nox" / name
    where = folder.relative_to(ROOT)
    while True:
        take(session, lock, fcntl.LOCK_SH, f"{where}, which another process is making")
        if is_made(folder, wanted := stamp(name)):
            return
        fcntl.flock(lock, fcntl.LOCK_UN)
        take(session, lock, fcntl.LOCK_EX, f"{where}, to make it: another process uses or makes it")
        if not is_made(folder, wanted):  # by another process, since we looked
            session.log(f"installing {lock_file(name).relative_to(ROOT)} into {where}")
            made = made_from(folder)
            with told(session, made):
                made.unlink(missing_ok=True)
            make(session, name, folder)
            with told(session, made):
                made.write_text(wanted, encoding="utf-8")
        # To share it is to let go of it first, so another may come in between: look again.


def make(session: nox.Session, name: str, folder: Path) -> None:
    """Installs `lockfiles/<name>.txt` and this checkout into a folder; test tools by themselves."""
    lock, python = str(lock_file(name)), str(folder / "bin" / "python")
    if name == "test":
        shutil.rmtree(folder, ignore_errors=True)
        uv(session, "pip", "install", "--require-hashes", "--python", sys.executable,
           "--target", str(folder), "--requirement", lock)  # fmt: skip
        return
    uv(session, "venv", "--clear", "--python", sys.executable, str(folder))
    uv(session, "pip", "sync", "--require-hashes", "--python", python, lock)
    uv(session, "pip", "install", "--no-deps", "--no-build-isolation",
       "--python", python, "--editable", str(ROOT))  # fmt: skip


def open_lock(path: Path) -> int:
    """A lock file, which is made if need be; who may not write it can still share it."""
    path.parent.mkdir(exist_ok=True)
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        if error.errno not in {errno.EACCES, errno.EROFS}:
            raise
        return os.open(path, os.O_RDONLY)


def take(session: nox.Session, lock: int, how: int, what: str) -> None:
    """Takes a lock alone or shared; if it has to wait, it says for what."""
    try:
        fcntl.flock(lock, how | fcntl.LOCK_NB)
    except BlockingIOError:
        session.log(f"waiting for {what}")
        fcntl.flock(lock, how)


def lock_file(name: str) -> Path:
    """The lock file of an environment."""
    return ROOT / "lockfiles" / f"{name}.txt"


def made_from(folder: Path) -> Path:
    """The file that says what an environment was made from."""
    return folder / "made-from"


def is_made(folder: Path, wanted: str) -> bool:
    """Whether a folder was made, to its end, from what this stamp stands for."""
    found = made_from(folder)
    return found.is_file() and found.read_text(encoding="utf-8") == wanted


def stamp(name: str) -> str:
    """The digest of all that an environment is made from: interpreter, lock file, checkout's face.

    The checkout is installed editable, so its modules are no part of it, but the path to them is:
    a copied or moved clone makes environments of its own. The rest of pyproject.toml is for tools.
    """
    interpreter = [sys.implementation.name, *sys.version_info[:3]]
    parts = [json.dumps(interpreter), lock_file(name).read_text(encoding="utf-8")]
    if name != "test":
        parts.append(str(ROOT))
        stated = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
        project = {key: stated["project"][key] for key in PROJECT if key in stated["project"]}
        parts.append(json.dumps([project, stated["build-system"], stated["tool"]["hatch"]]))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def verify_environment() -> str:
    """The engine for this machine: with a GPU the CUDA build, without one the CPU build.

    A GPU is what `forge.core.machine` takes for one; a test compares the two.
    """
    gpu = Path("/dev/nvidiactl").exists() or Path("/dev/dxg").exists()
    return "verify" if gpu else "verify-cpu"


def uv(session: nox.Session, *arguments: str) -> None:
    """Runs the installer."""
    run(session, *UV, *arguments, silent=False)


def run(session: nox.Session, *command: str, **options: Any) -> None:
    """Runs a command; if a signal came meanwhile, nox ends after it, with 128 + n."""
    code: int | None = 0
    if not SIGNALS:
        try:
            session.run(*command, external=True, log=False, **options)
        except KeyboardInterrupt:
            code = None
        except CommandFailed as failed:
            if not SIGNALS:
                raise
            code = failed.return_code
    if SIGNALS:
        end(told=code == 128 + SIGNALS[0])


def python(session: nox.Session, name: str, *arguments: str) -> None:
    """Runs Python in an environment; if it fails, nox ends at once, with the same exit code."""
    # The byte code of what is imported stays in the environment: without it, a start of vLLM
    # compiles 4,500 modules, which is most of what it takes.
    env = {"PYTHONDONTWRITEBYTECODE": None}
    command = (str(ROOT / ".nox" / name / "bin" / "python"), *arguments)
    if COMMANDS & set(arguments[:2]):
        HANDED_ON.add(signal.SIGINT)
    try:
        with environments(session, name):
            # Without `stderr`, nox sends standard error to standard output.
            run(session, *command, env=env, stderr=None, interrupt_timeout=PATIENCE)
    except CommandFailed as failed:
        # nox answers 1 for whatever failed; a script may need to know why. The code of a command
        # that a signal ended is that signal's number, negative; a shell says 128 more than it.
        code = failed.return_code
        if code is None:  # it was not even started
            raise
        raise SystemExit(128 - code if code < 0 else code) from failed
    finally:
        HANDED_ON.discard(signal.SIGINT)


def pytest(session: nox.Session, name: str, *arguments: str) -> None:
    """Runs tests in an environment that has no test tools."""
    with environments(session, name, "test"):
        python(session, name, "tests", *PYTEST, *arguments)


@nox.session
def build(session: nox.Session) -> None:
    """A build or a rehearsal: the driver, and on this machine the environments of its steps."""
    options = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    options.add_argument("--runner", default="host")
    options.add_argument("--verify", default="all")
    chosen, _ = options.parse_known_args(session.posargs)
    steps: list[str] = []
    if chosen.runner == "host":
        steps.append("build")
        if chosen.verify == "all":
            steps.append(verify_environment())
    with environments(session, *steps):
        python(session, "host", "-m", "forge", "build", *session.posargs)


@nox.session
def forge(session: nox.Session) -> None:
    """A command that needs neither torch nor an engine."""
    python(session, "host", "-m", "forge", *session.posargs)


@nox.session
def image(session: nox.Session) -> None:
    """Makes the pinned image of this tree."""
    python(session, "host", "-m", "forge", "image", *session.posargs)


@nox.session
def containers(session: nox.Session) -> None:
    """The tests in real containers; need an engine, and the image of this tree."""
    pytest(session, "host", "tests/forge/container", "-m", "image", *session.posargs)


@nox.session
def assay(session: nox.Session) -> None:
    """The assay alone, on a finished folder."""
    folder, *options = session.posargs
    with ExitStack() as stack:
        with told(session, Path(tempfile.gettempdir())):
            apart = stack.enter_context(tempfile.TemporaryDirectory())
        ledger = str(Path(apart, "ledger.json"))
        python(session, "host", "-m", "forge", "fetch", folder, ledger, *options)
        python(session, verify_environment(), "-m", "assay", "check", folder, ledger)


@nox.session
def compare(session: nox.Session) -> None:
    """Compares two checkpoint folders; needs neither torch nor an engine, nor compiled loops."""
    python(session, "check", "-m", "assay", "compare", *session.posargs)


@nox.session
def reproduce(session: nox.Session) -> None:
    """Rebuilds a release from its record and compares; only calibrating again needs torch."""
    name = "build" if "--recalibrate" in session.posargs else "rebuild"
    python(session, name, "-m", "assay", "reproduce", *session.posargs)


@nox.session
def check(session: nox.Session) -> None:
    """What a stranger does with a release, short of rebuilding it."""
    python(session, "check", "-m", *session.posargs)


@nox.session
def release(session: nox.Session) -> None:
    """What a publisher does with a finished build."""
    python(session, "release", "-m", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Speed and memory of the quantizer, beside the libraries that the build environment has."""
    python(session, "build", "-m", "bench", *session.posargs)


@nox.session
def lock(session: nox.Session) -> None:
    """Resolves lockfiles/*.in into *.txt; with a variant, that recipe's unresolved pins."""
    if session.posargs:
        python(session, "host", "-m", "forge", "lock", *session.posargs)
        return
    for name in LOCKS:
        source = Path("lockfiles", f"{name}.in")
        override = source.with_suffix(".override")
        uv(session, "pip", "compile", "--universal", "--python-version=3.11", "--no-annotate",
           "--generate-hashes", "--no-emit-index-url", "--custom-compile-command=make lock",
           *(["--override", str(override)] if override.exists() else []),
           str(source), "--output-file", str(source.with_suffix(".txt")))  # fmt: skip


@nox.session
def lint(session: nox.Session) -> None:
    """Style and types."""
    python(session, "dev", "-m", "ruff", "check", ".")
    python(session, "dev", "-m", "ruff", "format", "--check", ".")
    python(session, "dev", "-m", "mypy")
    lint_imports = str(ROOT / ".nox" / "dev" / "bin" / "lint-imports")
    with environments(session, "dev"):
        run(session, lint_imports, "importlinter.toml", "--no-cache", "--no-logo")


@nox.session
def unit(session: nox.Session) -> None:
    """The tests that need neither torch nor an engine."""
    which = ("tests", "-m", "not libraries and not engine and not image")
    python(session, "dev", "-m", "pytest", *PYTEST, *which, *session.posargs)


@nox.session
def faults(session: nox.Session) -> None:
    """Every command, killed and refused at every call that changes or reads a file."""
    python(session, "dev", "tests/faults", *session.posargs)


@nox.session
def libraries(session: nox.Session) -> None:
    """The tests against torch, transformers, modelopt and llm-compressor."""
    where = (
        "tests/assay",
        "tests/forge",
        "tests/test_pipeline.py",
        "--ignore=tests/forge/container",
    )
    pytest(session, "build", *where, "-m", "libraries", *session.posargs)


@nox.session
def engine(session: nox.Session) -> None:
    """The tests with a real vLLM, on a real rehearsal."""
    where = (
        "tests/assay",
        "tests/test_rehearsal.py",
        "tests/test_all_rehearsals.py",
    )  # the rest imports what is not here
    name = verify_environment()
    # Rehearsals within the tests run their first steps in `host` and `build`.
    with environments(session, "host", "build", name, "test"):
        pytest(session, name, *where, "-m", "engine", *session.posargs)


if __name__ == "__main__":  # as make runs it, so that signals are heeded before nox is imported
    nox.main()
