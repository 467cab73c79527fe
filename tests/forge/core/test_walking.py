"""A folder that may not be read is an error: nothing is published by a list that lacks files."""

import os
import re

import pytest

from forge.core import checkout, walking
from forge.core.store import Store


@pytest.fixture
def tree(tmp_path):
    for name in ("b/inner/one", "a", "b/two"):
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / name).write_text(name, encoding="utf-8")
    (tmp_path / "tree" / "link").symlink_to("a")
    (tmp_path / "tree" / "loop").symlink_to(tmp_path / "tree")
    return tmp_path / "tree"


@pytest.fixture
def refused(monkeypatch):
    """Refuses to have folders of this name read, as the system refuses others than root."""
    real = os.scandir

    def scandir(path):
        if str(path).endswith("inner"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)


def test_everything_is_found_and_no_link_followed(tree):
    names = [path.relative_to(tree).as_posix() for path in walking.below(tree)]
    assert names == ["a", "b", "b/inner", "b/inner/one", "b/two", "link", "loop"]
    assert walking.files_below(tree) == ["a", "b/inner/one", "b/two", "link"]


@pytest.mark.usefixtures("refused")
def test_a_folder_that_may_not_be_read(tree, tmp_path):
    """It is told; a result of which a part cannot be listed does not enter the store."""
    with pytest.raises(PermissionError, match="inner"):
        walking.files_below(tree)

    def work(out):
        (out / "inner").mkdir()
        (out / "inner" / "file").write_text("x", encoding="utf-8")

    store = Store(tmp_path / "store")
    facts = {"parameters": {}, "needs": {}, "code": "0" * 64, "distributions": {}, "system": {}}
    with pytest.raises(Exception, match="inner"):
        store.make("step", "key", work, facts)
    assert store.get("step", "key") is None


def test_nothing_is_listed_in_silence():
    """Pathlib's own walks are used where nothing but a display or our own source hangs on them."""
    free = {
        "checkout.py", "closure.py", "family.py", "image.py", "recipe.py", "requirements.py",
        "schemas.py", "summary.py", "walking.py",
    }  # fmt: skip
    for package in checkout.PACKAGES.values():
        for path in package.rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            assert path.name in free or not re.search(r"\.r?glob\(", text), path
