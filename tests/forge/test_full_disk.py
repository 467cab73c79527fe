"""A disk on which nothing can be written any more is freed by gc and fsck."""

import errno
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from faults import shim
from faults.shim import FULL, Fault
from mounting import mount_memory, with_mounted

from forge.core import system_errors
from forge.core.errors import StoreError
from forge.core.store import Store
from forge.storekeeping import fsck, gc

HERE = Path(__file__).parent
CASES = [(command, trash) for command in ("gc", "fsck") for trash in (True, False)]


def told_on_full_disk(root, fill, command, trash):
    """What gc or fsck says, of one result that is not needed or damaged; it and the trash are gone.

    `fill` fills the disk of a folder.
    """
    store = Store(root / "store")
    store.make("quantize", "key", lambda out: (out / "shard").write_bytes(bytes(9000)) and None, {})
    if trash:
        (store.root / "trash/old").mkdir()
        (store.root / "trash/old/file").write_bytes(bytes(5000))
    if command == "fsck":
        with (store.root / "quantize/key/files/shard").open("r+b") as opened:
            opened.write(b"x")
    fill(root)
    said = None
    try:
        if command == "fsck":
            fsck.fsck(store)
        else:
            gc.gc(store, days=0, calibrations=True, confirm=True)
    except StoreError as error:
        said = str(error)
    assert list((store.root / "quantize").iterdir()) == []
    assert list((store.root / "trash").iterdir()) == []
    return said


def fill_blocks(root):
    def write(_):
        with (root / "filling").open("ab") as filling:
            filling.write(bytes(512))

    until_full(write)


def fill_inodes(root):
    until_full(lambda number: (root / str(number)).touch())
    with pytest.raises(OSError, match="No space left on device") as refused:
        (root / "one more").touch()
    assert f"No more files can be made at {root}: " in system_errors.told(refused.value)


def until_full(write):
    def write_all():
        for number in range(1000):
            write(number)

    with pytest.raises(OSError, match="No space left on device"):
        write_all()


@pytest.mark.parametrize(("command", "trash"), CASES)
@pytest.mark.parametrize("fill", [fill_blocks, fill_inodes])
def test_a_full_disk_is_freed(tmp_path, fill, command, trash):
    """By what takes no room itself, though a lock file would: the result is gone, the trash too."""

    def work():
        mount_memory(tmp_path, "size=128k,nr_inodes=64")
        said = told_on_full_disk(tmp_path, fill, command, trash)
        if command == "fsck":
            assert "1 of 1 results were damaged: 1 removed" in said
        else:
            assert said is None

    with_mounted({}, work)


def fill_for_good(root):
    shim.arm(root, Fault(mode=FULL, number=1, error=errno.ENOSPC), -1)
    fill_blocks(root)


def under_shim(root):
    """All cases, each in a child of this process, which has the library."""
    for number, (command, trash) in enumerate(CASES):
        folder = root / str(number)
        folder.mkdir()
        with_mounted({}, partial(check_under_shim, folder, command, trash))


def check_under_shim(folder, command, trash):
    said = told_on_full_disk(folder, fill_for_good, command, trash)
    found = "1 of 1 results were damaged" if command == "fsck" else os.strerror(errno.ENOSPC)
    assert found in said


def test_a_disk_that_stays_full(tmp_path):
    """Whatever is freed, which gc says at the end. By the shim, all cases in one process."""
    env = dict(
        os.environ,
        PYTHONPATH=os.pathsep.join((str(HERE.parent), str(HERE))),
        LD_PRELOAD=str(shim.build(tmp_path)),
    )
    script = "import sys, pathlib, test_full_disk as t; t.under_shim(pathlib.Path(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path],
        env=env, capture_output=True, encoding="utf-8", check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
