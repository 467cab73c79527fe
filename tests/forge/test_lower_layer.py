"""A store that came with an image: its folders cannot be renamed, and all is done all the same."""

import subprocess
import sys

import pytest

from forge.core.store import Store

# Results of the lower layer: one that is damaged, one whose record is none, one that is sound.
ON_LAYERS = """
import errno, os, sys
from pathlib import Path
from forge.core.store import Store
from forge.storekeeping import fsck
root, way = Path(sys.argv[1]), sys.argv[2]
if way == "injected":
    real = os.rename
    def rename(old, new, **named):
        if Path(old).parent.parent == root:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(old), None, str(new))
        real(old, new, **named)
    os.rename = rename
else:
    try:
        os.rename(root / "step/sound", root / "step/other")
    except OSError as error:
        assert error.errno == errno.EXDEV
store = Store(root)
def make(key):
    store.make("step", key, lambda out: (out / "file").write_text("data") and None, {})
for key in ("changed", "record"):
    assert store.get("step", key) is None
    assert not (root / "step" / key).exists()
    make(key)
    assert store.get("step", key) is not None
(aside,) = (root / "aside").iterdir()
assert sorted(path.relative_to(aside).as_posix() for path in aside.rglob("*")) == [
    "files", "files/deep", "files/deep/file", "files/file", "files/link", "record.json", "used",
], list(aside.rglob("*"))
assert (aside / "record.json").read_text() == "{"
assert os.readlink(aside / "files/link") == "nowhere"
assert store.discard("step", "sound", unless=lambda: False)
assert not (root / "step/sound").exists()
store.clear()
assert list((root / "trash").iterdir()) == []
make("sound")
fsck.fsck(store)
print(way)
"""


@pytest.mark.parametrize("way", ["overlay", "injected"])
def test_folders_that_cannot_be_renamed(tmp_path, way):
    """On a real overlay; where none can be mounted, the error is raised in the rename's place."""
    lower = Store(tmp_path / "lower")

    def work(out):
        (out / "deep").mkdir()
        for name in ("file", "deep/file"):
            (out / name).write_bytes(b"data")

    for key in ("changed", "record", "sound"):
        lower.make("step", key, work, {})
    (lower.root / "step/changed/files/file").write_bytes(b"edited")
    (lower.root / "step/record/record.json").write_text("{", encoding="utf-8")
    (lower.root / "step/record/files/link").symlink_to("nowhere")
    top, merged = tmp_path / "top", tmp_path / "merged"
    top.mkdir()
    merged.mkdir()
    mount = (
        f"mount -t tmpfs none '{top}' && mkdir '{top}/upper' '{top}/work' && mount -t overlay -o "
        f"'userxattr,lowerdir={lower.root},upperdir={top}/upper,workdir={top}/work' "
        f"none '{merged}'"
    )
    alone = ["unshare", "-rm", "sh", "-c", f'{mount} && exec "$@"', "sh"]
    if way == "overlay" and subprocess.run([*alone, "true"], check=False).returncode:
        way = "injected"
    words = [sys.executable, "-c", ON_LAYERS]
    words = [*alone, *words, merged, way] if way == "overlay" else [*words, lower.root, way]
    done = subprocess.run(words, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{way}\n"
