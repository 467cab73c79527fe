"""Whoever waits for a lock says for whom; it ends with its process, and is never broken."""

import errno
import fcntl
import os
import platform
import re
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from conftest import refusing

from forge.core import console, locks, mounts
from forge.core.store import Store

HOLDS = """
import sys
from pathlib import Path
from forge.core import locks
with locks.held(Path(sys.argv[1]), "it"):
    print("has it", flush=True)
    sys.stdin.readline()
"""
# Says every 0.3 s what is said every ten seconds otherwise.
WAITS = """
import sys
from pathlib import Path
from forge.core import locks
locks.AGAIN = 0.3
with locks.held(Path(sys.argv[1]), "it"):
    print("has it", flush=True)
"""
COUNTS = """
import sys
from pathlib import Path
from forge.core import locks
locks.PAUSE = 0.001
count = Path(sys.argv[1])
for _ in range(100):
    with locks.held(count.with_name("lock"), "it"):
        number = int(count.read_text())
        count.write_text("")
        count.write_text(str(number + 1))
"""
SINCE = r"which has it since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC"


@pytest.fixture
def lock(tmp_path):
    return tmp_path / "lock"


@contextmanager
def running(script, *arguments):
    """A process of its own, which is gone at the end."""
    with ExitStack() as stack:
        child = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-c", script, *map(str, arguments)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                encoding="utf-8",
            )
        )  # fmt: skip
        stack.callback(child.kill)
        yield child


def test_the_wait_for_one_that_is_stopped_is_told_again_and_again(lock):
    """A real SIGSTOP: process, machine and time are named, and the lock is not broken."""
    with running(HOLDS, lock) as holder:
        assert holder.stdout.readline() == "has it\n"
        holder.send_signal(signal.SIGSTOP)
        with running(WAITS, lock) as waiter:
            named = f"it: waiting for process {holder.pid} on {re.escape(platform.node())}, {SINCE}"
            assert re.fullmatch(f"{named}\n", waiter.stderr.readline())
            for _ in range(3):
                assert re.fullmatch(rf"{named}, \d+ s so far\n", waiter.stderr.readline())
            holder.send_signal(signal.SIGCONT)
            holder.stdin.write("go on\n")
            holder.stdin.flush()
            assert waiter.stdout.readline() == "has it\n"
            assert waiter.wait(timeout=30) == 0
    assert not lock.exists()


def test_a_lock_ends_with_its_process(lock):
    """Killed outright; its file stays, names the dead, and hinders nobody."""
    with running(HOLDS, lock) as holder:
        assert holder.stdout.readline() == "has it\n"
        assert locks.is_held(lock)
        assert locks.attempt(lock) is None
        holder.kill()
        holder.wait()
    assert str(holder.pid) in lock.read_text(encoding="utf-8")
    assert not locks.is_held(lock)
    with locks.held(lock, "it"):
        assert f"process {os.getpid()} on " in lock.read_text(encoding="utf-8")
    assert not lock.exists()


def test_who_is_soon_done_is_not_named(lock, monkeypatch):
    said = []
    monkeypatch.setattr(console, "say", said.append)
    with locks.held(lock, "it"):
        pass
    assert said == []


def test_one_at_a_time_though_each_removes_the_file(tmp_path):
    """Four real processes count to 400 in a file, which they would miss with two at a time."""
    (tmp_path / "count").write_text("0", encoding="utf-8")
    with ExitStack() as stack:
        children = [stack.enter_context(running(COUNTS, tmp_path / "count")) for _ in range(4)]
        assert [child.wait(timeout=60) for child in children] == [0] * 4
    assert (tmp_path / "count").read_text(encoding="utf-8") == "400"
    assert not (tmp_path / "lock").exists()


def test_a_file_that_lost_its_name_locks_nothing(lock):
    """As of a waiter that opened it before its holder removed it."""
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT)
    try:
        assert locks.names(lock, descriptor)
        lock.unlink()
        assert not locks.names(lock, descriptor)
        lock.touch()
        assert not locks.names(lock, descriptor)
    finally:
        os.close(descriptor)


