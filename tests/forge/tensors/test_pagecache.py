"""Hints to the page cache change no byte, and an error of the disk is not lost."""

import ctypes
import mmap
import os

import pytest

from forge.tensors import pagecache
from forge.tensors.pagecache import ReadBehind, WriteBehind

PIECE = os.urandom(1 << 20)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "large"


def write(path, pieces):
    with path.open("wb", buffering=0) as file:
        behind = WriteBehind(file.fileno())
        for _ in range(pieces):
            file.write(PIECE)
            behind.passed(file.tell())
        behind.finish()


def test_a_file_written_and_read_behind_is_whole(path, monkeypatch):
    """What is written is hinted at again while it may be on its way; what is read, once."""
    hinted = []
    monkeypatch.setattr(pagecache, "forget", lambda _, start, end: hinted.append((start, end)))
    write(path, 100)
    assert path.read_bytes() == 100 * PIECE
    windows = [(0, 16), (0, 32), (0, 48), (0, 64), (16, 80), (32, 96), (0, 0)]
    assert hinted == [(start << 20, end << 20) for start, end in windows]

    hinted.clear()
    with path.open("rb", buffering=0) as file:
        behind = ReadBehind(file.fileno())
        while file.read(len(PIECE)):
            behind.passed(file.tell())
    assert hinted == [(start << 20, start + 16 << 20) for start in range(0, 96, 16)]


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="the system takes no hints")
def test_pages_do_not_pile_up(path):
    """Once a file is on the disk, none of its pages are in memory."""
    write(path, 256)
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        count = len(mapped) // mmap.PAGESIZE
        resident = (ctypes.c_ubyte * count)()
        start = ctypes.addressof(ctypes.c_char.from_buffer(mapped))
        assert ctypes.CDLL(None).mincore(ctypes.c_void_p(start), len(mapped), resident) == 0
        assert sum(resident) < count // 20


def test_an_error_of_the_disk_is_raised(path):
    """Here the descriptor is no longer open when the bytes are flushed."""
    with path.open("wb") as file:
        behind = WriteBehind(file.fileno())
    with pytest.raises(OSError, match="Bad file descriptor"):
        behind.finish()
