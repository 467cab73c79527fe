"""The room on a disk is asked of the system, for a folder that need not be there yet."""

import pytest

from forge.core import disk
from forge.core.errors import SpaceError


def test_what_does_not_fit_is_refused_with_the_sums(tmp_path):
    """Really asked: no disk has a petabyte free."""
    fault = (
        rf"^the build takes 1125899\.907 GB, and [\d.]+ GB are free at {tmp_path}\. "
        r"Nothing was written\."
    )
    with pytest.raises(SpaceError, match=fault):
        disk.require(tmp_path / "not" / "there", 1 << 50, "the build")


def test_what_fits_is_not(tmp_path):
    disk.require(tmp_path / "not" / "there", 1, "the build")
    assert list(tmp_path.iterdir()) == []


def test_the_last_byte_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(disk, "free", lambda _: 1000)
    disk.require(tmp_path, 1000, "the build")
    with pytest.raises(SpaceError, match=r"takes 0\.001 MB, and 0\.001 MB are free"):
        disk.require(tmp_path, 1001, "the build")
