"""Snapshots of a hub's cache, whose links into its blobs are followed, and no others.

`<repository>/snapshots/<commit>/<path>` leads to `<repository>/blobs/<etag>`. What lies there obeys
the limits that it would obey in the folder itself.
"""

import os
import shutil
import socket

from assets.verify.bench import BODY
from assets.verify.table import RECORD, VERIFICATION, add

from forge.core import canonical

COMMIT = "0123456789abcdef" * 2 + "01234567"
GIB, TIB = 1 << 30, 1 << 40


def cached(folder, commit=COMMIT, links="../../blobs"):
    """Moves a release into a hub's cache, and puts a link to its snapshot in its place.

    Args:
        folder: the release.
        commit: the name of the snapshot.
        links: from the snapshot to the blobs, as the links have it.

    Returns:
        The blob of each file by its path.
    """
    repository = folder.parent / f"{folder.name}-hub"
    snapshot, blobs = repository / "snapshots" / commit, repository / "blobs"
    blobs.mkdir(parents=True)
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder)
        found[name.as_posix()] = blobs / canonical.sha256_file(path)
        shutil.copy(path, found[name.as_posix()])
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        up = "../" * len(name.parent.parts)
        (snapshot / name).symlink_to(f"{up}{links}/{found[name.as_posix()].name}")
    shutil.rmtree(folder)
    folder.symlink_to(snapshot)
    return found


def pipe(blob):
    blob.unlink()
    os.mkfifo(blob)


def bound(blob):
    blob.unlink()
    here = os.getcwd()  # noqa: PTH109 - the name of a socket is short
    os.chdir(blob.parent)
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(blob.name)
    os.chdir(here)


def folder(blob):
    blob.unlink()
    blob.mkdir()


def linked(to):
    def change(blob):
        blob.unlink()
        blob.symlink_to(to)

    return change


def sparse(size):
    return lambda blob: os.truncate(blob, size)


def changed(blob):
    blob.write_bytes(blob.read_bytes().replace(b"{", b" ", 1))


LOOPS = "cannot be read (Too many levels of symbolic links)"
for name, file, change, reason in (
    ("that_is_a_pipe", "config.json", pipe, "'config.json': is a pipe"),
    ("that_is_a_pipe_in_the_provenance", VERIFICATION, pipe, f"'{VERIFICATION}': is a pipe"),
    ("that_is_a_socket", "config.json", bound, "'config.json': cannot be read (No such device"),
    ("that_is_a_folder", "config.json", folder, "'config.json': is a folder"),
    ("that_is_a_link", "config.json", linked("/etc/passwd"), f"'config.json': {LOOPS}"),
    ("that_is_a_link_to_a_device", BODY, linked("/dev/zero"), f"'{BODY}': {LOOPS}"),
    ("that_is_a_link_to_itself", RECORD, linked("x"), f"'{RECORD}': {LOOPS}"),
    ("that_is_not_there", "config.json", lambda b: b.unlink(), "'config.json': is not there, or"),
    ("of_a_tebibyte", BODY, sparse(TIB), f"{BODY}: has {TIB} bytes, provenance/release.json says"),
    ("of_gibibytes_in_the_provenance", VERIFICATION, sparse(8 * GIB), f"has {8 * GIB} bytes, too"),
    ("of_a_record_without_end", RECORD, sparse(8 * GIB), "too many to be read: at most 67108864"),
    ("that_is_empty", "config.json", sparse(0), "config.json: has 0 bytes, provenance/release.js"),
    ("of_other_bytes", "config.json", changed, "config.json: has sha256"),
):  # fmt: skip
    add(
        f"hub_blob_{name}",
        lambda bench, file=file, change=change: change(cached(bench.folder)[file]),
        reason,
    )


def snapshot(name, change, reason, **how):
    """A case of a cache that is laid out in another way; `change` is given the snapshot."""

    def spoil(bench):
        cached(bench.folder, **how)
        change(bench.folder.resolve())

    add(f"hub_snapshot_{name}", spoil, reason)


def relinked(path, to):
    def change(folder):
        (folder / path).unlink()
        (folder / path).symlink_to(to)

    return change


def blobs_elsewhere(folder):
    blobs = folder.parent.parent / "blobs"
    blobs.rename(blobs.with_name("moved"))
    blobs.symlink_to("moved")


def nothing(folder):
    del folder


BLOB = "a" * 64
LINK = "'config.json': is a symbolic link"
for name, change, reason, how in (
    ("of_no_commit", nothing, "'.gitattributes': is a symbolic link", {"commit": "main"}),
    ("of_a_commit_in_capitals", nothing, "is a symbolic link", {"commit": COMMIT.upper()}),
    ("of_a_longer_commit", nothing, "is a symbolic link", {"commit": COMMIT + "0"}),
    ("that_leads_by_a_way_round", nothing, "is a symbolic link", {"links": "../../x/../blobs"}),
    ("that_leads_to_another_repository", relinked("config.json", f"../../../other/blobs/{BLOB}"),
     LINK, {}),
    ("that_leads_too_far", relinked("config.json", f"../../../blobs/{BLOB}"), LINK, {}),
    ("that_leads_not_far_enough", relinked(VERIFICATION, f"../../blobs/{BLOB}"), "symbolic", {}),
    ("that_leads_to_a_name", relinked("config.json", "../../blobs/passwd"), LINK, {}),
    ("that_leads_out_of_the_blobs", relinked("config.json", "../../blobs/.."), LINK, {}),
    ("that_leads_to_the_system", relinked("config.json", "/etc/passwd"), LINK, {}),
    ("whose_blobs_lie_elsewhere", blobs_elsewhere, "'.gitattributes': cannot be read (", {}),
    ("with_a_link_more", lambda f: (f / "x.py").symlink_to(f.resolve() / "config.json"),
     "'x.py': is a symbolic link", {}),
    ("with_a_pipe", lambda f: os.mkfifo(f / "pipe"), "'pipe': is a pipe", {}),
):  # fmt: skip
    snapshot(name, change, reason, **how)
