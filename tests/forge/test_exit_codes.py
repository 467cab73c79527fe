"""Exit codes reach the caller: from the command, through nox, and through make as a last line."""

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import base_arrays, write_checkpoint

from forge.core import checkout
from forge.core.errors import CalibrationError, FileSystemError

NOX = (checkout.ROOT / ".venv" / "bin" / "python", "-m", "nox")
# The real helper of the noxfile, in the environment that these tests run in.
NOXFILE = f"""
import sys
import nox
sys.path.insert(0, {str(checkout.ROOT)!r})
import noxfile

@nox.session
def command(session):
    noxfile.python(session, "dev", *session.posargs)
    noxfile.python(session, "dev", "-c", "print('went on')")
"""


def run(*command, cwd=checkout.ROOT, **env):
    """Runs a command as from a shell, outside make and without an interface's name."""
    outer = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MAKE", "MFLAGS", "NOX", "HALLMARK_"))
    }
    return subprocess.run(
        command, cwd=cwd, env={**outer, **env}, capture_output=True, encoding="utf-8", check=False
    )


@pytest.fixture
def through_nox(tmp_path):
    """Runs Python through nox."""
    (tmp_path / "noxfile.py").write_text(NOXFILE, encoding="utf-8")
    return lambda *arguments: run(*NOX, "-s", "command", "--", *arguments, cwd=tmp_path)


def python(*arguments):
    """Runs Python without nox."""
    return run(sys.executable, *arguments)


@pytest.fixture(params=["python", "nox"])
def start(request):
    """Runs Python either way."""
    return python if request.param == "python" else request.getfixturevalue("through_nox")


def last(done):
    """The last line of standard error that is not nox's nor make's."""
    return [line for line in done.stderr.splitlines() if not re.match("nox >|make", line)][-1]


@pytest.fixture
def differing(tmp_path):
    folders = [tmp_path / "one", tmp_path / "other"]
    for seed, folder in enumerate(folders):
        write_checkpoint(folder, base_arrays(seed))
    return folders


def test_an_error(start):
    done = start("-m", "forge", "build", "nonesuch")
    assert done.returncode == 3
    assert last(done) == "hallmark: exit 3"
    assert "error: no variant 'nonesuch'" in done.stderr


def test_a_usage_error(start):
    done = start("-m", "forge", "build")
    assert done.returncode == 2
    assert last(done) == "hallmark: exit 2"


def test_a_difference(start, differing):
    done = start("-m", "assay", "compare", *differing)
    assert done.returncode == 20
    assert last(done) == "hallmark: exit 20"


def test_success(start):
    done = start("-m", "forge", "list")
    assert done.returncode == 0
    assert "hallmark: exit" not in done.stdout + done.stderr


BROKEN = """
from forge.core import commandline
def app():
    {statement}
commandline.run(app, lambda error: None)
"""


def test_a_bug_keeps_its_traceback(start, tmp_path):
    script = tmp_path / "broken.py"
    script.write_text(BROKEN.format(statement="raise KeyError('of ours')"), encoding="utf-8")
    done = start(script)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "KeyError: 'of ours'" in done.stderr
    assert last(done) == "hallmark: exit 1"


def refused(done):
    """The one line of an error of the file system; that it is one, and no traceback."""
    assert done.returncode == FileSystemError.code, done.stderr
    line, code = done.stderr.splitlines()
    assert code == f"hallmark: exit {FileSystemError.code}"
    return line


def test_a_file_that_the_system_refuses(tmp_path):
    """A real one, on the way out of a command."""
    missing = tmp_path / "missing" / "file"
    script = tmp_path / "script.py"
    script.write_text(BROKEN.format(statement=f"open({str(missing)!r}, 'w')"), encoding="utf-8")
    assert refused(python(script)) == f"error: {missing}: No such file or directory"


@pytest.mark.parametrize("how", ["option", "variable"])
def test_with_debug_the_traceback_comes_first(tmp_path, how):
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\n" + BROKEN.format(statement="Path('/dev/null/x').mkdir()"),
        encoding="utf-8",
    )
    option = ["--debug"] if how == "option" else []
    env = {"HALLMARK_DEBUG": "1"} if how == "variable" else {}
    assert refused(python(script)) == "error: /dev/null/x: Not a directory (mkdir)"
    done = run(sys.executable, script, *option, **env)
    assert done.returncode == FileSystemError.code
    assert done.stderr.startswith("Traceback")
    assert done.stderr.splitlines()[-2] == "error: /dev/null/x: Not a directory (mkdir)"


