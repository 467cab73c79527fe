"""A real build is made from a commit that a stranger can check out."""

import subprocess

import pytest

from forge.core import checkout
from forge.core.errors import NoEnvironmentError, SourceError


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setattr(checkout, "ROOT", tmp_path)
    return tmp_path


def git(root, *arguments):
    who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    subprocess.run(["git", "-C", str(root), *who, *arguments], check=True, capture_output=True)


@pytest.fixture
def clean(root):
    git(root, "init")
    (root / "file").write_text("x", encoding="utf-8")
    git(root, "add", "file")
    git(root, "commit", "-m", "first")
    return root


@pytest.mark.usefixtures("clean")
def test_clean_commit():
    found, dirty = checkout.commit()
    assert (len(found), dirty) == (40, False)
    checkout.require_commit()


@pytest.mark.parametrize("name", ["file", "untracked"])
def test_changes_are_refused(clean, name):
    (clean / name).write_text("y", encoding="utf-8")
    with pytest.raises(SourceError, match="differs from its commit"):
        checkout.require_commit()


@pytest.mark.usefixtures("root")
def test_no_checkout_is_refused():
    assert checkout.commit() == ("unknown", True)
    with pytest.raises(SourceError, match="is no git checkout"):
        checkout.require_commit()


def test_environment_that_was_not_made():
    with pytest.raises(NoEnvironmentError, match="there is no environment 'nonesuch'"):
        checkout.python_of("nonesuch")
