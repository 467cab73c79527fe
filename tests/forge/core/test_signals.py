"""Real signals to real processes: one line, the exit code, nothing that is left, and in time."""

import os
import random
import signal
import subprocess
import sys
import time
import uuid
from contextlib import suppress
from pathlib import Path

import pytest
from hub_server import serve

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
DEAF = "trap '' TERM INT HUP; sleep 60 & wait"  # and its child


class Started:
    """A command in a session of its own, with all that it starts."""

    def __init__(self, *command):
        self._mark = uuid.uuid4().hex
        # A shell in the background hands on that SIGINT is ignored; here it must not be.
        self.child = subprocess.Popen(
            ["env", "--default-signal=INT", *map(str, command)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8",
            start_new_session=True, env={**os.environ, "MARK": self._mark},
        )  # fmt: skip

    def until(self, line):
        """Waits for a line of standard output."""
        for said in self.child.stdout:
            if said == f"{line}\n":
                return
        raise AssertionError(self.child.stderr.read())

    def until_it_heeds(self):
        """Waits for a handler of SIGTERM, which no interpreter has by itself."""
        status = Path("/proc", str(self.child.pid), "status")
        while not self._caught(status) >> (signal.SIGTERM - 1) & 1:
            time.sleep(0.0002)

    @staticmethod
    def _caught(status):
        return int(status.read_text(encoding="utf-8").split("SigCgt:")[1].split()[0], 16)

    def send(self, number, *, group=False):
        self.sent = time.monotonic()
        (os.killpg if group else os.kill)(self.child.pid, number)

    def ended(self):
        """The exit code and what was said, when none of its processes is left; the time."""
        said = self.child.stderr.read()
        code = self.child.wait(10)
        while left := self.left():
            assert time.monotonic() < self.sent + 10, left
            time.sleep(0.01)
        self.child.stdout.close()
        self.child.stderr.close()
        return code, said, time.monotonic() - self.sent

    def left(self):
        """The processes that are there."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it may end meanwhile
                if f"MARK={self._mark}".encode() in (process / "environ").read_bytes():
                    found.append((process / "cmdline").read_bytes())
        return found


def line(number):
    return f"hallmark: exit {128 + number}, stopped by {signal.Signals(number).name}\n"


def is_told(ended, number, within=5.0):
    code, said, seconds = ended
    assert (code, said) == (128 + number, line(number))
    assert seconds < within


SCRIPT = """
import os, sys, threading, time
from pathlib import Path
from forge.core import commandline, processes, signals
from forge.core.store import Store

def app():
    {body}

commandline.run(app, lambda error: None)
"""


def script(tmp_path, body):
    """Starts a command line that does this, and waits until it has begun."""
    path = tmp_path / "script.py"
    path.write_text(SCRIPT.format(body=body.strip().replace("\n", "\n    ")), encoding="utf-8")
    started = Started(sys.executable, path, tmp_path / "store")
    started.until("begun")
    return started


def is_clean(tmp_path):
    assert list((tmp_path / "store" / "tmp").iterdir()) == []


@pytest.mark.parametrize(
    "command", [("forge", "list"), ("assay", "compare", "one", "other"), ("bench", "--help")]
)
def test_while_modules_are_imported(command):
    """At random moments, from the first line on."""
    dice = random.Random(0)  # noqa: S311
    for number in SIGNALS * 2:
        started = Started(sys.executable, "-m", *command)
        started.until_it_heeds()
        time.sleep(dice.uniform(0, 0.1))
        started.send(number)
        is_told(started.ended(), number)


WAITS = """
with Store(Path(sys.argv[1])).scratch("one"):
    print("begun", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("number", SIGNALS)
def test_while_a_step_works(tmp_path, number):
    started = script(tmp_path, WAITS)
    started.send(number)
    is_told(started.ended(), number, within=2)
    is_clean(tmp_path)


def test_after_a_command_within_the_command(tmp_path):
    """The outer one still runs, and is ended as a command is."""
    started = script(tmp_path, f"signals.run(lambda: 0)\n{WAITS.strip()}")
    started.send(signal.SIGTERM)
    is_told(started.ended(), signal.SIGTERM, within=2)
    is_clean(tmp_path)


def test_a_command_leaves_no_pipe_and_no_thread():
    code = """
import os, time
from forge.core import signals

def held():
    return [len(os.listdir(f"/proc/self/{name}")) for name in ("fd", "task")]

before = held()
for _ in range(20):
    assert signals.run(lambda: signals.run(lambda: 3)) == 3
end = time.monotonic() + 5
while held() != before and time.monotonic() < end:
    time.sleep(0.01)
assert held() == before, (before, held())
"""
    subprocess.run([sys.executable, "-c", code], check=True)


SERVES = f"""
with Store(Path(sys.argv[1])).scratch("one") as logs:
    with processes.process(["sh", "-c", {DEAF!r}], log=logs / "one"):
        with processes.process(["sh", "-c", {DEAF!r}], log=logs / "other"):
            time.sleep(0.5)
            print("begun", flush=True)
            time.sleep(60)
"""


FETCHES = """
from forge.inputs import hub
from forge.recipes.sources import Checkpoint
files = ("*.safetensors",)
source = Checkpoint(repo="acme/model", revision={commit!r}, files=files)
with Store(Path(sys.argv[1])).scratch("one") as folder:
    print("begun", flush=True)
    hub.take(source, files, folder)
"""


def test_while_files_are_fetched(tmp_path, monkeypatch):
    """By threads that a hub leaves waiting for the rest of each."""
    with serve() as server:
        names = [f"{number}.safetensors" for number in range(8)]
        commit = server.add("acme/model", dict.fromkeys(names, b"weights " * 9999))
        server.trouble("/cdn/", *["drip"] * len(names))
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "30")
        started = script(tmp_path, FETCHES.format(commit=commit))
        while not [request for request in server.requests if "GET /cdn/" in request]:
            time.sleep(0.05)
        time.sleep(0.2)
        started.send(signal.SIGTERM)
        is_told(started.ended(), signal.SIGTERM, within=3)
    is_clean(tmp_path)


def test_two_servers_that_do_not_end_when_asked(tmp_path):
    """They are killed in time for what is still to be cleaned up."""
    started = script(tmp_path, SERVES)
    assert len(started.left()) > 4
    started.send(signal.SIGHUP)
    is_told(started.ended(), signal.SIGHUP)
    is_clean(tmp_path)


def test_a_second_ctrl_c_is_not_waited_out(tmp_path):
    """It ends all at once; one that comes with the first is the first, as from nox."""
    started = script(tmp_path, SERVES)
    started.send(signal.SIGINT)
    started.send(signal.SIGINT)
    time.sleep(1.2)
    assert len(started.left()) > 4
    started.send(signal.SIGINT)
    is_told(started.ended(), signal.SIGINT, within=1)


def test_a_clean_up_is_not_interrupted(tmp_path):
    """By the first signal, of a step that was done, nor by others."""
    started = script(
        tmp_path,
        """
import shutil
remove = shutil.rmtree
def slow(*given, **options):
    print("begun", flush=True)
    time.sleep(0.5)
    remove(*given, **options)
shutil.rmtree = slow
with Store(Path(sys.argv[1])).scratch("one") as folder:
    (folder / "file").touch()
print("went on", flush=True)
""",
    )
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGTERM):
        started.send(number)
        time.sleep(0.1)
    assert "went on" not in started.child.stdout.read()
    is_told(started.ended(), signal.SIGTERM)
    is_clean(tmp_path)


