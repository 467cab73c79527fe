"""No option loosens a policy, no number is without bounds, and the release vouches for nothing."""

import shutil
import subprocess
import sys

import pytest

from assay.release import policy
from forge.core.errors import ReleaseError


@pytest.fixture
def of_two(tmp_path):
    """A policy that demands two rebuilders."""
    (tmp_path / "policy.toml").write_text("reproductions = 2\n", encoding="utf-8")
    return tmp_path / "policy.toml"


@pytest.mark.parametrize("count", [0, 1])
def test_a_policy_is_not_loosened(of_two, count):
    with pytest.raises(ReleaseError, match=f"demands 2 rebuilders, and no option .* not {count}"):
        policy.demanded(of_two, rehearsal=False, reproduced=count)


@pytest.mark.parametrize("count", [2, 3])
def test_a_policy_is_tightened(of_two, count):
    made = policy.demanded(of_two, rehearsal=False, reproduced=count)
    assert made.reproductions == count


def test_what_is_left_out_is_the_policys(of_two):
    assert policy.demanded(of_two, rehearsal=False).reproductions == 2


@pytest.mark.parametrize("count", [-1, 1001, 10**30])
@pytest.mark.parametrize("file", [True, False])
def test_a_number_of_rebuilders_has_bounds(of_two, count, file):
    with pytest.raises(ReleaseError, match=f"{count} rebuilders cannot be demanded; from 0 to"):
        policy.demanded(of_two if file else None, rehearsal=False, reproduced=count)


NUMBERS = {
    "reproductions": ("-1", "1001", "1.0"),
    "max_age_days": ("0", "-1", "36501", "1.5"),
    "max_rebuild_age_days": ("0", "-1", "36501", "1.5"),
    "max_perplexity_ratio": ("-1", "0", "0.0", "-0.0", "100.1", "5e-400"),
    "min_mtp_speedup": ("-1", "0", "-0.0", "100.1", "5e-400"),
}


@pytest.mark.parametrize("value", ["inf", "-inf", "nan", "1e999", "1" + "0" * 400, "true", "'1'"])
@pytest.mark.parametrize("key", [*NUMBERS, "min_acceptance"])
def test_numbers_of_a_policy_are_finite_numbers(tmp_path, key, value):
    """A demand that everything meets is no demand."""
    text = f"[{value}]" if key == "min_acceptance" else value
    (tmp_path / "policy.toml").write_text(f"{key} = {text}", encoding="utf-8")
    with pytest.raises(ReleaseError, match=rf"policy.toml: {key}(\.0)?: "):
        policy.read(tmp_path / "policy.toml")


@pytest.mark.parametrize(
    "text",
    [
        *(f"{key} = {value}" for key, values in NUMBERS.items() for value in values),
        "rebuild_commits = ['main']", "rebuild_commits = ['']", "min_acceptance = [1.5]",
        "min_acceptance = [-0.1]", f"min_acceptance = {[0.5] * 17}", "builders = []",
        "builders = ['']", f"builders = ['{'a' * 301}']",
    ],
)  # fmt: skip
def test_numbers_of_a_policy_have_bounds(tmp_path, text):
    (tmp_path / "policy.toml").write_text(text, encoding="utf-8")
    with pytest.raises(ReleaseError, match=text.partition(" ")[0]):
        policy.read(tmp_path / "policy.toml")


def test_what_lies_in_the_release_vouches_for_nothing(tmp_path, monkeypatch):
    release, apart = tmp_path / "release", tmp_path / "apart"
    (release / "provenance").mkdir(parents=True)
    apart.mkdir()
    inside, outside = release / "provenance" / "key.pub", apart / "key.pub"
    inside.touch()
    outside.touch()
    (apart / "to-inside").symlink_to(inside)
    (release / "to-outside").symlink_to(outside)
    (tmp_path / "link").symlink_to(release)
    policy.require_outside(release, [outside])
    policy.require_outside(tmp_path / "link", [outside])
    monkeypatch.chdir(release)
    for folder in (release, tmp_path / "link", release.relative_to(release)):
        for path in (
            inside, apart / "to-inside", release / "to-outside", release / ".." / "release" / "x",
            tmp_path / "link" / "x", inside.relative_to(release), release,
        ):  # fmt: skip
            with pytest.raises(ReleaseError, match="lies in the release .*, and what lies there"):
                policy.require_outside(folder, [outside, path])


@pytest.mark.parametrize("option", ["--key", "--policy", "--statement", "--rebuilder"])
def test_command_line_refuses_what_lies_in_the_release(bench, option):
    """Before it is read, whatever it is."""
    key = shutil.copy(bench.key.with_name("key.pub"), bench / "key.pub")
    trusted = () if option == "--key" else ("--key", bench.key.with_name("key.pub"))
    done = subprocess.run(
        [sys.executable, "-m", "assay", "verify-release", bench.folder, *trusted, option, key],
        capture_output=True, encoding="utf-8", check=False,
    )  # fmt: skip
    assert done.returncode == 41
    assert "lies in the release" in done.stderr
    assert done.stdout == ""
