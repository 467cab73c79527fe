"""The environments: made from lockfiles/, and kept as they are while something uses them.

An environment lives in `.nox/<name>` and is exactly its lock file, installed with hashes, plus
this checkout. It is made again when what it installs changes, and only then. No environment but
`dev` has test tools: those lie in a folder of their own, `.nox/test`, which tests/__main__.py
puts behind the packages of the environment that is tested.

Any number of processes may want an environment at once. Whoever makes it holds `.nox/<name>.lock`
alone; whoever runs Python in it shares that lock with others of the kind, for as long as it runs.
"""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import sys
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import nox
from nox.command import CommandFailed

from tools import signals

# An environment is its lock file and nothing beside it, so none of a user's modules.
for variable in ("PYTHONHOME", "PYTHONPATH"):
    os.environ.pop(variable, None)
# Python finds this checkout through a file that it reads in the locale's encoding.
os.environ["LC_ALL"] = "C.UTF-8"

ROOT = Path(__file__).parents[1]
UV = (sys.executable, "-m", "uv", "--quiet")
# What an editable install takes of [project]; the rest of that table describes, or is read by none.
PROJECT = ("name", "version", "requires-python", "dependencies", "scripts", "entry-points")
# Those that others name as constraints come first. It is also the order in which a process takes
# several environments, without which two could wait for each other.
LOCKS = (
    "tools", "build", "verify", "verify-cpu", "host", "check", "rebuild", "release", "test", "dev",
)  # fmt: skip

HELD: set[str] = set()  # the environments that this process shares; they stay as they are


@contextmanager
def using(session: nox.Session, *names: str) -> Iterator[None]:
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
    if not signals.CAME:
        try:
            session.run(*command, external=True, log=False, **options)
        except KeyboardInterrupt:
            code = None
        except CommandFailed as failed:
            if not signals.CAME:
                raise
            code = failed.return_code
    if signals.CAME:
        signals.end(told=code == 128 + signals.CAME[0])