def test_a_lock_in_common(lock):
    """It lasts as long as one object is there, and its time is that of the last use."""
    one, other = locks.Shared(lock), locks.Shared(lock)
    assert locks.attempt(lock) is None
    del one
    assert locks.attempt(lock) is None
    del other
    os.utime(lock, (1, 1))
    assert not locks.is_held(lock)
    third = locks.Shared(lock)
    assert lock.stat().st_mtime > time.time() - 60
    assert locks.is_held(lock)
    del third


def test_a_store_says_for_whom_it_waits(tmp_path):
    """The key is short, as everywhere."""
    script = "import sys\nfrom pathlib import Path\nfrom forge.core.store import Store\n"
    script += "with Store(Path(sys.argv[1])).lock('quantize', 'k' * 64): pass"
    with Store(tmp_path).lock("quantize", "k" * 64), running(script, tmp_path) as waiter:
        said = waiter.stderr.readline()
    assert said.startswith(f"quantize kkkkkkkkkkkk: waiting for process {os.getpid()} on ")
    assert list((tmp_path / "locks").iterdir()) == []


def test_a_lock_file_that_the_disk_does_not_give(lock, monkeypatch):
    """It is locked and written over, and whoever waits says that somebody has it."""
    lock.write_text("process 1 on a machine that died", encoding="utf-8")
    monkeypatch.setattr(os, "pread", refusing(errno.EIO))
    with locks.held(lock, "it"):
        assert lock.read_text(encoding="utf-8").startswith(f"process {os.getpid()} on ")
        assert locks.attempt(lock) is None
        assert locks._holder(lock) == "another process"
    assert not lock.exists()
    lock.touch()
    monkeypatch.setattr(os, "pread", refusing(errno.ESTALE))
    with pytest.raises(OSError, match=os.strerror(errno.ESTALE)):
        locks.attempt(lock)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: path.write_text("of mine", encoding="utf-8"), "holds something else"),
        (lambda path: path.symlink_to("mine"), "is a link"),
        (lambda path: path.symlink_to("nowhere"), "is a link"),
        (os.mkfifo, "is no regular file"),
        (Path.mkdir, "is no regular file"),
    ],
)
def test_what_is_no_lock_file_is_left(lock, make, said):
    """Neither written nor removed, and what a link leads to is neither."""
    mine = lock.with_name("mine")
    mine.write_text("of mine", encoding="utf-8")
    make(lock)
    before = lock.lstat()
    for _ in range(2):
        with pytest.raises(OSError, match=f"{said}.*{lock}"), locks.held(lock, "it"):
            pass
    assert lock.lstat() == before
    assert sorted(path.name for path in lock.parent.iterdir()) == ["lock", "mine"]
    assert mine.read_text(encoding="utf-8") == "of mine"


STRANGE = {
    "pipe": os.mkfifo,
    "link": lambda path: path.symlink_to("mine"),
    "link to nowhere": lambda path: path.symlink_to("nowhere"),
    "folder": Path.mkdir,
}


@pytest.mark.parametrize("kind", STRANGE)
def test_what_is_no_lock_file_is_held_by_nobody(lock, kind):
    """It is refused at once, and so is what it leads to, which somebody holds."""
    mine = lock.with_name("mine")
    with locks.held(mine, "it"):
        STRANGE[kind](lock)
        before = lock.lstat()
        with pytest.raises(locks.NoLockFileError, match=f"so it is no lock file.*{lock}"):
            locks.Shared(lock)
        assert not locks.is_held(lock)
        descriptor = os.open(mine, os.O_RDWR)
        try:
            assert not locks.names(lock, descriptor)
        finally:
            os.close(descriptor)
        assert lock.lstat() == before


@pytest.mark.parametrize("data", [b"", b"\0" * 60, b"proc", b"process 1 on a machine"])
def test_what_a_killed_process_leaves_is_a_lock_file(lock, data):
    lock.write_bytes(data)
    with locks.held(lock, "it"):
        pass
    assert not lock.exists()


