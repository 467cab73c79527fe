"""No process outlives the one that started it, however that ends."""

import os
import subprocess
import sys
import time

import pytest

from forge.core import processes
from forge.core.errors import EngineError

DEAF = "trap '' TERM; sleep 60 & echo $!; wait"  # a child that ignores SIGTERM, and its child


def gone(pid):
    """Whether a process has ended, given a moment to do so."""
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("interruption", [KeyboardInterrupt(), EngineError("died")])
def test_nothing_outlives_an_interruption(tmp_path, monkeypatch, interruption):
    """The child of the child, deaf to SIGTERM, goes too."""
    monkeypatch.setattr(processes, "STOP_SECONDS", 0.2)
    log = tmp_path / "logs" / "log"
    pids = []

    def interrupted():
        with processes.process(["sh", "-c", DEAF], log=log, env=os.environ) as child:
            while not log.read_text(encoding="utf-8").strip():
                time.sleep(0.02)
            pids.extend([child.pid, int(log.read_text(encoding="utf-8"))])
            raise interruption

    with pytest.raises(type(interruption)):
        interrupted()
    assert all(gone(pid) for pid in pids)


def test_an_error_ends_with_the_last_lines_of_the_log(tmp_path):
    log = tmp_path / "log"
    log.write_text("".join(f"line {number}\n" for number in range(100)), encoding="utf-8")
    assert processes.tail(log).startswith(f"The last lines of {log}:\nline 60\n")
    assert processes.tail(log).endswith("line 99")


STARTER = """
import os, sys, time
from pathlib import Path
from forge.core import processes

log = Path(sys.argv[1])
with processes.process(["sh", "-c", sys.argv[2]], log=log, env=os.environ) as child:
    while not log.read_text().strip():
        time.sleep(0.02)
    print(child.pid, log.read_text().strip(), flush=True)
    time.sleep(60)
"""


def test_nothing_outlives_a_process_that_is_killed(tmp_path):
    """A real one, while its child runs; what other signals do is tested with them."""
    command = [sys.executable, "-c", STARTER, str(tmp_path / "log"), DEAF]
    with subprocess.Popen(command, stdout=subprocess.PIPE, encoding="utf-8") as starter:
        pids = [int(pid) for pid in starter.stdout.readline().split()]
        starter.kill()
    assert len(pids) == 2
    assert all(gone(pid) for pid in pids)


def test_exit_code_comes_through(tmp_path):
    with processes.process(["sh", "-c", "exit 7"], log=tmp_path / "log", env=os.environ) as child:
        assert child.wait(30) == 7


def test_sigterm_lets_a_process_end_in_its_own_time(tmp_path):
    """As long as there is time, its own handler runs to its end."""
    script = "trap 'sleep 0.3; echo done; exit 0' TERM; echo up; while :; do sleep 0.05; done"
    log = tmp_path / "log"
    with processes.process(["sh", "-c", script], log=log, env=os.environ):
        while not log.read_text(encoding="utf-8"):
            time.sleep(0.02)
    assert log.read_text(encoding="utf-8").splitlines()[-1] == "done"
