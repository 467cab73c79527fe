"""Hints to the page cache change no byte, and an error of the disk is not lost."""

import os

import pytest

from forge import pagecache
from forge.pagecache import ReadBehind, WriteBehind

PIECE = os.urandom(1 << 20)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "large"


def test_a_file_written_and_read_behind_is_whole(path, monkeypatch):
    """The hints cover the file from its front to its end, each part once."""
    hinted = []
    monkeypatch.setattr(pagecache, "forget", lambda _, start, end: hinted.append((start, end)))
    with path.open("wb", buffering=0) as file:
        behind = WriteBehind(file.fileno())
        for _ in range(40):
            file.write(PIECE)
            behind.passed(file.tell())
        behind.finish(file.tell())
        behind.close()
    assert path.read_bytes() == 40 * PIECE
    assert [start for start, _ in hinted] == [0, *(end for _, end in hinted[:-1])]
    assert hinted[-1][1] == path.stat().st_size

    hinted.clear()
    with path.open("rb", buffering=0) as file:
        behind = ReadBehind(file.fileno())
        while file.read(len(PIECE)):
            behind.passed(file.tell())
    assert hinted == [(0, 16 << 20), (16 << 20, 32 << 20)]


def test_an_error_of_the_disk_is_raised(path):
    """Here the descriptor is no longer open when the bytes are flushed."""
    with path.open("wb") as file:
        behind = WriteBehind(file.fileno())
    with pytest.raises(OSError, match="Bad file descriptor"):
        behind.finish(1)
    behind.close()