@pytest.mark.parametrize(
    ("statement", "line"),
    [
        ("raise OSError(28, 'No space left on device')", "error: No space left on device, the"),
        ("raise OSError(5, 'Input/output error')", "error: Input/output error, the system does"),
        ("import os; os.rename('/dev/null/a', '/b')", "error: /dev/null/a -> /b: Not a directory"),
    ],
)
def test_lines_of_refusals(statement, line):
    """The first two are raised as Python does when a file that is open already is written."""
    assert refused(python("-c", BROKEN.format(statement=statement))).startswith(line)


def test_a_lost_connection_is_no_file():
    done = python("-c", BROKEN.format(statement="raise ConnectionResetError(104, 'reset by peer')"))
    assert done.returncode == 1
    assert "Traceback" in done.stderr


@pytest.mark.parametrize(
    ("statement", "code"),
    [("raise SystemExit(143)", 143), ("raise SystemExit", 0), ("raise SystemExit('why')", 1)],
)
def test_code_of_one_that_exits_by_itself(statement, code):
    done = python("-c", BROKEN.format(statement=statement))
    assert done.returncode == code
    assert ("hallmark: exit 143" in done.stderr) == (code == 143)
    assert ("why" in done.stderr) == (code == 1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_through_nox(through_nox, number):
    """As a shell says it, 128 more than the signal's number."""
    done = through_nox("-c", f"import os; os.kill(os.getpid(), {number.value})")
    assert done.returncode == 128 + number


def test_nox_stops_at_the_first_failure(through_nox):
    assert "went on" in through_nox("-c", "pass").stdout
    assert "went on" not in through_nox("-c", "raise SystemExit(7)").stdout


class Waiting:
    """The assay with a policy that nobody writes, run through nox; `begun` when it reads it."""

    def __init__(self, folder):
        (folder / "noxfile.py").write_text(NOXFILE, encoding="utf-8")
        self._policy = folder / "policy"
        os.mkfifo(self._policy)
        release = folder / "release"
        release.mkdir()
        command = ("-m", "assay", "verify-release", release, "--unsigned", "--policy", self._policy)
        # A shell in the background hands on that SIGINT is ignored; here it must not be.
        self.nox = subprocess.Popen(
            ["env", "--default-signal=INT", *NOX, "-s", "command", "--", *command], cwd=folder,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, encoding="utf-8",
            start_new_session=True,
        )  # fmt: skip

    def begun(self):
        """The other end of the policy, once the command has opened its own."""
        while self.nox.poll() is None:
            try:
                return os.fdopen(os.open(self._policy, os.O_WRONLY | os.O_NONBLOCK), "wb")
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
            time.sleep(0.01)
        raise AssertionError(self.nox.communicate()[1])


@pytest.mark.parametrize(
    ("number", "whom"),
    [
        (signal.SIGINT, "nox"),
        (signal.SIGINT, "group"),
        (signal.SIGTERM, "nox"),
        (signal.SIGTERM, "command"),
        (signal.SIGHUP, "nox"),
        (signal.SIGHUP, "group"),
    ],
)
def test_a_signal_to_a_command_in_nox(tmp_path, number, whom):
    """It is told once, whoever gets it, and nox exits as the command does."""
    waiting = Waiting(tmp_path)
    with waiting.begun():
        nox = waiting.nox.pid
        (command,) = Path(f"/proc/{nox}/task/{nox}/children").read_text(encoding="utf-8").split()
        if whom == "group":
            os.killpg(nox, number)
        else:
            os.kill(nox if whom == "nox" else int(command), number)
        said = waiting.nox.communicate(timeout=5)[1].splitlines()
    assert waiting.nox.returncode == 128 + number
    ours = [line for line in said if not line.startswith("nox > ")]
    assert ours == [f"hallmark: exit {128 + number}, stopped by {number.name}"]
    assert not Path("/proc", command).exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_a_tool_in_nox(tmp_path, number):
    """A tool ends by a signal and tells nothing; nox does, once."""
    (tmp_path / "noxfile.py").write_text(NOXFILE, encoding="utf-8")
    os.mkfifo(tmp_path / "begun")
    # As pytest, it has something to do after Ctrl-C, and does it.
    tool = """
import time
try:
    open("begun", "w").close()
    time.sleep(60)
except KeyboardInterrupt:
    time.sleep(0.5)
    print("cleaned up", flush=True)
    raise SystemExit(2)
"""
    nox = subprocess.Popen(
        ["env", "--default-signal=INT", *NOX, "-s", "command", "--", "-c", tool], cwd=tmp_path,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8", start_new_session=True,
    )  # fmt: skip
    (tmp_path / "begun").open("rb").close()
    os.killpg(nox.pid, number)
    out, said = nox.communicate(timeout=5)
    assert nox.returncode == 128 + number
    assert said.count(f"hallmark: exit {128 + number}, stopped by {number.name}") == 1
    assert ("cleaned up" in out) == (number == signal.SIGINT)
    assert "went on" not in out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_nox_is_imported(number):
    """As make runs it: from the first lines of the noxfile on."""
    python, *_ = NOX
    nox = subprocess.Popen(
        ["env", "--default-signal=INT", python, "noxfile.py", "--list"], cwd=checkout.ROOT,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, encoding="utf-8",
    )  # fmt: skip
    status = Path("/proc", str(nox.pid), "status")
    # The last of the three that are heeded is SIGHUP, the lowest bit.
    while not int(status.read_text(encoding="utf-8").split("SigCgt:")[1].split()[0], 16) & 1:
        time.sleep(0.0002)
    time.sleep(0.02)
    nox.send_signal(number)
    said = nox.communicate(timeout=5)[1]
    assert (nox.returncode, said) == (
        128 + number,
        f"hallmark: exit {128 + number}, stopped by {number.name}\n",
    )


@pytest.mark.libraries
def test_the_noxfile(differing):
    """A session of the real noxfile, in its own environment."""
    done = run(*NOX, "-s", "compare", "--", *differing)
    assert done.returncode == 20
    assert last(done) == "hallmark: exit 20"


@pytest.mark.libraries
def test_make(differing):
    """Make answers 2; the command's last line has the code."""
    one, other = differing
    done = run("make", "--silent", "compare", f"A={one}", f"B={other}")
    assert done.returncode == 2
    assert last(done) == "hallmark: exit 20"


@pytest.mark.libraries
def test_make_is_answered_in_its_words(tmp_path):
    missing: Path = tmp_path / "missing"
    done = run(
        "make", "rehearse", "VARIANT=qwen36-27b-vlm-mtp", "VERIFY=structure",
        f"MIRROR={missing}", f"OUT={tmp_path / 'out'}",
    )  # fmt: skip
    said = [line for line in done.stderr.splitlines() if not re.match("nox >|make", line)]
    assert done.returncode == 2
    assert "preflight" in said[0]
    assert said[1:] == [
        f"error: the mirror {missing} is no folder.",
        "help: Correct MIRROR=<dir>, or leave it out.",
        "hallmark: exit 5",
    ]


@pytest.mark.libraries
@pytest.mark.parametrize("debug", [False, True])
def test_a_library_that_fails_in_a_process_of_a_build(tmp_path, debug):
    """The step's code and one line, from the process of an environment; a traceback on request."""
    standin = checkout.ROOT / "build/standins/qwen36-dense/checkpoint"
    base = shutil.copytree(standin, tmp_path / "base")
    (base / "tokenizer.json").write_text("{}", encoding="utf-8")
    done = run(
        sys.executable, "-m", "forge", "build", "qwen36-27b-vlm-mtp", "--rehearse",
        "--verify=structure", f"--base={base}", f"--store={tmp_path / 'store'}",
        f"--out={tmp_path / 'out'}", *(["--debug"] if debug else []),
    )  # fmt: skip
    assert done.returncode == CalibrationError.code
    assert last(done) == "hallmark: exit 7"
    (error,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert "the tokenizer cannot be loaded: transformers says: Model missing" in error
    assert ("Traceback" in done.stderr) == debug
    assert not (tmp_path / "out").exists()
