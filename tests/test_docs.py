"""The README is short, shows the tree as it is, and leads to every page."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("docs/*.md"))
LINK = re.compile(r"\]\(([^)#\s]+)(?:#([^)\s]+))?\)")
ROOMS = [
    path.parent.relative_to(ROOT / package).as_posix()
    for package in ("build/forge", "verify/assay")
    for path in sorted((ROOT / package).glob("*/__init__.py"))
]


def test_the_readme_is_short():
    assert len(README.split()) <= 700


@pytest.mark.parametrize("page", PAGES)
def test_the_readme_leads_to_the_page(page):
    assert page in {target for target, _ in LINK.findall(README)}


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "verify/CHECKING.md", *PAGES])
def test_links_lead_somewhere(page):
    """Files of this repository, and headings as GitHub names them."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for target, heading in LINK.findall(text):
        if "://" in target:
            continue
        found = (ROOT / page).parent / target
        assert found.exists(), target
        if heading:
            lines = found.read_text(encoding="utf-8").splitlines()
            names = [line.lstrip("# ").lower() for line in lines if line.startswith("#")]
            assert heading in {re.sub(r"[^\w -]", "", name).replace(" ", "-") for name in names}


def test_every_target_is_among_the_commands():
    """Those that `make help` lists, by which a new one is not forgotten."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):.*##", makefile, flags=re.MULTILINE)) - {"help"}
    commands = (ROOT / "docs/commands.md").read_text(encoding="utf-8")
    assert targets - set(re.findall(r"^\| `make ([a-z-]+)", commands, flags=re.MULTILINE)) == set()


def test_the_tree_has_a_line_for_every_room():
    """In the order of the page: the rooms of forge, then those of assay."""
    _, _, forge = README.partition("build/forge/")
    forge, _, assay = forge.partition("verify/assay/")
    listed = [re.findall(r"^  (\w+)/ ", part, flags=re.MULTILINE) for part in (forge, assay)]
    assert sorted(listed[0]) + sorted(listed[1]) == ROOMS
