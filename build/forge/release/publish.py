"""Publishes a signed release on the hub: its files in one commit, its signatures in the next.

Large files are sent before the commit that names them, and the hub keeps what it has: an upload
that broke off goes on where it was. Each commit states the one that it follows, so that nobody's
push in between is overwritten. Until the last commit the repository has no signature, so what is
only half there cannot be taken for a release.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, errors
from huggingface_hub.utils.tqdm import disable_progress_bars

from forge.core import console, filesystem, placing
from forge.core.errors import HallmarkError, UploadError
from forge.core.files import File, hash_files, names_in, stamps
from forge.core.hub_client import ClientError, MalformedError, api, newest, said, shown, tree
from forge.core.hub_session import GaveUpError, UntrustedError
from forge.core.libraries import library
from forge.core.sizes import size
from forge.manifest import provenance, sums
from forge.manifest.names import ADDED, BUNDLES, PROVENANCE, SIGNATURES
from forge.release import assemble, remote
from forge.release.outgoing import Outgoing
from forge.release.remote import UploadPlan

Operation = CommitOperationAdd | CommitOperationDelete


def upload(folder: Path, repo: str, *, confirm: bool, rehearsal: bool) -> str | None:
    """Publishes a release, or tells what publishing would do; returns the hub's last commit.

    Writes `<folder>.files` beside the folder: what a source forge's release page should have, as
    lines of sha256sum.

    Raises:
        ReleaseError: the folder is no release, or was changed since it became one.
        UploadError: it is not signed, is a rehearsal, or the hub refused or holds something else.
    """
    folder = filesystem.real(folder)
    _require_signed(folder)
    release = _hashed(folder)
    _require_no_rehearsal(folder, rehearsal)
    listed = _write_list(folder, release.files)
    console.say(f"{listed} has the files for a source forge's release page")
    client = api()
    if not console.is_terminal():
        disable_progress_bars()  # an error would stand at the end of one
    with library("huggingface_hub", UploadError, f"{repo}: the upload fails", shown=said):
        return _asked(client, repo, release, folder.name, confirm=confirm)


def _hashed(folder: Path) -> Outgoing:
    """The files of a release, which are what its list says."""
    before = folder.stat()
    try:
        return _outgoing(folder)
    except (HallmarkError, OSError) as error:
        if folder.exists() and os.path.samestat(before, folder.stat()):
            raise
        # What was found may be of two releases.
        raise UploadError(
            f"{folder}: another folder took its place while it was checked. Run this again."
        ) from error


def _outgoing(folder: Path) -> Outgoing:
    paths = {name: folder / name for name in names_in(folder)}
    before = stamps(paths)
    files = assemble.require_current(folder)
    rest = {name: path for name, path in paths.items() if name not in files}
    release = Outgoing(files=files | hash_files(rest, stamps(rest)), stamps=before)
    release.require_unchanged()
    return release


def _asked(client: HfApi, repo: str, release: Outgoing, name: str, *, confirm: bool) -> str | None:
    """Sends the files, or tells what that would do; errors of the hub are told as what they are."""
    try:
        if not confirm:
            _rehearse(client, repo, release)
            return None
        plan = remote.plan(client, repo, release)
        _tell(plan)
        return _send(client, plan, name)
    except errors.HfHubHTTPError as error:
        raise _refused(repo, error) from error
    except MalformedError as error:
        raise UploadError(
            f"{repo}: {shown(client.endpoint)} {error}. Check HF_ENDPOINT."
        ) from error
    except UntrustedError as error:
        raise UploadError(
            f"{repo}: the certificate of {shown(client.endpoint)} is not trusted here ({error}).",
            remedy="certificate",
        ) from error
    # huggingface_hub wraps what its threads met in a RuntimeError.
    except (ClientError, OSError, RuntimeError) as error:
        raise _broken_off(repo, error) from error


def _rehearse(client: HfApi, repo: str, release: Outgoing) -> None:
    """Tells what would be sent; all of it, where the hub cannot be asked what it has."""
    try:
        _tell(remote.plan(client, repo, release))
    except errors.HfHubHTTPError:
        raise
    except (ClientError, OSError) as error:
        why = str(error) if isinstance(error, GaveUpError) else type(error).__name__
        console.say(f"{shown(client.endpoint)} cannot be asked ({why})")
        _tell_files(release.files, tuple(release.files), ())
    console.say("nothing was sent")


def _send(client: HfApi, plan: UploadPlan, name: str) -> str:
    signatures = [path for path in SIGNATURES if path in plan.release.files]
    content = [path for path in plan.changed if path not in SIGNATURES]
    signed = [path for path in plan.changed if path in SIGNATURES]
    if content or plan.removed:
        signed = signatures
    # All of them now, so that nothing is done if one was changed.
    additions = {path: plan.release.addition(path) for path in (*content, *signed)}
    parent = plan.parent
    if parent is None:
        client.create_repo(plan.repo, private=True)
        parent = newest(client, plan.repo)
    if content or plan.removed:
        # What was signed is about to change; a signature of before would only confuse.
        there = tree(client, plan.repo, parent)
        stale = [*plan.removed, *(path for path in signatures if path in there)]
        add = [additions[path] for path in content]
        parent = _commit(client, plan, parent, f"Release {name}", add=add, remove=stale)
    if signed:
        add = [additions[path] for path in signed]
        parent = _commit(client, plan, parent, f"Sign {name}", add=add, remove=())
    _require_there(client, plan, parent)
    console.say(f"{plan.repo} has the release at commit {parent}")
    return parent


def _commit(
    client: HfApi,
    plan: UploadPlan,
    parent: str,
    message: str,
    *,
    add: Sequence[CommitOperationAdd],
    remove: Sequence[str],
) -> str:
    for addition in add:
        # One at a time, so that a finished file is finished.
        _send_large(client, plan, addition)
    operations: list[Operation] = [*add, *(CommitOperationDelete(path) for path in remove)]
    made = client.create_commit(plan.repo, operations, commit_message=message, parent_commit=parent)
    return str(made.oid)


def _send_large(client: HfApi, plan: UploadPlan, addition: CommitOperationAdd) -> None:
    """Sends a file that goes before its commit; what it holds is compared on the way."""
    try:
        client.preupload_lfs_files(plan.repo, [addition], free_memory=False)
    except (OSError, RuntimeError):
        # A hub refuses bytes that do not have the digest that was announced.
        plan.release.require_unchanged([addition.path_in_repo])
        raise
    plan.release.require_sent(addition)


def _require_there(client: HfApi, plan: UploadPlan, commit: str) -> None:
    """Compares what the hub lists at a commit with the release."""
    there = tree(client, plan.repo, commit)
    files = plan.release.files
    wrong = [name for name in files if not remote.holds(there.get(name), plan.release, name)]
    if wrong := sorted({*wrong, *(there.keys() - files.keys())}):
        raise UploadError(
            f"{plan.repo} at {commit}: the hub does not hold what was sent, first {wrong[0]}. "
            "Run it again."
        )


def _tell(plan: UploadPlan) -> None:
    if plan.parent is None:
        console.say(f"{plan.repo}: is not there; it would be made, private")
    else:
        console.say(f"{plan.repo}: is at commit {plan.parent}")
    _tell_files(plan.release.files, plan.changed, plan.removed)


def _tell_files(files: Mapping[str, File], changed: Sequence[str], removed: Sequence[str]) -> None:
    for name in changed:
        last = ", last" if name in SIGNATURES else ""
        console.say(f"  send    {name} ({size(files[name].bytes)}{last})")
    for name in removed:
        console.say(f"  remove  {name}")
    total = size(sum(files[name].bytes for name in changed))
    console.say(f"{len(changed)} of {len(files)} files to send, {total}; {len(removed)} to remove")


def _write_list(folder: Path, files: Mapping[str, File]) -> Path:
    """The documents and the provenance: what is small enough to be looked at."""
    chosen = {
        name: file.sha256
        for name, file in files.items()
        if name in ADDED or name.partition("/")[0] == PROVENANCE
    }
    path = folder.with_name(f"{folder.name}.files")
    placing.write(path, sums.lines(chosen).encode())
    return path


def _require_signed(folder: Path) -> None:
    for name in BUNDLES.values():
        if not (folder / PROVENANCE / name).is_file():
            raise UploadError(
                f"{folder}: has no {PROVENANCE}/{name}, so it is not signed.",
                remedy="not-signed",
                folder=folder,
            )


def _require_no_rehearsal(folder: Path, rehearsal: bool) -> None:
    if provenance.read(folder / PROVENANCE).rehearsal and not rehearsal:
        raise UploadError(f"{folder}: is a rehearsal.", remedy="rehearsal")


def _broken_off(repo: str, error: Exception) -> UploadError:
    """Of an upload that did not end; with the hub's answer, if it refused a large file."""
    cause, why, remedy = error.__cause__, str(error), None
    if isinstance(cause, errors.HfHubHTTPError):
        status = cause.response.status_code
        why = f"{why.rstrip('.')}: HTTP {status}"
        remedy = "may-write" if status in {401, 403} else None
    return UploadError(
        f"{repo}: the upload broke off ({why}). Run it again; what the hub has is not sent twice.",
        remedy=remedy,
    )


def _refused(repo: str, error: errors.HfHubHTTPError) -> UploadError:
    status = error.response.status_code
    answer = f"{repo}: the hub answers HTTP {status}"
    match status:
        case 401:
            return UploadError(f"{answer}: it does not know this account.", remedy="may-write")
        case 403:
            return UploadError(f"{answer}: this account may not write there.", remedy="may-write")
        case 409 | 412:
            return UploadError(
                f"{answer}: another commit came in between. Look at it, and run this again."
            )
        case 410:
            return UploadError(f"{answer}: the repository was deleted. Choose another.")
        case 451:
            return UploadError(f"{answer}: it withholds the repository for legal reasons.")
    return UploadError(f"{answer}: {said(error.server_message or 'it gives no reason')}.")
