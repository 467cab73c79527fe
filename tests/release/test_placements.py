"""Where honest people have a release: each of these places passes, with a line where it is due."""

import os
import shutil
import subprocess
import sys

import mounting
import pytest

from assay.release import verify
from forge.core import canonical, checkout

COMMIT = "0123456789abcdef" * 2 + "01234567"


def verdict(folder, demands):
    said = []
    verify.verify(folder, demands, said.append)
    return said


def command(folder, key, **options):
    return subprocess.run(
        [sys.executable, "-m", "assay", "verify-release", folder, "--key", key,
         "--rehearsal"],
        capture_output=True, check=False, **options,
    )  # fmt: skip


def test_hub_cache(good, demands, tmp_path):
    repository = tmp_path / "models--owner--name"
    snapshot, blobs = repository / "snapshots" / COMMIT, repository / "blobs"
    blobs.mkdir(parents=True)
    for path in sorted(good.folder.rglob("*")):
        inside = path.relative_to(good.folder)
        if path.is_dir():
            continue
        digest = canonical.sha256_file(path)
        blob = digest if path.suffix == ".safetensors" else digest[:40]
        shutil.copy(path, blobs / blob)
        (snapshot / inside).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / inside).symlink_to(f"{'../' * (1 + len(inside.parts))}blobs/{blob}")
    assert "files lie in the hub cache's blobs" in verdict(snapshot, demands)[0]


def test_hard_links(good, demands, tmp_path):
    shutil.copytree(good.folder, tmp_path / "linked", copy_function=os.link)
    try:
        told = verdict(tmp_path / "linked", demands)[0]
    finally:
        shutil.rmtree(tmp_path / "linked")
    assert "have other names elsewhere (hard links), and can be changed" in told


def test_folder_of_the_hub_client(bench, demands):
    """`hf download --local-dir` leaves its notes there."""
    (bench / ".cache/huggingface/download").mkdir(parents=True)
    (bench / ".cache/huggingface/download/config.json.metadata").write_text("", encoding="utf-8")
    assert ".cache/huggingface is the hub client's" in verdict(bench.folder, demands)[0]


def test_a_disk_of_its_own(bench, demands):
    (bench / "lost+found").mkdir(mode=0o700)
    assert "lost+found is the file system's" in verdict(bench.folder, demands)[0]


@pytest.fixture
def clone(bench, tmp_path):
    """The release from a git server, as a Windows user has it who never set anything."""
    plain = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}

    def git(*words):
        subprocess.run(["git", *words], check=True, capture_output=True, env=plain)

    who = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "core.autocrlf=true")
    lfs = ("-c", "filter.lfs.required=false")
    git("init", "-q", str(bench.folder))
    git("-C", str(bench.folder), *who, *lfs, "add", "-A")
    git("-C", str(bench.folder), *who, *lfs, "commit", "-q", "-m", "x")
    git("-c", "core.autocrlf=true", "clone", "-q", str(bench.folder), str(tmp_path / "clone"))
    return tmp_path / "clone"


def test_clone_with_other_line_ends(clone, demands):
    told = verdict(clone, demands)[0]
    assert ".git is git's: nothing in it was looked at" in told


def test_media_that_cannot_be_written(good, bench, demands, tmp_path):
    """A real mount: the release, this checkout and where files would go are all read-only."""
    cache = tmp_path / "cache"
    cache.mkdir()

    def work():
        for folder in (bench.folder, cache, checkout.ROOT):
            mounting.mount_read_only(folder)
            with pytest.raises(OSError, match="Read-only file system"):
                (folder / "x").touch()
        assert verdict(bench.folder, demands)[-1].split()[1] == "pass"
        places = dict.fromkeys(("HOME", "TMPDIR", "XDG_CACHE_HOME"), str(cache))
        key = good.key.with_name("key.pub")
        done = command(bench.folder, key, env={**os.environ, **places}, cwd=bench.folder)
        assert done.returncode == 0, done.stderr
        assert b"is verified" in done.stdout

    mounting.with_mounted({}, work)


@pytest.mark.parametrize("name", ["caf\u00e9 \u65e5\u672c", 'it\'s $HOME `x` "y"'])
def test_paths_of_all_kinds(good, tmp_path, name):
    """In a terminal that shows only ASCII, and whoever else is set up strangely."""
    folder = shutil.copytree(good.folder, tmp_path / name)
    env = {**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C", "HOME": "/nonexistent"}
    done = command(folder, good.key.with_name("key.pub"), env=env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii()
    assert b"is verified" in done.stdout


def test_without_git_and_without_anywhere_to_write(good, tmp_path):
    """Nothing is written, and git is asked only what it can tell."""
    env = {"PATH": str(tmp_path), "HOME": "/proc", "TMPDIR": "/proc", "XDG_CACHE_HOME": "/proc"}
    env |= {"PYTHONDONTWRITEBYTECODE": "1"}
    done = command(good.folder, good.key.with_name("key.pub"), env=env, cwd="/proc")
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
    assert [*tmp_path.iterdir()] == []
