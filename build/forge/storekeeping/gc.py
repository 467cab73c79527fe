"""Removes results that nothing needs, and what the killed left, beside running builds.

Kept are

1. what a running build uses, or has in its ledger: the locks of the kernel say so;
2. the newest attestation of each variant, builder and base, and all that it needs;
3. what a build has used within a number of days, and all that it needs;
4. calibrations and perplexities of bases that are no stand-ins, or are not known: they cost hours.
   They are removed only where that is asked for.

A result is removed under its own lock, by one rename, when nobody uses it; the ledgers are read
after that is certain. A process of a build holds what it made until its ledger has it.
"""

import os
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from forge.core import console, filesystem, locks
from forge.core.errors import FileSystemError, StoreError
from forge.core.results import SHORT
from forge.core.sizes import size
from forge.core.store import Store
from forge.manifest.ledger import MOST, Ledger
from forge.pipeline import STEPS
from forge.storekeeping import contents
from forge.storekeeping.survey import Inode, Surveyed, inodes_of, last_used, needs_of, survey

DAYS = 14
_DAY = 86400.0
_STEPS = frozenset(step.name for step in STEPS)


class _LedgerError(StoreError):
    """Nobody knows what a running build needs."""


@dataclass(frozen=True, kw_only=True)
class Garbage:
    """What can go: results, and the number and bytes of what else lies there."""

    results: tuple[Surveyed, ...]
    leftovers: int
    bytes: int


def gc(
    store: Store,
    *,
    days: float = DAYS,
    calibrations: bool = False,
    aside: bool = False,
    confirm: bool = False,
) -> Garbage:
    """Says what nothing needs, and removes it if that is confirmed.

    Args:
        store: the store, which builds may be using.
        days: what a build has used since then is kept.
        calibrations: also calibrations and perplexities of real bases.
        aside: also what was set aside.
        confirm: really remove it.

    What cannot be removed, such as the files of another user, is said, and the rest is removed.

    Raises:
        StoreError: the store cannot be written, or the ledger of a running build not be read; or a
            folder that is emptied is a link.
        FileSystemError: a record cannot be read, and no result was removed, but all else was; or
            something could not be removed.
    """
    locks.tell_if_local(store.root)
    store.require_own()
    results, unread = survey(store)
    since = time.time() - days * _DAY
    left = [*contents.leftovers(store), *(contents.set_aside(store) if aside else ())]
    inodes = {path: tuple(inodes_of(path)) for path in left}
    gone, stuck = [], 0
    # A result that cannot be read may need any of the others.
    unneeded = [] if unread else _unneeded(results, since, calibrations=calibrations)
    for one in unneeded:
        try:
            goes = _goes(store, one, confirm=confirm)
        except _LedgerError:
            raise
        except StoreError as error:
            stuck += 1
            console.say(f"{one.step:>10}  {one.key[:SHORT]}  not removed: {error}")
            continue
        became = ("removed" if confirm else "not needed") if goes else "not needed, but in use"
        console.say(f"{one.step:>10}  {one.key[:SHORT]}  {became}")
        gone += [one] if goes else []
    if confirm:
        stuck += store.clear(aside=aside)
        left = [path for path in left if not os.path.lexists(path)]
    for path in left:
        console.say(f"{path.relative_to(store.root)}: {'removed' if confirm else 'left over'}")
    freed = _freed(
        inode
        for each in (*(one.inodes for one in gone), *(inodes[path] for path in left))
        for inode in each
    )
    would = "" if confirm else "would be "
    console.say(
        f"{len(gone)} of {len(results)} results and {len(left)} leftovers {would}removed, "
        f"{size(freed)} {would}freed"
    )
    if unread:
        raise FileSystemError(
            f"{store.root}: {unread} results or folders could not be read, and nobody knows which "
            "others they need, so no result was removed. Let them be read, or remove them."
        )
    if stuck:
        raise FileSystemError(
            f"{store.root}: {stuck} results or leftovers could not be removed, each of which is "
            "named above."
        )
    return Garbage(results=tuple(gone), leftovers=len(left), bytes=freed)


def _unneeded(results: list[Surveyed], since: float, *, calibrations: bool) -> list[Surveyed]:
    """Those that none of the rules keeps."""
    newest: dict[object, Surveyed] = {}
    for one in results:
        if one.step == "attest":
            newest[_line(one)] = one  # results are in the order of their time
    waiting = [*newest.values(), *(one for one in results if one.used >= since)]
    if not calibrations:
        waiting += [one for one in results if _is_costly(one, results)]
    kept: set[Surveyed] = set()
    while waiting:
        one = waiting.pop()
        if one not in kept:
            kept.add(one)
            waiting += needs_of(one, results)
    return [one for one in results if one not in kept]


def _line(attested: Surveyed) -> object:
    """What an attestation replaces an earlier one of: the same variant, builder and base."""
    base = {
        path: digest
        for path, digest in attested.record.needs.get("fetch", {}).items()
        if path.startswith("base/")
    }
    return (
        attested.variant,
        str(attested.record.parameters.get("builder")),
        tuple(sorted(base.items())),
    )


def _is_costly(one: Surveyed, results: Iterable[Surveyed]) -> bool:
    """Whether it took a real base through a model, as far as is known."""
    if one.step in _STEPS and one.step != "calibrate":
        return False
    bases = [_kind(other) for other in results if other.step == "fetch" and other.is_need_of(one)]
    return not bases or bases != ["standin"] * len(bases)


def _kind(fetched: Surveyed) -> object:
    """Where a base came from."""
    origins = fetched.record.parameters.get("origins")
    base = origins.get("base") if isinstance(origins, dict) else None
    return base[0] if isinstance(base, list) and base else None


def _goes(store: Store, one: Surveyed, *, confirm: bool) -> bool:
    """Removes a result unless somebody uses it; without `confirm`, whether it would go."""

    def is_needed() -> bool:
        used = last_used(store.root / one.step / one.key, one.record)
        return (one.step, one.key) in _in_ledgers(store) or used > one.used

    if confirm:
        return store.discard(one.step, one.key, unless=is_needed)
    return not contents.in_use(store, one.step, one.key) and not is_needed()


def _in_ledgers(store: Store) -> set[tuple[str, str]]:
    """The results of the running builds, by step and key.

    Raises:
        StoreError: a ledger cannot be read, so nobody knows what its build needs.
    """
    found: set[tuple[str, str]] = set()
    for path in contents.in_work(store, "ledger.json"):
        try:
            found |= set(Ledger.parse(filesystem.read(path, MOST)).results.items())
        except FileNotFoundError:
            continue  # its build has ended
        except (OSError, ValueError) as error:
            raise _LedgerError(
                f"{path}: is the ledger of a build that runs, and is none that is known here; "
                "nothing more is removed while it runs."
            ) from error
    return found


def _freed(inodes: Iterable[Inode]) -> int:
    """The bytes of those whose last name goes."""
    listed = list(inodes)
    names = Counter(one.number for one in listed)
    found = {one.number: one.bytes for one in listed if one.names <= names[one.number]}
    return sum(found.values())
