"""The first process of a container: runs a command, and ends with it or with its runner.

The runner holds the other end of standard input. If it dies, however it dies, this process reads
the end of it and exits, and the kernel ends all that is left in the container.
"""

import os
import subprocess
import sys
import threading


def main() -> None:
    """Runs the command in the arguments; exits as it does, with 128 + n after signal n."""
    child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)  # noqa: S603 - our runner's
    threading.Thread(target=_hold, daemon=True).start()
    while True:
        ended, status = os.wait()  # orphans are reaped too: there is nobody else to do it
        if ended == child.pid:
            code = os.waitstatus_to_exitcode(status)
            sys.exit(code if code >= 0 else 128 - code)


def _hold() -> None:
    while os.read(0, 4096):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
