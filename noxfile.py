"""The environments of Hallmark, made from lockfiles/, and what runs in each of them.

An environment lives in `.nox/<name>` and is exactly its lock file, installed with hashes, plus
this checkout. It is made again when the lock file changes, and only then.
"""

import hashlib
import sys
import tempfile
from pathlib import Path

import nox
from nox.command import CommandFailed

ROOT = Path(__file__).parent
UV = (sys.executable, "-m", "uv", "--quiet")
PYTEST = ("-m", "pytest", "-p", "no:cacheprovider")

nox.options.default_venv_backend = "none"
nox.options.stop_on_first_error = True
nox.options.sessions = ["lint", "unit", "libraries", "engine"]


def environment(session: nox.Session, name: str) -> str:
    """Makes the environment of `lockfiles/<name>.txt` if need be; returns its Python."""
    lock = ROOT / "lockfiles" / f"{name}.txt"
    folder = ROOT / ".nox" / name
    python = folder / "bin" / "python"
    stamp = folder / "made-from"
    wanted = hashlib.sha256(lock.read_bytes() + (ROOT / "pyproject.toml").read_bytes()).hexdigest()
    if not stamp.is_file() or stamp.read_text() != wanted:
        session.log(f"installing {lock.relative_to(ROOT)} into {folder.relative_to(ROOT)}")
        uv(session, "venv", "--clear", "--python", sys.executable, str(folder))
        uv(session, "pip", "sync", "--require-hashes", "--python", str(python), str(lock))
        uv(session, "pip", "install", "--no-deps", "--no-build-isolation",
           "--python", str(python), "--editable", str(ROOT))  # fmt: skip
        stamp.write_text(wanted)
    return str(python)


def verify_environment() -> str:
    """The engine for this machine: with a GPU the CUDA build, without one the CPU build."""
    return "verify" if Path("/dev/nvidiactl").exists() else "verify-cpu"


def uv(session: nox.Session, *arguments: str) -> None:
    """Runs the installer."""
    session.run(*UV, *arguments, external=True, silent=False, log=False)


def python(session: nox.Session, name: str, *arguments: str) -> None:
    """Runs Python in an environment; if it fails, nox ends at once, with the same exit code."""
    # The byte code of what is imported stays in the environment: without it, a start of vLLM
    # compiles 4,500 modules, which is most of what it takes.
    env = {"PYTHONDONTWRITEBYTECODE": None}
    command = (environment(session, name), *arguments)
    try:
        # Without `stderr`, nox sends standard error to standard output.
        session.run(*command, external=True, log=False, env=env, stderr=None)
    except CommandFailed as failed:
        # nox answers 1 for whatever failed; a script may need to know why. The code of a command
        # that a signal ended is that signal's number, negative; a shell says 128 more than it.
        code = failed.return_code
        if code is None:  # it was not even started
            raise
        raise SystemExit(128 - code if code < 0 else code) from failed


@nox.session
def build(session: nox.Session) -> None:
    """A build or a rehearsal: the driver, and on this machine the environments of its steps."""
    options = session.posargs
    if "--runner=image" not in options:
        environment(session, "build")
        level = options[options.index("--verify") + 1] if "--verify" in options else "all"
        if level == "all":
            environment(session, verify_environment())
    python(session, "host", "-m", "forge", "build", *options)


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
    python(session, "host", *PYTEST, "tests/forge/container", "-m", "image", *session.posargs)


@nox.session
def assay(session: nox.Session) -> None:
    """The assay alone, on a finished folder."""
    folder, *options = session.posargs
    with tempfile.TemporaryDirectory() as apart:
        ledger = str(Path(apart, "ledger.json"))
        python(session, "host", "-m", "forge", "fetch", folder, ledger, *options)
        python(session, verify_environment(), "-m", "assay", "check", folder, ledger)


@nox.session
def compare(session: nox.Session) -> None:
    """Compares two checkpoint folders; needs neither torch nor an engine."""
    python(session, "build", "-m", "assay", "compare", *session.posargs)


@nox.session
def reproduce(session: nox.Session) -> None:
    """Rebuilds a release from its record and compares."""
    python(session, "build", "-m", "assay", "reproduce", *session.posargs)


@nox.session
def release(session: nox.Session) -> None:
    """What a publisher does with a finished build, and a stranger with a release."""
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
    # build before release before dev: each takes the versions of those before as constraints.
    for name in ("tools", "build", "verify", "verify-cpu", "host", "release", "dev"):
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
    lint_imports = Path(environment(session, "dev")).with_name("lint-imports")
    session.run(str(lint_imports), "importlinter.toml", "--no-cache", "--no-logo", external=True)


@nox.session
def unit(session: nox.Session) -> None:
    """The tests that need neither torch nor an engine."""
    python(
        session,
        "dev",
        *PYTEST,
        "tests",
        "-m",
        "not libraries and not engine and not image",
        *session.posargs,
    )


@nox.session
def libraries(session: nox.Session) -> None:
    """The tests against torch, transformers, modelopt and llm-compressor."""
    where = (
        "tests/assay",
        "tests/forge",
        "tests/test_pipeline.py",
        "--ignore=tests/forge/container",
    )
    python(session, "build", *PYTEST, *where, "-m", "libraries", *session.posargs)


@nox.session
def engine(session: nox.Session) -> None:
    """The tests with a real vLLM, on a real rehearsal."""
    for name in ("host", "build"):  # where rehearsals within the tests run their first steps
        environment(session, name)
    where = (
        "tests/assay",
        "tests/test_rehearsal.py",
        "tests/test_all_rehearsals.py",
    )  # the rest imports what is not here
    python(session, verify_environment(), *PYTEST, *where, "-m", "engine", *session.posargs)