def test_a_lock_file_of_another_user(lock, monkeypatch):
    """It is locked as it is where it can be read; else the error says what to do about it.

    Refused by `os.open`, since root may write all.
    """
    lock.write_text("process 1 on a machine", encoding="utf-8")
    real, refused = os.open, os.O_RDWR

    def denied(path, flags, *rest):
        if flags & os.O_ACCMODE in {os.O_RDWR, refused}:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real(path, flags, *rest)

    monkeypatch.setattr(os, "open", denied)
    with locks.held(lock, "it"):
        assert lock.read_text(encoding="utf-8") == "process 1 on a machine"
        assert locks.attempt(lock) is None
    with pytest.raises(PermissionError, match="Permission denied"):  # there is none to open
        locks.attempt(lock)
    lock.write_text("process 1 on a machine", encoding="utf-8")
    refused = os.O_RDONLY
    with pytest.raises(PermissionError, match=f"the lock file of another user.*{lock}"):
        locks.attempt(lock)


def test_a_lock_file_of_another_user_over_nfs(lock, monkeypatch):
    """Which locks for one alone only what can be written. Injected into `os.open` and `flock`."""
    lock.touch()
    real = os.open

    def denied(path, flags, *rest):
        if flags & os.O_ACCMODE == os.O_RDWR:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real(path, flags, *rest)

    def unwritable(*_):
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    monkeypatch.setattr(os, "open", denied)
    monkeypatch.setattr(fcntl, "flock", unwritable)
    with pytest.raises(PermissionError, match=f"the lock file of another user.*{lock}"):
        locks.attempt(lock)


# As the kernel writes them (Documentation/filesystems/proc.rst), but for the numbers.
MOUNTS = """\
22 1 0:20 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:30 / /v4 rw,relatime shared:2 - nfs4 host:/x rw,vers=4.2,local_lock=none,addr=10.0.0.1
31 22 0:31 / /v3 rw,relatime - nfs host:/x rw,vers=3,nolock,local_lock=all,addr=10.0.0.1
32 22 0:32 / /flock rw - nfs host:/x rw,vers=3,local_lock=flock
33 22 0:33 / /posix rw - nfs host:/x rw,vers=3,local_lock=posix
34 31 0:34 / /v3/below rw - xfs /dev/sdb1 rw
35 22 0:35 / /with\\040space rw - fuse.sshfs host: rw,user_id=0
36 22 0:36 / /cifs rw - cifs //host/x rw,nobrl
37 22 0:37 / /lustre rw - lustre host:/x rw,flock
38 22 0:38 / /other rw - lustre host:/x rw,localflock
39 22 0:39 / /twice rw - nfs host:/x rw,nolock
40 39 0:40 / /twice rw - ext4 /dev/sdc1 rw
"""


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/store", None),
        ("/v4/store", None),
        ("/v3/store", "nfs at /v3 with the option 'local_lock=all'"),
        ("/v3", "nfs at /v3 with the option 'local_lock=all'"),
        ("/v31/store", None),
        ("/flock/store", "nfs at /flock with the option 'local_lock=flock'"),
        ("/posix/store", None),
        ("/v3/below/store", None),
        ("/with space/store", "fuse.sshfs at /with space"),
        ("/cifs/store", "cifs at /cifs with the option 'nobrl'"),
        ("/lustre/store", None),
        ("/other/store", "lustre at /other with the option 'localflock'"),
        ("/twice/store", None),
    ],
)
def test_locks_that_other_machines_do_not_see(path, found):
    assert locks.local(Path(path), mounts.parsed(MOUNTS.encode())) == found


def test_it_is_told_once(tmp_path, monkeypatch):
    """By the mounts of a machine whose root is on NFS; the mounts of this one are read as well."""
    said, of_nfs = [], tmp_path / "mountinfo"
    monkeypatch.setattr(console, "say", said.append)
    locks.tell_if_local(tmp_path)
    of_nfs.write_text("22 1 0:20 / / rw - nfs host:/x rw,nolock\n", encoding="utf-8")
    monkeypatch.setattr(mounts, "_HERE", of_nfs)
    for _ in range(2):
        locks.tell_if_local(tmp_path)
    assert said == [
        f"{tmp_path}: lies on nfs at / with the option 'nolock', where locks are seen by this "
        "machine alone. Let no other machine use it at the same time, or mount it with locks that "
        "the server keeps."
    ]
