"""Standard streams and signals, which are prepared before nox is imported: that takes a while."""

import os
import signal
import sys
from pathlib import Path

CAME: list[int] = []
# Which of them are handed on to what runs. A terminal has told it of SIGINT, but our commands take
# that for the same one, and then it does not matter whom it was sent to.
HANDED_ON = {signal.SIGTERM, signal.SIGHUP}


def begin() -> None:
    """Opens the standard streams that are closed, all of which nox needs, and heeds signals."""
    for number, standard in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            nowhere = os.open(os.devnull, os.O_RDWR)  # gets the lowest free number: this one
            os.set_inheritable(nowhere, True)
            mode = "r" if number == 0 else "w"
            setattr(sys, standard, os.fdopen(nowhere, mode, encoding="utf-8", closefd=False))
    for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(one) is not signal.SIG_IGN:
            signal.signal(one, stop)


def stop(number: int, _: object) -> None:
    """Hands a signal on to what runs, with which nox ends; if nothing does, nox ends now."""
    CAME.append(number)
    children = Path("/proc/self/task", str(os.getpid()), "children").read_text(encoding="ascii")
    if not children:
        end(told=False)
    if number not in HANDED_ON:
        raise KeyboardInterrupt  # for nox, which waits
    for child in children.split():
        os.kill(int(child), number)


def end(*, told: bool) -> None:
    """Ends nox after a signal, with a line about it unless the command has told."""
    name, code = signal.Signals(CAME[0]).name, 128 + CAME[0]
    if not told:
        print(f"hallmark: exit {code}, stopped by {name}", file=sys.stderr, flush=True)
    raise SystemExit(code)
