"""`make lock` completes the pins of a recipe and changes nothing else in its file."""

import pytest
from conftest import FLAGSHIP
from hub_server import serve

from forge.core.errors import FetchError, RecipeError
from forge.inputs import pins
from forge.recipes import recipe
from forge.recipes.recipe import VARIANTS

REPO = "neuralmagic/calibration"
COMMITS = ["fb6bc2f" + "0" * 33, "1" * 40, "2" * 40, "fb6bc20" + "0" * 33, "3" * 40]
FULL = COMMITS[0]
KNOWN = '{ unresolved = "fb6bc2f" }'


@pytest.fixture
def hub():
    with serve() as running:
        for commit in COMMITS:
            running.add(REPO, {}, kind="dataset", commit=commit)
        yield running


@pytest.fixture
def file(tmp_path, monkeypatch):
    """A copy of the flagship's recipe whose calibration is known as fb6bc2f only."""
    monkeypatch.setattr(recipe, "VARIANTS", tmp_path)
    text = (VARIANTS / f"{FLAGSHIP}.toml").read_bytes().decode()
    start = text.index("revision = ", text.index("[calibration.sets.llm]"))
    end = text.index("\n", start)
    file = tmp_path / f"{FLAGSHIP}.toml"
    # A comment and odd spaces, which must survive.
    line = f"revision  =  {KNOWN}  # the LLM half"
    file.write_bytes((text[:start] + line + text[end:]).encode())
    return file


def lock(hub):
    return pins.lock(FLAGSHIP, endpoint=hub.url)


def test_an_abbreviation_is_completed(hub, file):
    """The value alone is replaced, byte for byte, through every page of the history."""
    before = file.read_bytes()
    changes = lock(hub)

    assert file.read_bytes() == before.replace(KNOWN.encode(), f'"{FULL}"'.encode())
    assert recipe.find(FLAGSHIP).calibration.sets["llm"].revision == FULL
    assert len(changes) == 1
    assert f"calibration.sets.llm: {REPO} is now {FULL}" in changes[0]
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_a_locked_recipe_is_left_alone(hub, file):
    lock(hub)
    before = file.read_bytes()
    hub.requests.clear()

    assert lock(hub) == []
    assert file.read_bytes() == before
    assert not hub.requests


@pytest.mark.parametrize("known", ["", "main"])
def test_without_a_commit_the_head_is_taken_and_said(hub, file, known):
    file.write_text(file.read_text(encoding="utf-8").replace("fb6bc2f", known), encoding="utf-8")
    (change,) = lock(hub)

    assert COMMITS[-1] in change
    assert "the head of 'main' today; no commit was known" in change


@pytest.mark.parametrize(("known", "number"), [("fb6bc2", 2), ("abcdef0", 0)])
def test_an_abbreviation_of_none_or_two_is_refused(hub, file, known, number):
    """The file stays as it was."""
    file.write_text(file.read_text(encoding="utf-8").replace("fb6bc2f", known), encoding="utf-8")
    before = file.read_bytes()
    with pytest.raises(FetchError, match=f"{number} of the 5 commits on main begin with '{known}'"):
        lock(hub)
    assert file.read_bytes() == before


def test_a_pin_spelled_in_another_way_is_refused(hub, file):
    """Rather than guess, it says what to write."""
    line = f"revision  =  {KNOWN}"
    file.write_text(
        file.read_text(encoding="utf-8").replace(line, 'revision.unresolved = "fb6bc2f"'),
        encoding="utf-8",
    )
    with pytest.raises(RecipeError, match=r"\[calibration\.sets\.llm\] has no line .* by hand"):
        lock(hub)


def test_a_donors_pin_is_completed_too(hub, file):
    """Its table is [mtp.donor]; the role is `donor`."""
    hub.add("acme/donor", {}, commit="d" * 40)
    donor = (
        '\n[mtp.donor]\nrepo = "acme/donor"\nrevision = {unresolved = ""}\n'
        'files = ["mtp.safetensors", "config.json"]\n\n[calibration]'
    )
    text = file.read_text(encoding="utf-8").replace('source = "base"', 'source = "donor"')
    file.write_text(text.replace("\n[calibration]", donor), encoding="utf-8")

    assert len(lock(hub)) == 2
    assert recipe.find(FLAGSHIP).sources["donor"].revision == "d" * 40


def test_a_hub_that_refuses_leaves_the_file(hub, file):
    hub.refusals[REPO] = (403, "GatedRepo")
    before = file.read_bytes()
    with pytest.raises(FetchError, match="has it behind terms"):
        lock(hub)
    assert file.read_bytes() == before


def test_an_unknown_variant_is_refused(hub, file):
    assert file.is_file()
    with pytest.raises(RecipeError, match="no variant 'other'"):
        pins.lock("other", endpoint=hub.url)
