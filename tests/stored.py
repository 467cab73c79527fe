"""A store with one result, and what lies beside it."""

# A process that is killed while its step works.
KILLED = """
import sys, time
from pathlib import Path
from forge.core.store import Store
def work(out):
    (out / "half").write_bytes(b"x")
    print("working", flush=True)
    time.sleep(60)
Store(Path(sys.argv[1])).make("step", "key", work, {})
"""


def make(store, content=b"data"):
    return store.make("step", "key", lambda out: (out / "file").write_bytes(content) and None, {})


def set_aside(store):
    return sorted((store.root / "aside").iterdir())


def left(store):
    """What lies in the folders that are empty when nobody works."""
    folders = (store.root / name for name in ("tmp", "trash"))
    return [path for folder in folders if folder.is_dir() for path in folder.iterdir()]
