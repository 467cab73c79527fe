"""Logs and reports of a failed step, which are kept in the store under `failed/`.

There is one folder for each recipe, with what its last failure left.
"""

import shutil
from pathlib import Path

from forge.core import console, placing, system_errors, walking
from forge.core.errors import HallmarkError
from forge.core.filesystem import delete


def keep(folder: Path, out: Path, logs: tuple[str, ...]) -> str:
    """Puts a copy of the logs in place of those of another failure, and says in a line where.

    The error that they are of is told in any case. So a copy that the system refuses is no error
    of its own: the line says why there is none.

    Args:
        folder: where they are kept.
        out: what the step left.
        logs: the beginnings of the paths that are kept.

    Returns:
        The line, or nothing if there are no logs.
    """
    try:
        names = [name for name in walking.files_below(out) if name.startswith(logs)]
        if not names:
            return ""

        def fill(fresh: Path) -> None:
            for name in names:
                (fresh / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(out / name, fresh / name)

        with placing.locked(folder):
            placing.put(folder, fill)
    except (OSError, HallmarkError) as refused:
        return f"Its logs could not be kept: {_why(refused, folder)}"
    return f"Kept in {folder}: {', '.join(names)}."


def clear(folder: Path) -> None:
    """Removes what an earlier failure left; what the system does not let go stays, and is named."""
    try:
        if folder.parent.is_dir():
            with placing.locked(folder):
                delete(folder)
    except (OSError, HallmarkError) as refused:
        console.say(f"What an earlier failure left is not removed: {_why(refused, folder)}")


def _why(refused: OSError | HallmarkError, folder: Path) -> str:
    if isinstance(refused, HallmarkError):
        return str(refused)
    return system_errors.told(refused, folder)
