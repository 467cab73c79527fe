"""The logs of a failed step are kept, and a place that refuses them hides no error."""

import pytest

from forge.core import failures


@pytest.fixture
def out(tmp_path):
    """What a step left."""
    folder = tmp_path / "out"
    (folder / "more").mkdir(parents=True)
    for name in ("step.log", "more/b.log", "big.safetensors"):
        (folder / name).write_text(name, encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("logs", "names"),
    [
        (("step.log",), ["step.log"]),
        (("",), ["big.safetensors", "more/b.log", "step.log"]),
    ],
)
def test_what_is_kept(tmp_path, out, logs, names):
    """In place of another failure's; nothing lies beside it."""
    folder = tmp_path / "failed" / "variant"
    folder.mkdir(parents=True)
    (folder / "old.log").touch()
    assert failures.keep(folder, out, logs) == f"Kept in {folder}: {', '.join(names)}."
    for name in names:
        assert (folder / name).read_text(encoding="utf-8") == name
    found = [path for path in folder.rglob("*") if path.is_file()]
    assert len(found) == len(names)
    assert [path.name for path in folder.parent.iterdir()] == ["variant"]


def test_a_step_without_logs(tmp_path, out):
    assert not failures.keep(tmp_path / "failed" / "variant", out, ("other.log",))
    assert not (tmp_path / "failed").exists()


def test_a_refused_place_is_told(tmp_path, out):
    """It is no error of its own."""
    (tmp_path / "failed").touch()
    folder = tmp_path / "failed" / "variant"
    said = failures.keep(folder, out, ("step.log",))
    assert said == f"Its logs could not be kept: {tmp_path / 'failed'}: Not a directory"
    failures.clear(folder)  # there is nothing


def test_what_placing_refuses_is_told_as_well(tmp_path, out, monkeypatch):
    """Something lies beside the place that a killed process had put aside."""
    said = []
    monkeypatch.setattr(failures.console, "say", said.append)
    folder = tmp_path / "failed" / "variant"
    folder.mkdir(parents=True)
    beside = folder.with_name(f".{folder.name}.hallmark-old")
    for one in (folder, beside):
        one.mkdir(exist_ok=True)
        (one / "file").touch()
    folder.with_name(f".{folder.name}.hallmark-new").mkdir()
    kept = failures.keep(folder, out, ("step.log",))
    failures.clear(folder)
    reason = f"{folder}: stands where {beside} belongs"
    assert kept.startswith(f"Its logs could not be kept: {reason}")
    assert said[0].startswith(f"What an earlier failure left is not removed: {reason}")
    assert (folder / "file").exists()


def test_clearing(tmp_path, out):
    folder = tmp_path / "failed" / "variant"
    failures.clear(folder)
    assert not folder.parent.exists()
    failures.keep(folder, out, ("",))
    failures.clear(folder)
    assert not list(folder.parent.iterdir())
