"""What the system refuses of a file is told by the system, with its name; exit 17."""

import errno
from pathlib import Path

import pytest

from forge.core import files, system_errors


def test_a_read_that_fails_names_the_file():
    """Of a file that is open, the system names none. A process has no memory at 0."""
    with pytest.raises(OSError, match="Input/output error") as refused:
        files.sha256_of(Path("/proc/self/mem"))
    assert refused.value.errno == errno.EIO
    assert system_errors.told(refused.value).startswith("/proc/self/mem: Input/output error")


@pytest.mark.parametrize(
    "look",
    [
        files.names_in,
        files.sha256_of,
        lambda path: files.stamps({"x": path}),
        lambda path: files.hash_files({"x": path}, [("x", 1, 1)]),
    ],
)
def test_what_is_not_there(tmp_path, look):
    with pytest.raises(FileNotFoundError) as refused:
        look(tmp_path / "gone")
    assert system_errors.concerns_files(refused.value)
    assert refused.value.filename == str(tmp_path / "gone")


def test_no_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        files.names_in(tmp_path / "file")