@pytest.mark.parametrize(
    "body",
    [
        # A library that swallows whatever comes, once.
        """
try:
    print("begun", flush=True)
    time.sleep(60)
except BaseException:
    pass
time.sleep(60)
""",
        # A finalizer, whose exceptions Python only prints.
        """
class Left:
    def __del__(self):
        print("begun", flush=True)
        time.sleep(60)
Left()
time.sleep(60)
""",
        # A pool whose end waits for a thread that goes on.
        """
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor() as pool:
    pool.submit(time.sleep, 60)
    print("begun", flush=True)
    time.sleep(60)
""",
        # An error that follows from the signal.
        """
try:
    print("begun", flush=True)
    time.sleep(60)
finally:
    raise ValueError("a server that is gone")
""",
    ],
)
def test_what_is_in_the_way(tmp_path, body):
    body = body.strip().replace("\n", "\n    ")
    started = script(tmp_path, f"with Store(Path(sys.argv[1])).scratch('one'):\n    {body}")
    started.send(signal.SIGTERM)
    is_told(started.ended(), signal.SIGTERM, within=3)
    is_clean(tmp_path)


@pytest.mark.parametrize(
    "stuck",
    [
        "mutex = ctypes.create_string_buffer(64)\n"
        "while True:\n    ctypes.CDLL(None).pthread_mutex_lock(mutex)",
        "while True:\n    try:\n        time.sleep(60)\n    except BaseException:\n        pass",
    ],
    ids=["in C", "deaf"],
)
def test_a_main_thread_that_never_ends(tmp_path, stuck):
    """The process ends wherever it is, its children with it; the next run cleans up."""
    serving = 'processes.process(["sleep", "60"], log=logs / "log")'
    stuck = stuck.replace("\n", "\n    ")
    started = script(
        tmp_path,
        f"""
import ctypes
signals.SECONDS = 1.0
with Store(Path(sys.argv[1])).scratch("one") as logs, {serving}:
    print("begun", flush=True)
    {stuck}
""",
    )
    time.sleep(0.3)
    started.send(signal.SIGTERM)
    is_told(started.ended(), signal.SIGTERM, within=2)
    after = script(tmp_path, WAITS)
    assert len(list((tmp_path / "store/tmp").iterdir())) == 1
    after.send(signal.SIGTERM)
    after.ended()


