"""Lists the results of a store, and adds up their bytes by step, each byte once."""

import datetime
import os
import stat
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from forge.core import console, system_errors
from forge.core.errors import FileSystemError, StoreError
from forge.core.results import SHORT, USED, Record, record_of
from forge.core.sizes import size
from forge.core.store import Store
from forge.core.store_folders import APART
from forge.pipeline import STEPS
from forge.storekeeping import contents

_ORDER = {step.name: number for number, step in enumerate(STEPS)}


@dataclass(frozen=True, kw_only=True)
class Inode:
    """Bytes on the disk, under however many names."""

    number: tuple[int, int]
    bytes: int
    names: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Surveyed:
    """A result, and what a survey tells of it.

    `used` is when a build last used it, in seconds since 1970. `inodes` are its files, those that
    links lead to excepted.
    """

    step: str
    key: str
    record: Record
    used: float
    inodes: tuple[Inode, ...]

    def is_need_of(self, other: "Surveyed") -> bool:
        """Whether it has all that another result was made from in this step."""
        needs = other.record.needs.get(self.step)
        outputs = self.record.outputs
        return needs is not None and all(
            path in outputs and outputs[path].sha256 == digest for path, digest in needs.items()
        )

    @property
    def variant(self) -> str | None:
        """The variant that it was made for, if it was made for one alone."""
        found = self.record.parameters.get("variant")
        recipe = self.record.parameters.get("recipe")
        if found is None and isinstance(recipe, dict):
            found = recipe.get("name")
        return found if isinstance(found, str) else None


def survey(store: Store) -> tuple[list[Surveyed], int]:
    """All results with a record, by step and time, in the order of a build.

    What the system does not let be read is said; its number is the second that is returned.
    """
    found = []
    unread: list[OSError] = []
    folders = contents.folders(store, unread)
    said = [system_errors.told(error) for error in unread]
    for folder in folders:
        try:
            record = record_of(folder)
            if record is None or (record.step, record.key) != (folder.parent.name, folder.name):
                continue
            found.append(
                Surveyed(
                    step=record.step,
                    key=record.key,
                    record=record,
                    used=last_used(folder, record),
                    inodes=tuple(inodes_of(folder)),
                )
            )
        except StoreError as error:
            said.append(str(error))
        except OSError as error:
            said.append(system_errors.told(error))
    for text in said:
        console.say(text)
    found.sort(key=lambda one: (_order(one.step), one.record.finished, one.key))
    return found, len(said)


def needs_of(one: Surveyed, results: Iterable[Surveyed]) -> list[Surveyed]:
    """What a result was made from: of each step the last used of those that have all of it."""
    newest: dict[str, Surveyed] = {}
    for other in sorted(results, key=lambda each: (each.used, each.record.finished)):
        if other.is_need_of(one):
            newest[other.step] = other
    return list(newest.values())


def lines(store: Store, *, full: bool = False) -> Iterator[str]:
    """A line a result: step, key, when it was finished, bytes, variants, and who shares it.

    Raises:
        FileSystemError: at the end, if the system did not let something be read.
    """
    results, unread = survey(store)
    variants = _variants(results)
    within = names_within(results)
    for one in results:
        yield "  ".join(
            (
                f"{one.step:<10}",
                one.key if full else one.key[:SHORT],
                one.record.finished.replace("T", " ")[:16],
                f"{size(sum(inode.bytes for inode in one.inodes)):>10}",
                "shared" if _is_shared(one, within) else "      ",
                ", ".join(sorted(variants[one])) or "-",
            )
        )
    if unread:
        raise FileSystemError(f"{store.root}: {unread} results or folders could not be read.")


def sizes(store: Store) -> list[str]:
    """Bytes by step and by what else lies there; what has several names counts at the first."""
    seen: set[tuple[int, int]] = set()
    steps = {folder.parent.name for folder in contents.folders(store)}
    names = [*sorted(steps, key=_order), *sorted(APART)]
    rows = []
    for name in names:
        own = {one.number: one.bytes for one in inodes_of(store.root / name)}
        fresh = {number: count for number, count in own.items() if number not in seen}
        seen |= fresh.keys()
        rows.append((name, sum(fresh.values())))
    rows.append(("in all", sum(count for _, count in rows)))
    return [f"{name:<10}  {size(count):>10}" for name, count in rows]


def names_within(results: Iterable[Surveyed]) -> Counter[tuple[int, int]]:
    """How many names the bytes of these results have in them, by inode."""
    return Counter(inode.number for one in results for inode in one.inodes)


def inodes_of(path: Path) -> Iterator[Inode]:
    """The files at or below a path, once a name; what goes meanwhile is left out."""
    if path.is_file():
        yield from _inode(path)
    for folder, _, names in os.walk(path):
        for name in names:
            yield from _inode(Path(folder, name))


def _inode(path: Path) -> Iterator[Inode]:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if stat.S_ISREG(found.st_mode):
        yield Inode(number=(found.st_dev, found.st_ino), bytes=found.st_size, names=found.st_nlink)


def last_used(folder: Path, record: Record) -> float:
    """When a build last used a result. Stores of earlier versions noted no use."""
    try:
        return (folder / USED).lstat().st_mtime
    except FileNotFoundError:
        return datetime.datetime.fromisoformat(record.finished).timestamp()


def _variants(results: Iterable[Surveyed]) -> Mapping[Surveyed, set[str]]:
    """The variants that each result was used for, as far as later results tell."""
    results = list(results)
    found: defaultdict[Surveyed, set[str]] = defaultdict(set)
    for one in results:
        if one.variant is not None:
            for other in (one, *needs_of(one, results)):
                found[other].add(one.variant)
    return found


def _is_shared(one: Surveyed, within: Mapping[tuple[int, int], int]) -> bool:
    """Whether its bytes have a name outside the store, such as in dist/."""
    return any(inode.names > within[inode.number] for inode in one.inodes)


def _order(step: str) -> tuple[int, str]:
    return _ORDER.get(step, len(_ORDER)), step
