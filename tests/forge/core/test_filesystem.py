"""Links or copies, and files that are replaced whole."""

import errno
import os
import re
import resource
import socket
from pathlib import Path

import pytest

from forge.core.filesystem import CANNOT_LINK, NO_FILE, is_there, link, read, replace
from forge.core.results import stamp


def test_link_shares_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"x")
    link(tmp_path / "a", tmp_path / "deep" / "b")
    assert (tmp_path / "deep" / "b").samefile(tmp_path / "a")


def refuse_links(monkeypatch, code):
    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", refuse)


@pytest.mark.parametrize("code", [None, *sorted(CANNOT_LINK)])
def test_link_never_writes_into_a_file_that_is_there(tmp_path, monkeypatch, code):
    """Not even by a copy, which would reach every other name of that file's bytes."""
    (tmp_path / "a").write_bytes(b"bytes of a")
    (tmp_path / "b").write_bytes(b"bytes of b")
    link(tmp_path / "a", tmp_path / "target")
    if code is not None:
        refuse_links(monkeypatch, code)
    with pytest.raises(FileExistsError):
        link(tmp_path / "b", tmp_path / "target")
    assert (tmp_path / "a").read_bytes() == b"bytes of a"
    assert (tmp_path / "b").read_bytes() == b"bytes of b"
    assert (tmp_path / "target").samefile(tmp_path / "a")


@pytest.mark.parametrize("name", ["EXDEV", "EPERM", "EMLINK", "ENOTSUP", "EOPNOTSUPP"])
def test_where_nothing_can_be_linked_it_is_copied(tmp_path, monkeypatch, name):
    """With its time, by which the store and a published folder know it again."""
    (tmp_path / "a").write_bytes(b"x")
    os.utime(tmp_path / "a", (1, 1))
    refuse_links(monkeypatch, getattr(errno, name))
    link(tmp_path / "a", tmp_path / "deep" / "b")
    assert not (tmp_path / "deep" / "b").samefile(tmp_path / "a")
    assert (tmp_path / "deep" / "b").read_bytes() == b"x"
    assert stamp(tmp_path / "deep" / "b") == stamp(tmp_path / "a")


@pytest.mark.parametrize("name", ["ENOSPC", "EIO", "EACCES", "EROFS", "EDQUOT", "ENOENT"])
def test_any_other_refusal_of_a_link_is_told(tmp_path, monkeypatch, name):
    (tmp_path / "a").write_bytes(b"x")
    code = getattr(errno, name)
    refuse_links(monkeypatch, code)
    with pytest.raises(OSError, match=re.escape(os.strerror(code))) as refused:
        link(tmp_path / "a", tmp_path / "b")
    assert refused.value.errno == code
    assert not (tmp_path / "b").exists()


def test_a_copy_that_breaks_off_leaves_nothing(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(bytes(5000))
    refuse_links(monkeypatch, errno.EXDEV)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            link(tmp_path / "a", tmp_path / "b")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("kind", ["pipe", "socket", "device", "folder"])
def test_only_files_are_read(tmp_path, kind):
    """Nothing waits for somebody to write to a pipe."""
    path = tmp_path / "path"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(str(path))
    elif kind == "device":
        path.symlink_to(os.devnull)
    else:
        path.mkdir()
    with pytest.raises(OSError, match=re.escape(str(path))) as refused:
        read(path, 9)
    assert refused.value.errno in {*NO_FILE, errno.EISDIR}
    assert Path(refused.value.filename) == path


def test_a_file_is_read_as_a_whole(tmp_path):
    path = tmp_path / "path"
    path.write_bytes(data := os.urandom(3_000_000))
    assert read(path, len(data)) == data


def test_no_more_of_a_file_is_read_than_told(tmp_path):
    """Nor is there memory for a file of 300 GB, which here is one hole."""
    path = tmp_path / "path"
    path.touch()
    os.truncate(path, 300 * 10**9)
    with pytest.raises(OSError, match=r"has more than 1000 bytes") as refused:
        read(path, 1000)
    assert (refused.value.errno, refused.value.filename) == (errno.EFBIG, str(path))


def test_a_failing_disk_is_told_of_with_the_file(tmp_path):
    """A real EIO: the first page of a process's memory is not mapped."""
    path = tmp_path / "path"
    path.symlink_to("/proc/self/mem")
    with pytest.raises(OSError, match=re.escape(str(path))) as refused:
        read(path, 1000)
    assert refused.value.errno == errno.EIO


def test_what_the_system_does_not_tell_of_may_be_there(tmp_path, monkeypatch):
    """Injected into `os.lstat`; a link to nowhere is there."""
    (tmp_path / "link").symlink_to("nowhere")
    assert is_there(tmp_path / "link")
    assert not is_there(tmp_path / "none")
    assert not is_there(tmp_path / "link" / "below")

    def refuse(path, **_):
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    monkeypatch.setattr(os, "lstat", refuse)
    monkeypatch.setattr(Path, "lstat", refuse)
    assert is_there(tmp_path / "none")


def test_a_refused_write_names_its_file(tmp_path):
    """A real limit; the system itself names no file that is open already."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match=re.escape(f"{tmp_path}/.ledger.json.hallmark-new")):
            replace(tmp_path / "ledger.json", bytes(5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