def test_what_the_parent_ignores_stays_ignored(tmp_path):
    path = tmp_path / "script.py"
    path.write_text(
        SCRIPT.format(body="print('begun', flush=True); time.sleep(60)"), encoding="utf-8"
    )
    started = Started("nohup", sys.executable, path)
    started.until("begun")
    started.send(signal.SIGHUP)
    time.sleep(0.3)
    assert started.child.poll() is None
    started.send(signal.SIGTERM)
    code, said, _ = started.ended()
    assert code == 128 + signal.SIGTERM
    assert said.endswith(line(signal.SIGTERM))
    assert said.count("hallmark:") == 1


def test_a_forked_worker_that_is_ended_by_its_library(tmp_path):
    """It says nothing, and the command goes on."""
    started = script(
        tmp_path,
        """
import signal
for _ in range(2):
    worker = os.fork()
    if not worker:
        time.sleep(60)
        os._exit(1)
    time.sleep(0.1)
    os.kill(worker, signal.SIGTERM)
    assert os.waitpid(worker, 0)[1] == signal.SIGTERM
print("begun", flush=True)
time.sleep(0.5)
print("went on", flush=True)
""",
    )
    started.until("went on")
    started.sent = time.monotonic()
    assert started.ended()[:2] == (0, "")


def test_a_terminal_that_closes(tmp_path):
    """It sends SIGHUP, and nobody can be told; all the rest is done. And so does its Ctrl-C."""
    for number, keys in ((signal.SIGINT, b"\x03"), (signal.SIGHUP, None)):
        ours, its = os.openpty()
        path = tmp_path / "script.py"
        path.write_text(SCRIPT.format(body=WAITS.strip().replace("\n", "\n    ")), encoding="utf-8")
        child = subprocess.Popen(
            ["env", "--default-signal=INT", "setsid", "--ctty", sys.executable, path,
             tmp_path / "store"],
            stdin=its, stdout=subprocess.PIPE, stderr=its, encoding="utf-8",
        )  # fmt: skip
        os.close(its)
        assert child.stdout.readline() == "begun\n"
        if keys is None:
            os.close(ours)
        else:
            os.write(ours, keys)
        assert child.wait(5) == 128 + number
        if keys is not None:
            assert os.read(ours, 1000).decode() == "^C\r\x1b[K" + line(number).replace("\n", "\r\n")
            os.close(ours)
        child.stdout.close()
        is_clean(tmp_path)
