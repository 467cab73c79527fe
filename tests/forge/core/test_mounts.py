"""What is mounted is known from the kernel, whatever the paths are called."""

from pathlib import Path

import pytest
from mounting import with_mounted

from forge.core import filesystem, mounts
from forge.core.mounts import Mount, mounted, parsed, require_none

# As the kernel writes them (proc(5)): in a path, these four are escaped, and nothing else.
LINES = rb"""22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
36 22 0:36 / /a\040b\011c\012d\134e rw master:1 propagate_from:2 - tmpfs none rw,size=128k
37 22 8:1 /x /odd%s\134040 ro - ext4 /dev/sda1 rw
"""
ODD = "\r\v\u2028\udcff"  # ends of lines to Python, and a byte that is no UTF-8


def test_as_the_kernel_writes_them():
    assert parsed(LINES % ODD.encode(errors="surrogateescape")) == [
        Mount(point=Path("/"), kind="ext4", options=frozenset({"rw", "relatime"})),
        Mount(
            point=Path("/a b\tc\nd\\e"),
            kind="tmpfs",
            options=frozenset({"rw", "size=128k"}),
        ),
        Mount(point=Path(f"/odd{ODD}\\040"), kind="ext4", options=frozenset({"rw", "ro"})),
    ]


@pytest.mark.parametrize("name", ["plain", "a b\tc\nd\\e \\040", ODD])
def test_what_is_mounted_for_real(tmp_path, name):
    """Another folder of the same file system. At, below and above, beside and elsewhere."""
    point, source = tmp_path / "out" / name, tmp_path / "mine"
    point.mkdir(parents=True)
    source.mkdir()

    def found():
        assert point in [one.point for one in mounted()]
        with pytest.raises(OSError, match="is a mount point, so nothing can be put") as refused:
            require_none(point)
        assert refused.value.filename == str(point)
        for folder in (point.parent, tmp_path):
            with pytest.raises(OSError, match="is a mount point in .*Unmount it") as refused:
                require_none(folder)
            assert refused.value.filename == str(point)
        for free in (source, point / "below", tmp_path / "out2", tmp_path / "none"):
            require_none(free)

    with_mounted({point: source}, found)
    require_none(tmp_path)


def test_a_system_that_does_not_tell(tmp_path, monkeypatch):
    """Nothing is taken for free of mounts."""
    monkeypatch.setattr(mounts, "_HERE", tmp_path / "none")
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileNotFoundError, match="none"):
        filesystem.remove_tree(tmp_path / "folder")
    assert (tmp_path / "folder").is_dir()
