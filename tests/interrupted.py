"""Ends or refuses what changes files, before any one of the calls by which it does so.

The kills are real: a forked child ends itself with SIGKILL. Refusals are injected into the same
calls. What is numbered is what Python calls: `os`, `open` for writing, and the exchange of folders.
"""

import io
import os
import signal
from contextlib import contextmanager
from pathlib import Path

from forge.core import placing

CALLS = ("mkdir", "link", "fsync", "rename", "replace", "unlink", "rmdir", "open")
MANY = 1000


@contextmanager
def before(monkeypatch, number, act):
    """Acts before call `number` of those that change files, on its arguments."""
    calls = iter(range(MANY))

    def counted(call, counts=lambda *_, **__: True):
        def one(*arguments, **named):
            if counts(*arguments, **named) and next(calls) == number:
                act(*arguments)
            return call(*arguments, **named)

        return one

    def writes(_, mode="r", *__, **___):
        return bool(set(mode) & set("wax+"))

    with monkeypatch.context() as patched:
        for name in CALLS:
            patched.setattr(os, name, counted(getattr(os, name)))
        patched.setattr(io, "open", counted(io.open, writes))
        patched.setattr(placing, "exchange", counted(placing.exchange))
        yield


def killed(monkeypatch, number, work):
    """Whether a child that works was killed before call `number`, which it may not reach."""
    child = os.fork()
    if child == 0:
        try:
            with before(monkeypatch, number, lambda *_: os.kill(os.getpid(), signal.SIGKILL)):
                work()
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) in {0, -signal.SIGKILL}
    return os.WIFSIGNALED(status)


def refusing(code):
    """What raises an error of the system, which names the file if the call does."""

    def refuse(*arguments, **_):
        named = [str(one) for one in arguments[:1] if isinstance(one, str | Path)]
        raise OSError(code, os.strerror(code), *named)

    return refuse


def names(folder):
    return sorted(path.name for path in folder.iterdir())
