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
    with pytest.raises(SourceError, match="git names no commit of it .fatal: not a git"):
        checkout.require_commit()


def test_another_repository_is_not_asked(clean, monkeypatch):
    """Neither one that the checkout lies in, nor one that a hook's variables name."""
    within = clean / "ignored"
    within.mkdir()
    monkeypatch.setattr(checkout, "ROOT", within)
    assert checkout.commit() == ("unknown", True)
    monkeypatch.setenv("GIT_DIR", str(clean / ".git"))
    assert checkout.commit() == ("unknown", True)
    monkeypatch.setattr(checkout, "ROOT", clean)
    monkeypatch.setenv("GIT_DIR", str(within))
    assert checkout.commit()[0] != "unknown"


REFUSAL = "fatal: detected dubious ownership in repository at 'x'"


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (None, "git cannot be started: No such file or directory"),
        (f'#!/bin/sh\necho "{REFUSAL}\nTo add" >&2; exit 128\n', REFUSAL),
        ("#!/bin/sh\nexit 3\n", "git exits with 3"),
    ],
)
@pytest.mark.usefixtures("clean")
def test_git_that_does_not_answer(tmp_path_factory, monkeypatch, script, reason):
    """A rehearsal does without it; a real build is told why."""
    folder = tmp_path_factory.mktemp("bin")
    if script:
        (folder / "git").write_text(script, encoding="utf-8")
        (folder / "git").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    assert checkout.commit() == ("unknown", True)
    with pytest.raises(SourceError, match="git names no commit of it") as refused:
        checkout.require_commit()
    assert f"({reason})" in str(refused.value)


def test_environment_that_was_not_made():
    with pytest.raises(NoEnvironmentError, match="there is no environment 'nonesuch'"):
        checkout.python_of("nonesuch")
