"""Which release it is: what the checker states beforehand, and what nobody has stated.

A release that is whole and signed may still be another variant, an old build, or one from another
commit. Only what is stated can be compared, so the verdict lists what was not.
"""

import datetime
import re
from collections.abc import Iterable, Sequence

from pydantic import ValidationError

from forge.core.errors import ReleaseError
from forge.core.model import mistake
from forge.manifest.policy import Expected
from forge.manifest.provenance import Manifest
from forge.manifest.tensor_list import TensorLine
from forge.tensors import formats

BASE = "base"
PINNED = re.compile(r"pkg:huggingface/[^@#]+@([0-9a-f]{40})")


def stated(*, formats: str | None, **keys: str | None) -> Expected:
    """What a command line states, by the keys of `Expected`; of several formats, with commas.

    Raises:
        ReleaseError: naming the option whose value is of another form.
    """
    try:
        names = None if formats is None else tuple(re.split("[, ]+", formats))
        return Expected.model_validate({"formats": names, **keys})
    except ValidationError as error:
        raise ReleaseError(f"what is expected cannot be read: {mistake(error)}.") from error


def check(
    expected: Sequence[Expected],
    manifest: Manifest,
    digest: str,
    lines: Iterable[TensorLine],
    doubt: str | None,
) -> list[str]:
    """Compares a release with all that is expected of it.

    Args:
        expected: what each source expects: the policy, the command line.
        manifest: what the release states.
        digest: the sha256 of the manifest's file.
        lines: the tensors that are stored.
        doubt: why nobody knows that the code is that of the commit which is stated, if so.

    Returns:
        What is as expected, a few words each.

    Raises:
        ReleaseError: naming the first thing that is not, with both values.
    """
    stored = _formats(lines)
    told: dict[str, None] = {}
    for one in expected:
        if one.variant is not None:
            told[_same("variant", manifest.asked.target, one.variant)] = None
        if one.digest is not None:
            told[_same("digest", digest, one.digest)] = None
        if one.since is not None:
            told[_since(manifest.finished, one.since)] = None
        if one.commit is not None:
            told[_same("commit", _commit(manifest), one.commit)] = None
            if doubt is not None:
                raise ReleaseError(
                    f"commit {one.commit} is expected, and {doubt}.", remedy="no-commit-here"
                )
        if one.revision is not None:
            told[_same("revision of the base", _revision(manifest), one.revision)] = None
        if one.formats is not None:
            told[_same("formats", ", ".join(stored), ", ".join(sorted({*one.formats})))] = None
    return list(told)


def check_age(manifest: Manifest, days: int) -> str:
    """Compares the age of a build with the largest that is taken.

    Raises:
        ReleaseError: it is older.
    """
    age = datetime.datetime.now(datetime.UTC) - _time(manifest.finished)
    if age > datetime.timedelta(days=days):
        raise ReleaseError(
            f"it was built at {manifest.finished}, {age.days} days ago; at most {days} are taken."
        )
    return f"built {max(age.days, 0)} days ago"


def unstated(expected: Sequence[Expected], *, aged: bool, signed: bool, rebuilt: bool) -> list[str]:
    """What nothing that was stated establishes of a release, a few words each."""
    exact = _any(expected, "digest")
    missing = {
        "which variant it is": not (exact or _any(expected, "variant")),
        "which build of it": not exact,
        "how fresh it is": not (exact or _any(expected, "since") or aged),
        "which commit built it": not (exact or _any(expected, "commit")),
        "which revision of the base it was made from": not (exact or _any(expected, "revision")),
        "which formats it has": not (exact or _any(expected, "formats")),
        "who made it": not signed,
        "that others can rebuild it": not rebuilt,
    }
    return [words for words, is_missing in missing.items() if is_missing]


def _any(expected: Sequence[Expected], key: str) -> bool:
    return any(getattr(one, key) is not None for one in expected)


def _same(what: str, found: str, wanted: str) -> str:
    if found != wanted:
        raise ReleaseError(f"the {what} is {found!r}, expected is {wanted!r}.")
    return f"{what} {found}"


def _since(finished: str, since: str) -> str:
    if _time(finished) < _time(since):
        raise ReleaseError(f"it was built at {finished}, expected is {since} or later.")
    return f"built at {finished}"


def _time(text: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(text)


def _commit(manifest: Manifest) -> str:
    """The commit that built; with changes that are in none, that is no commit."""
    stated = manifest.commit
    if stated is None:
        return "nothing"
    changed = " with further changes" if stated.annotations.uncommitted_changes else ""
    return f"{stated.digest.git_commit}{changed}"


def _revision(manifest: Manifest) -> str:
    """The commit of the base, or the address of a base that is not from the hub."""
    uris = sorted({one.uri.partition("#")[0] for one in manifest.inputs if one.role == BASE})
    if len(uris) != 1:
        return ", ".join(uris) or "nothing"
    pinned = PINNED.fullmatch(uris[0])
    return pinned[1] if pinned else uris[0]


def _formats(lines: Iterable[TensorLine]) -> list[str]:
    """The formats of the layers that are stored, by the tensors that stand for each."""
    modules: dict[str, set[tuple[str, str]]] = {}
    for line in lines:
        module, _, part = line.name.rpartition(".")
        modules.setdefault(module, set()).add((part, line.dtype))
    known = {
        frozenset(
            (spec.name.rpartition(".")[2], spec.dtype)
            for spec in one.specs("module", (one.block, one.block))
        ): one.name
        for one in formats.FORMATS.values()
    }
    return sorted(
        {name for parts in modules.values() for wanted, name in known.items() if wanted <= parts}
    )
