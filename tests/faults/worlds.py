"""Worlds: the folder that one trial has for itself, and what lies in it, by digest."""

import re
import subprocess
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

FOLDER = "folder"
MADE_UP = re.compile(r"^(store/aside/[^/]+)-[0-9a-f]{12}")
Inventory = Mapping[str, str]


def clone(source: Path, target: Path) -> None:
    """Copies a world: bytes of its own, the times and the links between its files as they are."""
    subprocess.run(["cp", "-a", source, target], check=True)


def inventory(folder: Path) -> dict[str, str]:
    """All that lies below a folder, by path: a file's digest, a link's target, or `FOLDER`.

    What the store sets aside has names that are made up, which here end before that part.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        name = MADE_UP.sub(r"\1", path.relative_to(folder).as_posix())
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        elif path.is_dir():
            found[name] = FOLDER
        else:
            found[name] = sha256(path.read_bytes()).hexdigest()
    return found


def below(found: Inventory, unit: str) -> dict[str, str]:
    """Of an inventory, a file or folder and all that lies in it."""
    return {
        name: what for name, what in found.items() if name == unit or name.startswith(f"{unit}/")
    }


def differences(expected: Inventory, found: Inventory, varying: str) -> list[str]:
    """What is missing, more, or other than expected; the bytes of what matches `varying` are free.

    Returns:
        A line each, such as `missing out/config.json`.
    """
    # The store keeps its own folders when there is nothing in them any more.
    bare = {
        name
        for name in found
        if re.fullmatch("store/[a-z]+", name) and len(below(found, name)) == 1
    }
    lines = [f"missing {name}" for name in expected.keys() - found.keys()]
    lines += [f"extra {name}" for name in found.keys() - expected.keys() if name not in bare]
    for name in expected.keys() & found.keys():
        free = re.fullmatch(varying, name) and FOLDER not in {expected[name], found[name]}
        if expected[name] != found[name] and not free:
            lines.append(f"other {name}")
    return sorted(lines)
