"""Where a JSON document is not what it should be, in a few words."""

from typing import Any

from forge.core import canonical

LONGEST = 120  # characters of a value that are shown


def difference(found: bytes, expected: bytes) -> str:
    """The first difference between a document and what it should be, which is canonical JSON."""
    try:
        here = canonical.loads(found)
    except ValueError as error:
        return f"cannot be read: {error}"
    first = _first(here, canonical.loads(expected), "")
    if first is None:
        return "is not in canonical JSON, so it was changed since"
    key, one, other = first
    return f"{key or 'the whole document'} is {_shown(one)}, the release gives {_shown(other)}"


def _first(here: Any, there: Any, key: str) -> tuple[str, Any, Any] | None:
    """Key and values of the first difference, in the order of the keys."""
    if type(here) is not type(there):
        return key, here, there
    if isinstance(here, dict):
        names = sorted(here.keys() | there.keys())
        pairs = [(name, here.get(name), there.get(name)) for name in names]
    elif isinstance(here, list):
        count = max(len(here), len(there))
        padded = ([*some, *[None] * (count - len(some))] for some in (here, there))
        pairs = [(str(n), *pair) for n, pair in enumerate(zip(*padded, strict=True))]
    else:
        return None if here == there else (key, here, there)
    for name, one, other in pairs:
        if found := _first(one, other, f"{key}.{name}".removeprefix(".")):
            return found
    return None if here == there else (key, here, there)


def _shown(value: Any) -> str:
    text = canonical.dumps(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
