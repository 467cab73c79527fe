"""What a module can reach: every way to name another one, and the distributions behind the rest."""

import pytest

from forge.core import checkout, closure

FORGE = {
    "__init__.py": '"""The package."""',
    "room/__init__.py": "",
    "room/start.py": '''
"""Mentions forge.room.only_told in its documentation."""
from typing import TYPE_CHECKING

import json
import alpha.part
from forge.room import direct
from forge.room.other import thing

if TYPE_CHECKING:
    from forge.room import for_types

ENGINES = {"one": "forge.room.by_name"}
TEMPLATES = "templates"

def late():
    from beta import something
    from forge.room import in_function
''',
    "room/direct.py": "import forge.elsewhere.deep",
    "room/other.py": "thing = 1",
    "room/for_types.py": "",
    "room/by_name.py": "",
    "room/in_function.py": "",
    "room/only_told.py": "",
    "room/unused.py": "import gamma",
    "room/templates/page.jinja": "hello",
    "elsewhere/__init__.py": "",
    "elsewhere/deep.py": "",
}
REACHED = {
    "__init__.py", "room/__init__.py", "room/start.py", "room/direct.py", "room/other.py",
    "room/by_name.py", "room/in_function.py", "room/templates/page.jinja",
    "elsewhere/__init__.py", "elsewhere/deep.py",
}  # fmt: skip


def forget():
    """A build reads its source once; these tests change theirs."""
    for remembered in (closure._scan, closure._owners, checkout.source_digests):
        remembered.cache_clear()


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A small package in the place of forge."""
    folder = tmp_path / "build" / "forge"
    for name, text in FORGE.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    monkeypatch.setattr(checkout, "ROOT", tmp_path)
    monkeypatch.setattr(checkout, "PACKAGES", {"forge": folder})
    forget()
    yield folder
    forget()


def reached(tree):
    found = closure.of("forge.room.start")
    return {path.relative_to(tree).as_posix() for path in found.files}


def test_every_way_to_name_a_module_counts(tree):
    """In functions, by a string, through packages; not for types alone, not in documentation."""
    assert reached(tree) == REACHED
    assert closure.of("forge.room.start").packages == ("alpha", "beta")


@pytest.mark.parametrize("name", sorted(FORGE))
def test_the_digest_moves_with_what_is_reached_and_with_nothing_else(tree, name):
    before = closure.of("forge.room.start").code()
    path = tree / name
    path.write_text(path.read_text(encoding="utf-8") + "\n# another line\n", encoding="utf-8")
    forget()
    assert (before != closure.of("forge.room.start").code()) == (name in REACHED)


def test_a_new_import_is_followed(tree):
    (tree / "room/other.py").write_text(
        "from forge.room import unused\nthing = 1", encoding="utf-8"
    )
    found = closure.of("forge.room.start")
    assert "gamma" in found.packages
    assert "room/unused.py" in reached(tree)


@pytest.mark.usefixtures("tree")
def test_a_module_that_is_not_there():
    with pytest.raises(ModuleNotFoundError, match=r"forge\.room\.nothing"):
        closure.of("forge.room.nothing")


def test_a_relative_import_is_refused(tree):
    """It would not be seen."""
    (tree / "room/other.py").write_text("from . import unused\nthing = 1", encoding="utf-8")
    with pytest.raises(SyntaxError, match="relative imports"):
        closure.of("forge.room.start")


def install(site, name, version, *, imports=(), requires=()):
    """A distribution as an installer leaves it."""
    info = site / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    needed = "".join(f"Requires-Dist: {one}\n" for one in requires)
    (info / "METADATA").write_text(f"Name: {name}\nVersion: {version}\n{needed}", encoding="utf-8")
    (info / "top_level.txt").write_text("".join(f"{one}\n" for one in imports), encoding="utf-8")


@pytest.fixture
def site(tmp_path, monkeypatch):
    """An environment with these distributions alone."""

    def make(name, **versions):
        folder = tmp_path / name
        install(folder, "Alpha_Dist", versions.get("alpha", "1.0"), imports=["alpha"],
                requires=["common>=1", "extra[fast]", 'never; python_version < "3"'])  # fmt: skip
        install(folder, "common", versions.get("common", "2.0"))
        install(folder, "extra", "3.0", requires=['quick; extra == "fast"', 'slow; extra == "x"'])
        install(folder, "quick", "4.0")
        install(folder, "slow", "5.0")
        install(folder, "never", "6.0")
        install(folder, "unrelated", versions.get("unrelated", "7.0"), imports=["unrelated"])
        monkeypatch.setattr("sys.path", [str(folder)])
        forget()
        return closure.of("forge.room.start").distributions()

    yield make
    monkeypatch.undo()
    forget()


@pytest.mark.usefixtures("tree")
def test_distributions_are_those_imported_and_what_they_require(site):
    """By markers and extras; beta is not installed, so it has no version."""
    assert site("one") == {"alpha-dist": "1.0", "common": "2.0", "extra": "3.0", "quick": "4.0"}


@pytest.mark.usefixtures("tree")
def test_environments_that_agree_on_them_are_one(site):
    one = site("one")
    assert one == site("two", unrelated="7.1")
    assert one != site("three", common="2.1")
    assert one != site("four", alpha="1.1")
