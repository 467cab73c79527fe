"""A disk on which nothing can be written any more is freed by gc and fsck."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from faults import shim

# One result that is damaged or not needed; what fsck or gc says of it once the disk is full.
ON_FULL_DISK = """
import os, sys
from pathlib import Path
from forge.core import system_errors
from forge.core.errors import StoreError
from forge.core.store import Store
from forge.storekeeping import fsck, gc
root, way, command, trash = Path(sys.argv[1]), *sys.argv[2:]
store = Store(root / "store")
store.make("quantize", "key", lambda out: (out / "shard").write_bytes(bytes(9000)) and None, {})
file = store.root / "quantize/key/files/shard"
if trash == "trash":
    (store.root / "trash/old").mkdir()
    (store.root / "trash/old/file").write_bytes(bytes(5000))
if command == "fsck":
    with file.open("r+b") as opened:
        opened.write(b"x")
def fill():
    try:
        if way == "inodes":
            for number in range(1000):
                (root / str(number)).touch()
        with open(root / "filling", "ab", buffering=0) as filling:
            while True:
                filling.write(bytes(512))
    except OSError as error:
        return error.strerror
if way == "shim":
    from faults import shim
    from faults.shim import FULL, Fault
    shim.arm(root, Fault(mode=FULL, number=1, error=28), -1)
assert fill() == "No space left on device"
if way == "inodes":
    try:
        (root / "one more").touch()
    except OSError as error:
        assert f"No more files can be made at {root}: " in system_errors.told(error)
try:
    if command == "fsck":
        fsck.fsck(store)
    else:
        gc.gc(store, days=0, calibrations=True, confirm=True)
except StoreError as error:
    print(error, flush=True)
print(sorted(one.name for one in (store.root / "quantize").iterdir()))
print(sorted(one.name for one in (store.root / "trash").iterdir()))
"""


def on_full_disk(tmp_path, way, command, trash):
    """What a process says that has a full disk: a real one, or if none can be mounted, the shim."""
    words = [sys.executable, "-c", ON_FULL_DISK, str(tmp_path)]
    mount = f"mount -t tmpfs -o size=128k,nr_inodes=64 none '{tmp_path}'"
    tried = ["unshare", "-rm", "sh", "-c", mount]
    if way != "shim" and subprocess.run(tried, check=False).returncode:
        way = "shim"
    env = dict(os.environ, PYTHONPATH=str(Path(shim.__file__).parents[1]))
    if way == "shim":
        env["LD_PRELOAD"] = str(shim.build(tmp_path))
    else:
        words = ["unshare", "-rm", "sh", "-c", f'{mount} && exec "$@"', "sh", *words]
    done = subprocess.run(
        [*words, way, command, trash],
        env=env, capture_output=True, encoding="utf-8", check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return way, done.stdout.splitlines()


@pytest.mark.parametrize("trash", ["trash", "no trash"])
@pytest.mark.parametrize("command", ["gc", "fsck"])
@pytest.mark.parametrize("way", ["blocks", "inodes", "shim"])
def test_a_full_disk_is_freed(tmp_path, way, command, trash):
    """By what takes no room itself, though a lock file would: the result is gone, the trash too.

    Under the shim the disk stays full whatever is freed, which gc says at the end.
    """
    way, (*said, results, left) = on_full_disk(tmp_path, way, command, trash)
    assert (results, left) == ("[]", "[]")
    if command == "fsck":
        assert "1 of 1 results were damaged and are gone" in said[0]
    elif way == "shim":
        assert os.strerror(errno.ENOSPC) in said[0]
    else:
        assert said == []
