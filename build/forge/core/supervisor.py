"""Runs a command, and ends it when the process that started this one ends for any reason.

The caller has the other end of standard input. When this process reads the end of it, it kills its
process group. As the first process of a container it exits instead, and the kernel ends all other
processes in there. A parent-death signal (PR_SET_PDEATHSIG) would reach one process, not the group,
and does not work across containers.
"""

import os
import signal
import subprocess
import sys
import threading


def main() -> None:
    """Runs the command in the arguments; exits as it does, with 128 + n after signal n."""
    # The command may take its time after SIGTERM; a handler, since it would inherit what we ignore.
    signal.signal(signal.SIGTERM, lambda *_: None)
    child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)  # noqa: S603 - our caller's
    threading.Thread(target=_end_with_caller, daemon=True).start()
    while True:
        ended, status = os.wait()  # orphans are reaped too: there is nobody else to do it
        if ended == child.pid:
            code = child.returncode = os.waitstatus_to_exitcode(status)
            sys.exit(code if code >= 0 else 128 - code)


def _end_with_caller() -> None:
    while os.read(0, 4096):
        pass
    os.killpg(0, signal.SIGKILL)  # which spares the first process of a container
    os._exit(1)


if __name__ == "__main__":
    main()
