"""Completes the pins of a recipe: asks the hub for the commits that are not known in full.

A pin is data in the recipe's own file, so it is put there: only the unresolved values change,
every comment and every other byte stays.
"""

import re
from pathlib import Path

from huggingface_hub import HfApi

from forge.core import placing
from forge.core.errors import FetchError, RecipeError
from forge.core.hub_client import api, history, newest
from forge.inputs.hub import explained
from forge.recipes import recipe
from forge.recipes.sources import Source, Unresolved

# What git takes for an abbreviated commit; anything else is a branch or a tag.
_ABBREVIATION = re.compile(r"[0-9a-f]{4,39}")
_TABLE = re.compile(r"\[{1,2}\s*([\w.-]+)\s*\]{1,2}\s*(?:#.*)?")
_REVISION = re.compile(r"(\s*revision\s*=\s*)\{\s*unresolved\s*=\s*(?:\"[^\"]*\"|'[^']*')\s*\}")
_TABLES = {"donor": "mtp.donor"}


def lock(variant: str, *, endpoint: str | None = None) -> list[str]:
    """Resolves every unresolved revision of a variant, rewrites its file, says what changed.

    The file is replaced whole and only by one that loads; on any error it is as it was.

    Raises:
        FetchError: the hub cannot be asked, or knows no such commit, or more than one.
        RecipeError: there is no such variant, or its file spells a pin in another way than
            `revision = { unresolved = "..." }`.
    """
    client = api(endpoint)
    sources = recipe.find(variant).sources
    path = recipe.VARIANTS / f"{variant}.toml"
    text, changes = path.read_bytes().decode(), []
    for role, source in sources.items():
        if isinstance(source.revision, Unresolved):
            commit, how = _resolve(client, source, source.revision.unresolved)
            text = _rewrite(path, text, _TABLES.get(role, role), commit)
            changes.append(f"{role}: {source.repo} is now {commit} ({how})")
    if changes:
        _replace(path, text)
    return changes


def _resolve(client: HfApi, source: Source, known: str) -> tuple[str, str]:
    """The full commit of what is known of it, and in words how it was found."""
    if _ABBREVIATION.fullmatch(known):
        return _complete(client, source, known), f"the one commit on main that begins {known!r}"
    branch = known or "main"
    with explained(source, client.endpoint):
        head = newest(client, source.repo, branch, source.kind)
    return head, f"the head of {branch!r} today; no commit was known"


def _complete(client: HfApi, source: Source, known: str) -> str:
    with explained(source, client.endpoint):
        commits = history(client, source.repo, source.kind)
    found = [commit for commit in commits if commit.startswith(known)]
    if len(found) != 1:
        raise FetchError(
            f"{source.kind} {source.repo}: {len(found)} of the {len(commits)} commits on main "
            f"begin with {known!r}{': ' if found else ''}{', '.join(found)}. Put the full commit "
            "into the recipe by hand."
        )
    return found[0]


def _rewrite(path: Path, text: str, table: str, commit: str) -> str:
    """The text with the unresolved revision of one table replaced, all else byte for byte."""
    current, lines = "", text.splitlines(keepends=True)
    for number, line in enumerate(lines):
        if header := _TABLE.fullmatch(line.strip()):
            current = header[1]
        elif current == table and (match := _REVISION.match(line)):
            lines[number] = f'{match[1]}"{commit}"{line[match.end() :]}'
            return "".join(lines)
    raise RecipeError(
        f'{path}: [{table}] has no line `revision = {{ unresolved = "..." }}` to complete. '
        f'Write it so, or put there `revision = "{commit}"` by hand.'
    )


def _replace(path: Path, text: str) -> None:
    """Puts the text in place of the file if it loads as a fully pinned recipe, in one rename."""
    with placing.scratch(path) as folder:
        draft = folder / path.name
        draft.write_bytes(text.encode())
        recipe.load(draft).require_pins()
    placing.write(path, text.encode())
