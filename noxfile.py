"""What runs in each environment: `python noxfile.py -s <session>`, as the Makefile does it.

tools/environments.py makes the environments, and tools/signals.py ends nox on a signal.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from tools import signals

signals.begin()

import argparse
import signal
import tempfile
from contextlib import ExitStack

import nox
from nox.command import CommandFailed

from tools.environments import LOCKS, ROOT, run, told, using, uv, verify_environment

PYTEST = ("-p", "no:cacheprovider")
COMMANDS = {"forge", "assay", "bench"}
# Seconds between Ctrl-C and a harder signal, for what is no command of ours: tests clean up, too.
PATIENCE = 30.0

nox.options.default_venv_backend = "none"
nox.options.stop_on_first_error = True
nox.options.sessions = ["lint", "unit", "libraries", "engine"]


def python(session: nox.Session, name: str, *arguments: str) -> None:
    """Runs Python in an environment; if it fails, nox ends at once, with the same exit code."""
    # The byte code of what is imported stays in the environment: without it, a start of vLLM
    # compiles 4,500 modules, which is most of what it takes.
    env = {"PYTHONDONTWRITEBYTECODE": None}
    command = (str(ROOT / ".nox" / name / "bin" / "python"), *arguments)
    if COMMANDS & set(arguments[:2]):
        signals.HANDED_ON.add(signal.SIGINT)
    try:
        with using(session, name):
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
        signals.HANDED_ON.discard(signal.SIGINT)


def pytest(session: nox.Session, name: str, *arguments: str) -> None:
    """Runs tests in an environment that has no test tools."""
    with using(session, name, "test"):
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
    with using(session, *steps):
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
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--engine")
    parser.add_argument("--logs")
    checking, fetching = parser.parse_known_args(options)
    kept = [f"--{name}={value}" for name, value in vars(checking).items() if value is not None]
    with ExitStack() as stack:
        with told(session, Path(tempfile.gettempdir())):
            apart = stack.enter_context(tempfile.TemporaryDirectory())
        ledger = str(Path(apart, "ledger.json"))
        python(session, "host", "-m", "forge", "fetch", folder, ledger, *fetching)
        python(session, verify_environment(), "-m", "assay", "check", folder, ledger, *kept)


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
    with using(session, "dev"):
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
    with using(session, "host", "build", name, "test"):
        pytest(session, name, *where, "-m", "engine", *session.posargs)


if __name__ == "__main__":  # as make runs it, so that signals are heeded before nox is imported
    nox.main()
