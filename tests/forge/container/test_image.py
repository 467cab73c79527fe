"""The image's pins, its name and its labels: what goes into it decides what is recorded of it."""

import re
import shutil
import subprocess

import pytest

from forge.container import image
from forge.core import checkout

OPTIONS = {"base": "b", "base_digest": "sha256:1", "snapshot": "none", "verify": "verify-cpu"}


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A commit with all that the image is made from."""
    for name in image.TREE:
        source = checkout.ROOT / name
        if source.is_dir():
            shutil.copytree(
                source, tmp_path / name, ignore=shutil.ignore_patterns("standins", "__pycache__")
            )
        else:
            shutil.copy(source, tmp_path / name)
    git(tmp_path, "init", "--quiet")
    commit(tmp_path)
    monkeypatch.setattr(checkout, "ROOT", tmp_path)
    monkeypatch.setattr(checkout, "LOCKFILES", tmp_path / "lockfiles")
    return tmp_path


def git(root, *arguments):
    who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    subprocess.run(["git", "-C", str(root), *who, *arguments], check=True, capture_output=True)


def commit(root):
    git(root, "add", "--all")
    git(root, "commit", "--allow-empty", "--message", "x")


def defaults():
    """The Dockerfile's build arguments."""
    text = (checkout.ROOT / "Dockerfile").read_text(encoding="utf-8")
    return dict(re.findall(r"^ARG (\w+)=(.+)$", text, flags=re.MULTILINE))


def test_dockerfile_repeats_the_pins():
    """Base by digest, archive by date, and no time after it."""
    pins = image.pins()
    assert defaults() == {
        "BASE": pins.base.reference,
        "SNAPSHOT": pins.system.snapshot,
        "SOURCE_DATE_EPOCH": str(pins.system.epoch),
        "VERIFY": "verify",
    }
    assert f"{pins.base.name}:{pins.base.tag}" in pins.base.refresh


def test_base_has_the_cuda_of_the_locked_torch():
    """Kernels that are compiled at run time meet the run time library that they were made for."""
    lock = (checkout.LOCKFILES / "verify.txt").read_text(encoding="utf-8")
    (toolkit,) = re.findall(r"^cuda-toolkit==(\d+\.\d+)\.", lock, flags=re.MULTILINE)
    assert image.pins().base.tag.startswith(f"{toolkit}.")


def test_context_is_the_tree():
    """What .dockerignore lets in is what the image's digest of the tree covers."""
    lines = (checkout.ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    let_in = {line[1:] for line in lines if line.startswith("!")}
    assert let_in == {*image.TREE} - {".dockerignore", "Dockerfile"}
    assert "*" in lines


def test_every_run_of_the_dockerfile_clamps_its_times():
    runs = re.findall(
        r"^RUN (?:.*\\\n)*.*$",
        (checkout.ROOT / "Dockerfile").read_text(encoding="utf-8"),
        flags=re.MULTILINE,
    )
    assert len(runs) >= 5
    assert all("/layer " in run and "type=tmpfs,target=/tmp" in run for run in runs)
    assert "\nCOPY " not in (checkout.ROOT / "Dockerfile").read_text(encoding="utf-8")


@pytest.mark.usefixtures("tree")
def test_name_is_the_commit():
    found, dirty = checkout.commit()
    assert not dirty
    assert image.name() == f"hallmark:{found[:12]}"


def test_changed_tree_is_another_image(tree):
    first = image.name()
    (tree / "build/forge/checkpoint/graft.py").write_text("x", encoding="utf-8")
    assert re.fullmatch(f"{first}-[0-9a-f]{{12}}", image.name())
    assert image.labels(**OPTIONS)["hallmark.dirty"] == "true"


@pytest.mark.parametrize("lock", ["tools", "build", "verify-cpu"])
def test_changed_lock_file_is_another_image(tree, lock):
    before = image.labels(**OPTIONS)
    with (tree / f"lockfiles/{lock}.txt").open("a", encoding="utf-8") as file:
        file.write("# another\n")
    after = image.labels(**OPTIONS)
    changed = {key for key in before if before[key] != after[key]}
    assert changed == {f"hallmark.lock.{lock}", "hallmark.tree", "hallmark.dirty"}


def test_other_commit_is_another_image(tree):
    before, name = image.labels(**OPTIONS), image.name()
    commit(tree)
    after = image.labels(**OPTIONS)
    assert {key for key in before if before[key] != after[key]} == {image.REVISION}
    assert name != image.name()


def test_other_base_is_another_image(tree):
    before = image.labels(**OPTIONS)
    after = image.labels(**{**OPTIONS, "base_digest": "sha256:2"})
    assert {key for key in before if before[key] != after[key]} == {image.BASE_DIGEST}
    pinned, wanted = image.pins().base.digest, "sha256:" + "0" * 64
    for name in ("Dockerfile", "lockfiles/images.toml"):
        path = tree / name
        path.write_text(path.read_text(encoding="utf-8").replace(pinned, wanted), encoding="utf-8")
    assert image.pins().base.digest == wanted
    assert image.labels(**OPTIONS)["hallmark.tree"] != before["hallmark.tree"]


def test_bytecode_is_no_part_of_the_tree(tree):
    before = image.tree_digest()
    cache = tree / "build/forge/__pycache__"
    cache.mkdir()
    (cache / "graft.pyc").write_text("x", encoding="utf-8")
    assert image.tree_digest() == before
