"""A build replaces an earlier one, and nothing that is lost by that."""

import shutil

import pytest
from placed import attested, files

from forge.core.errors import StoreError
from forge.manifest.names import ADDED, DOCUMENTS, SIGNATURES
from forge.release.placement import place


@pytest.fixture
def results(built):
    return attested(built)


def test_a_release_is_not_undone(results, tmp_path):
    """Documents, list and signatures stay, and the files that a release made its own."""
    target = tmp_path / "dist" / "variant"
    place(results, target)
    for name in ADDED:
        (target / name).write_text(name, encoding="utf-8")
    for path in [path for path in target.rglob("*") if path.is_file()]:
        own = shutil.copy2(path, tmp_path / "own")
        path.unlink()
        own.rename(path)
    before = files(target)
    assert before == {*results["dress"].digests, "provenance/provenance.json", *ADDED}
    place(results, target)
    assert before == files(target)
    (target / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(StoreError, match="is signed"):
        place(results, target)
    assert before == files(target)
    place(results, target, replace=True)
    assert files(target) == {*results["dress"].digests, "provenance/provenance.json"}


@pytest.mark.parametrize("source", ["standin:x", "standin:y"])
def test_an_edited_file_is_not_replaced(built, tmp_path, source):
    """By the same build or by another; it is named. A file that is the same again is none."""
    target = tmp_path / "out"
    place(attested(built, listed=True), target)
    config, after = target / "config.json", attested(built, source, listed=True)
    same = config.read_bytes()
    for edit in (
        lambda: config.write_text("{}", encoding="utf-8"),
        lambda: config.symlink_to("elsewhere"),
    ):
        config.unlink()
        edit()
        with pytest.raises(StoreError, match=r"changed since \(config\.json\), so") as refused:
            place(after, target)
        assert refused.value.remedy == "replace"
        assert config.is_symlink() or config.read_bytes() == b"{}"
    config.unlink()
    config.write_bytes(same)
    place(after, target)
    assert config.samefile(after["dress"].files / "config.json")
    config.unlink()
    config.write_text("{}", encoding="utf-8")
    place(after, target, replace=True)
    assert config.read_bytes() == same


def test_never_replaces_a_foreign_folder(results, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("x", encoding="utf-8")
    with pytest.raises(StoreError, match="is no earlier build, so it is not replaced"):
        place(results, tmp_path / "home")
    assert files(tmp_path / "home") == {"thesis.txt"}


def test_an_empty_folder_is_taken(results, tmp_path):
    (tmp_path / "out").mkdir()
    place(results, tmp_path / "out")
    assert "config.json" in files(tmp_path / "out")


@pytest.mark.parametrize("name", SIGNATURES)
def test_a_signed_release_is_not_replaced(built, tmp_path, name):
    """Unless that is said; the error names the signatures that would be lost."""
    target = tmp_path / "out"
    place(attested(built), target)
    (target / name).write_text("signature", encoding="utf-8")
    before = files(target)
    with pytest.raises(StoreError, match=rf"out: is signed \({name}\), so") as refused:
        place(attested(built, "standin:y"), target)
    assert (refused.value.remedy, refused.value.facts) == ("replace", {"folder": target})
    assert before == files(target)
    place(attested(built, "standin:y"), target, replace=True)
    assert name not in files(target)


def test_files_that_are_not_a_builds_are_not_replaced(built, tmp_path):
    """Those that a release adds are; of many, the error names some and counts the rest."""
    target = tmp_path / "out"
    place(attested(built), target)
    for name in (*DOCUMENTS, *"123456", "provenance/notes"):
        (target / name).write_text(name, encoding="utf-8")
    (target / "0").symlink_to("nowhere")
    said = r"has files that are not a build's \(0, 1, 2, 3, 4 and 3 more\)"
    with pytest.raises(StoreError, match=said):
        place(attested(built, "standin:y"), target)
    assert (target / "provenance/notes").read_text(encoding="utf-8") == "provenance/notes"
    place(attested(built, "standin:y"), target, replace=True)
    assert not {"0", "1", "README.md"} & files(target)


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [("all", "structure", True), ("all", "none", True), ("none", "all", False)],
)
def test_a_build_that_is_verified_less_is_told(built, said, before, after, told):
    target = built.job.store.root.with_name("out")
    place(attested(built, level=before), target)
    place(attested(built, level=after), target)
    line = f"was verified further ({before!r}) than what replaces it ({after!r})"
    assert any(line in one for one in said) == told
