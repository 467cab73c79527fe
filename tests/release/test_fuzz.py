"""Random changes to a good release, from a fixed seed: every one that changes anything is refused,
and whatever a key holder signs, a refusal is an error of ours and never a crash."""

import json
import os
import random
import shutil

import pytest
from assets.verify.bench import LIST, MANIFEST, SIGNED_MANIFEST, encoded, envelope

from assay.release import verify
from forge.core.errors import HallmarkError, ReleaseError

SEED = 20260101  # with `--fuzz=<n>`, n times as many, from another seed
MUTATIONS = 2100
STATEMENTS = 120


class Folder:
    """A release folder that can be put back as it was, and told apart from that."""

    def __init__(self, folder):
        self.folder = folder
        self.before = self.state()

    def state(self):
        """Every entry with its kind and bytes."""
        found = {}
        for path, folders, names in os.walk(self.folder):
            for name in (*folders, *names):
                entry = os.path.join(path, name)  # noqa: PTH118 - names may be no text
                found[os.path.relpath(entry, self.folder)] = self._content(entry)
        return found

    @staticmethod
    def _content(entry):
        if os.path.islink(entry):  # noqa: PTH114
            return "link", os.readlink(entry)  # noqa: PTH115
        if not os.path.isfile(entry):  # noqa: PTH113
            return "other", os.path.isdir(entry)  # noqa: PTH112
        with open(entry, "rb") as file:  # noqa: PTH123
            return "file", file.read()

    def files(self):
        return sorted(name for name, (kind, _) in self.before.items() if kind == "file")

    def restore(self):
        """Puts back what differs."""
        now = self.state()
        for name in sorted(now.keys() - self.before.keys(), reverse=True):
            path = self.folder / name
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        for name, (kind, content) in self.before.items():
            if kind == "file" and now.get(name) != (kind, content):
                path = self.folder / name
                if os.path.lexists(path):
                    shutil.rmtree(path) if now[name][0] == "other" and now[name][1] else (
                        path.unlink()
                    )
                path.write_bytes(content)


def bytes_changed(rng, folder):
    """A file with bytes flipped, replaced, put in, taken out, doubled or cut off."""
    path = folder.folder / rng.choice(folder.files())
    data = bytearray(path.read_bytes())
    at = rng.randrange(len(data))
    count = rng.choice([1, 1, 1, 2, 8, 64])
    match rng.randrange(7):
        case 0:
            data[at] ^= 1 << rng.randrange(8)
        case 1:
            data[at : at + count] = rng.randbytes(count)
        case 2:
            data[at:at] = rng.randbytes(count)
        case 3:
            del data[at : at + count]
        case 4:
            data[at:at] = data[at : at + count]
        case 5:
            del data[at:]
        case 6:
            # What a JSON reader may pass over.
            data[at:at] = rng.choice([b" ", b"\n", b"\t", b"\0", b"\\n", b"=", b","])
    path.write_bytes(data)


def files_moved(rng, folder):
    """Files taken away, added, renamed, swapped, copied, or made what is no file."""
    one, other = (folder.folder / name for name in rng.sample(folder.files(), 2))
    new = one.with_name(rng.choice(["x", ".x", "x.json", one.name.upper(), one.name + " "]))
    match rng.randrange(8):
        case 0:
            one.unlink()
        case 1:
            new.write_bytes(rng.randbytes(rng.randrange(9)))
        case 2:
            one.rename(new)
        case 3:
            first = one.read_bytes()
            one.write_bytes(other.read_bytes())
            other.write_bytes(first)
        case 4:
            shutil.copy(one, other)
        case 5:
            one.unlink()
            one.symlink_to(other)
        case 6:
            one.unlink()
            os.mkfifo(one)
        case 7:
            (folder.folder / "provenance" / f"{new.name}.d").mkdir()


def payload_changed(rng, folder):
    """A statement and the payload of its bundle, changed alike; the signature cannot follow."""
    path = folder.folder / MANIFEST
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    bundle = folder.folder / SIGNED_MANIFEST
    value = json.loads(bundle.read_bytes())
    envelope(value)["payload"] = encoded(bytes(data))
    bundle.write_text(
        json.dumps(value, sort_keys=True, separators=(",", ":")) + "\n", encoding="utf-8"
    )


def test_every_effective_change_is_refused(bench, demands, fuzz):
    rng = random.Random(SEED + fuzz)  # noqa: S311 - a test that repeats
    folder = Folder(bench.folder)
    done = 0
    while done < MUTATIONS * fuzz:
        mutate = rng.choices([bytes_changed, files_moved, payload_changed], [6, 2, 1])[0]
        mutate(rng, folder)
        if folder.state() != folder.before:
            done += 1
            with pytest.raises(ReleaseError):
                verify.verify(bench.folder, demands, lambda _: None)
        folder.restore()
    assert folder.state() == folder.before
    verify.verify(bench.folder, demands, lambda _: None)


def changed(rng, value):
    """A JSON value with one thing in it replaced, removed or put elsewhere."""
    odd = [None, True, 0, -1, 1.5, "", "x", [], {}, "\0", "../x", 10**30, [[]], {"a": {}}]
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(sorted(value))
        if rng.random() < 0.15:
            return {k: v for k, v in value.items() if k != key}
        return {**value, key: changed(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.9:
        at = rng.randrange(len(value))
        if rng.random() < 0.15:
            return [*value[:at], *value[at + 1 :]]
        return [*value[:at], changed(rng, value[at]), *value[at + 1 :]]
    return rng.choice(odd)


@pytest.mark.parametrize("name", [MANIFEST, LIST, "provenance/verification.json"])
def test_whatever_is_signed_is_judged(bench, demands, fuzz, name):
    """A change to what nothing checks may pass; nothing else than an error of ours may come."""
    rng = random.Random(SEED + fuzz)  # noqa: S311 - a test that repeats
    folder = Folder(bench.folder)
    original = json.loads((bench / name).read_bytes())
    refused = 0
    for _ in range(STATEMENTS * fuzz):
        text = json.dumps(changed(rng, original), sort_keys=True, separators=(",", ":"))
        (bench / name).write_text(text + "\n", encoding="utf-8")
        if name == MANIFEST:
            bench.relist_manifest()
        elif name == LIST:
            bench.sign("release.json")
        else:
            bench.admit(name)
        try:
            verify.verify(bench.folder, demands, lambda _: None)
        except HallmarkError:
            refused += 1
        folder.restore()
    assert refused > STATEMENTS * fuzz / 4
