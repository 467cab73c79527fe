"""Names and text from strangers: how they are printed, and which names are portable."""

import unicodedata
from collections.abc import Iterable

from forge.core.errors import ReleaseError

# What file systems and system calls take, in bytes; a path of ours lies below some folder.
LONGEST_PART, LONGEST_PATH = 255, 1000
# Suffixes by which a loader knows what it may load; in capitals, some loaders know them.
_KNOWN = frozenset({"safetensors", "json", "jsonl", "jinja", "txt", "model", "py", "bin"})
# Names that Windows keeps for devices, with whatever suffix.
_DEVICES = frozenset(
    {"con", "prn", "aux", "nul", "conin$", "conout$"}
    | {f"{device}{number}" for device in ("com", "lpt") for number in "0123456789¹²³"}
)
_RESERVED = frozenset('<>:"|?*')
# Control, format (bidi marks, zero width), half of a pair, private, unassigned, line and paragraph.
_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
# Letters and marks that are shown as nothing, and spaces other than that of ASCII.
_BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0") | {
    *map(chr, (*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)))
}


def shown(text: str, keep: str = "") -> str:
    """A stranger's text as a terminal, a log or a page may have it: what acts or hides is escaped.

    That is every control character, mark of direction, invisible or unassigned character, and half
    of a character, such as a name of bytes that are no text has; but for those in `keep`.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        character.encode("unicode_escape").decode("ascii")
        if unicodedata.category(character) in _UNSEEN and character not in keep
        else character
        for character in text
    )


def quoted(text: str) -> str:
    """A stranger's text as a Python literal, cut if it is long."""
    return f"{text!r:.200}"


def check_name(name: str) -> None:
    """Refuses a path that is not portable.

    Raises:
        ReleaseError: it is absolute, climbs, is too long, has an empty part, a character that
            cannot be seen or that a system reserves, bytes that are no UTF-8, a part that another
            system reads as another name, or is not in Unicode's composed form (NFC).
    """
    why = fault(name)
    if why is not None:
        raise ReleaseError(f"{quoted(name)}: this name {why}.")


def fault(name: str) -> str | None:
    """What makes a path not portable, in words that follow it; None if nothing does."""
    parts = name.split("/")
    if len(name) > LONGEST_PATH or any(_bytes(part) > LONGEST_PART for part in parts):
        return f"has more than {LONGEST_PART} bytes in a part, or {LONGEST_PATH} characters"
    if any(part in {"", ".", ".."} for part in parts):
        return "is no relative path that stays inside its folder"
    if "\\" in name:
        return "has a backslash, which is a separator elsewhere"
    found = (*map(_unreadable, name), *map(_odd, parts))
    why = next((one for one in found if one is not None), None)
    if why is None and unicodedata.normalize("NFC", name) != name:
        why = "is not in Unicode's composed form (NFC)"
    return why


def check_twins(names: Iterable[str]) -> None:
    """Refuses names, of files or of the folders that they lie in, that some systems take for one.

    Raises:
        ReleaseError: two of them differ only in case, or in forms of characters.
    """
    seen: dict[str, str] = {}
    for name in names:
        parts = name.split("/")
        for count in range(1, len(parts) + 1):
            prefix = "/".join(parts[:count])
            folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", prefix).casefold())
            if seen.setdefault(folded, prefix) != prefix:
                raise ReleaseError(
                    f"{quoted(prefix)}: differs from {quoted(seen[folded])} only in case, so they "
                    "are one file on some systems."
                )


def _bytes(part: str) -> int:
    return len(part.encode(errors="surrogatepass"))


def _unreadable(character: str) -> str | None:
    kind = unicodedata.category(character)
    if kind in {"Cc", "Cs"}:
        return "has a control character, or bytes that are no UTF-8"
    if kind in _UNSEEN or character in _BLANK or (kind == "Zs" and character != " "):
        return f"has U+{ord(character):04X}, which nobody sees or which looks like another"
    if character in _RESERVED:
        return f"has {character!r}, which Windows takes for something else"
    return None


def _odd(part: str) -> str | None:
    if part[0] == " " or part[-1] in " .":
        return "has a part that begins with a space, or ends with one or with a dot"
    if part.partition(".")[0].rstrip().lower() in _DEVICES:
        return "is that of a device on Windows"
    suffix = part.rpartition(".")[2]
    if suffix != suffix.lower() and suffix.lower() in _KNOWN:
        return f"ends with {suffix!r}, which some loaders take for {suffix.lower()!r}"
    return None
