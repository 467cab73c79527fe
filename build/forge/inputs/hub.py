"""Inputs from the hub: a repository's files at a commit, checked by that commit's own listing.

A commit pins the listing, and the listing pins the bytes: by sha256 for the large files (LFS), by
git's blob id for the others. Downloads land in a cache folder of the store, by huggingface_hub,
which goes on where a connection broke off and keeps every finished file.
"""

import errno
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache as once
from functools import partial
from pathlib import Path

from huggingface_hub import HfApi, errors, hf_hub_url, try_to_load_from_cache
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils._headers import build_hf_headers
from huggingface_hub.utils._http import get_session, hf_raise_for_status
from huggingface_hub.utils.tqdm import disable_progress_bars

from forge.core import console, system_errors
from forge.core.errors import FetchError, FileSystemError, HallmarkError
from forge.core.files import File, Origin, Watch, hash_files, select, stamps, unwatched
from forge.core.filesystem import real
from forge.core.hub_client import (
    ClientError,
    MalformedError,
    api,
    blob_id,
    endpoint,
    newest,
    said,
    shown,
    tree,
)
from forge.core.hub_session import GaveUpError, TooLongError, UntrustedError, within
from forge.core.libraries import library
from forge.core.store_folders import StoreFolders
from forge.inputs.mirror import title
from forge.recipes.sources import Source
from forge.tensors import tensorfile
from forge.tensors.admission import SMALL

PROBE_SECONDS = 3.0
PARALLEL = 4
# Of a file of tensors, what is asked for first; the header of a 5 GB shard of experts fits in.
BEGINNING = 1 << 19


def unreachable(source: Source) -> str | None:
    """Why the hub does not give this repository's commit within seconds, or None if it does."""
    try:
        with within(PROBE_SECONDS, tries=1):
            newest(api(), source.repo, str(source.revision), source.kind)
    except (ClientError, MalformedError, OSError) as error:
        why = str(error) if isinstance(error, GaveUpError) else type(error).__name__
        return f"{shown(endpoint())} does not give it ({why})"
    return None


def listing(source: Source) -> dict[str, RepoFile]:
    """The files of a repository at its commit, with size and digest, by path.

    Raises:
        FetchError: the hub cannot be asked, refuses, or answers for another commit; its answer is
            no listing, or does not end.
    """
    asked, commit = api(), str(source.revision)
    with explained(source, asked.endpoint):
        found = newest(asked, source.repo, commit, source.kind)
        if found != commit:
            raise FetchError(
                f"{source.uri}: {shown(endpoint())} answers with commit {found}.", remedy="no-hub"
            )
        return tree(asked, source.repo, commit, source.kind)


def repository(
    source: Source, globs: Sequence[str], cache: Path, also: Sequence[str] = ()
) -> Origin:
    """A repository at its commit; nothing is asked of the hub before its files are.

    What a glob of `also` matches is taken, too, where it is there.
    """
    listed = once(partial(listing, source))
    return Origin(
        kind="hub",
        uri=source.uri,
        revision=str(source.revision),
        name=title(source),
        key=[source.uri, [*globs, *also]],
        take=partial(take, source, globs, cache, also=also, listed=listed),
        missing=partial(_missing, source, (globs, also), cache, listed),
    )


def take(
    source: Source,
    globs: Sequence[str],
    cache: Path,
    watch: Watch = unwatched,
    *,
    also: Sequence[str] = (),
    listed: Callable[[], Mapping[str, RepoFile]] | None = None,
) -> dict[str, File]:
    """The files that the globs select, downloaded into `cache` and checked.

    What a glob of `also` matches is taken, too, where it is there. `watch` is told of each file,
    and fed what is read of it. `listed` gives what `listing` would.

    Whether there is room for them was asked before, of all inputs together.

    Raises:
        FetchError: as `listing`; a download broke off; a file's bytes are not those of the commit
            (it is removed, so that the next run fetches it again); as :func:`readable`.
        FileSystemError: the system refused a file, as a full disk does.
    """
    entries = listing(source) if listed is None else listed()
    names = select(entries, globs, source.uri, strict=True, also=also)
    paths = _download(source, {name: entries[name] for name in names}, cache)
    with readable(cache):
        files = hash_files(paths, stamps(paths), watch)
    for name, file in files.items():
        _check(source, entries[name], file)
    return files


@contextmanager
def readable(cache: Path) -> Iterator[None]:
    """Moves a download out of the cache of which the disk does not give the bytes.

    Raises:
        FetchError: it is set aside, and the next run fetches it again.
    """
    try:
        yield
    except (OSError, HallmarkError) as error:
        blob = _unreadable(error)
        if blob is None or not blob.is_relative_to(real(cache)):
            raise
        there = StoreFolders(cache.parent).set_download_aside(blob)
        raise FetchError(
            f"{blob}: {os.strerror(errno.EIO)}. The download is set aside as {there}. Run again, "
            "which fetches it anew."
        ) from error


def _unreadable(error: BaseException | None) -> Path | None:
    """The file that the disk did not give, if an error says so or comes of one that does."""
    while error is not None:
        if isinstance(error, OSError) and error.errno == errno.EIO and error.filename is not None:
            return real(Path(error.filename))
        error = error.__cause__ or error.__context__
    return None


def downloaded(source: Source, cache: Path, names: Sequence[str]) -> Path | None:
    """The folder of the cache that has all tensors of a repository and these files, if there is."""

    def find(name: str) -> Path | None:
        found = try_to_load_from_cache(source.repo, name, cache, str(source.revision), source.kind)
        return Path(found) if isinstance(found, str) else None

    index = find(tensorfile.INDEX)
    shards = set(tensorfile.read_index(index).values()) if index is not None else set()
    if index is None or not all(find(name) for name in (*names, *shards)):
        return None
    return index.parent


def outline(
    source: Source, globs: Sequence[str], cache: Path, into: Path, also: Sequence[str] = ()
) -> list[str]:
    """Lays out the files that the globs select without the bytes of their tensors.

    What a glob of `also` matches is laid out, too, where it is there. A file of tensors has its
    header and its size, but holes for data. Small files of JSON and the index are whole, other
    files have holes alone, and what `cache` has already is linked. No digest is checked.

    Returns:
        The files of the repository that the globs do not select.

    Raises:
        FetchError: as `listing`; a download broke off.
        FileSystemError: the system refused a file.
        TensorFileError: a file of tensors has no header.
    """
    entries = listing(source)
    names = select(entries, globs, source.uri, strict=True, also=also)
    commit, client = str(source.revision), api()

    def lay(name: str) -> None:
        path, size = into / name, entries[name].size
        path.parent.mkdir(parents=True, exist_ok=True)
        found = try_to_load_from_cache(source.repo, name, cache, commit, source.kind)
        if isinstance(found, str):
            path.symlink_to(Path(found).absolute())
        elif name.endswith(".safetensors"):
            path.write_bytes(_header(source, name, size, path))
            os.truncate(path, size)
        elif name == tensorfile.INDEX or (name.endswith(".json") and size <= SMALL):
            path.symlink_to(_get(client, source, name, size, cache).absolute())
        else:
            path.touch()
            os.truncate(path, size)

    disable_progress_bars()
    with explained(source, client.endpoint, into), ThreadPoolExecutor(max_workers=PARALLEL) as pool:
        list(pool.map(lay, names))
    return sorted(entries.keys() - {*names})


def _header(source: Source, name: str, size: int, path: Path) -> bytes:
    """The header of a file of tensors, and the length before it."""
    begin = _beginning(source, name, min(size, BEGINNING))
    first = tensorfile.LENGTH_BYTES
    end = first + tensorfile.header_length(path, size, begin[:first])
    return begin[:end] if end <= len(begin) else _beginning(source, name, end)


def _beginning(source: Source, name: str, count: int) -> bytes:
    """The first bytes of a file, also where the hub sends more of it than it was asked for."""
    url = hf_hub_url(
        source.repo,
        name,
        repo_type=source.kind,
        revision=str(source.revision),
        endpoint=api().endpoint,
    )
    asked = build_hf_headers(library_name="hallmark") | {"Range": f"bytes=0-{count - 1}"}
    begin = bytearray()
    with get_session().stream("GET", url, headers=asked) as response:
        hf_raise_for_status(response)
        for chunk in response.iter_bytes():
            begin += chunk
            if len(begin) >= count:
                break
    if len(begin) < count:
        raise FetchError(
            f"{source.uri}#{name}: the hub sent {len(begin)} of {count} bytes.", remedy="no-hub"
        )
    return bytes(begin[:count])


@contextmanager
def explained(source: Source, at: str, where: Path | None = None) -> Iterator[None]:
    """Turns what huggingface_hub and its HTTP client raise into errors that name the way out.

    Args:
        source: the repository that is asked for.
        at: the hub's address.
        where: the folder that is written to.

    Raises:
        FetchError: in place of theirs.
        FileSystemError: in place of what the system says of a file.
    """
    what = f"{_named(source)}: {shown(at)} does not give it"
    with library("huggingface_hub", FetchError, what, shown=said, remedy="no-hub"):
        try:
            yield
        # A RuntimeError is the Xet client's, or of a stream that broke.
        except (ClientError, MalformedError, OSError, RuntimeError) as error:
            told: BaseException = error
            if isinstance(error, errors.LocalEntryNotFoundError):
                # It stands for what kept huggingface_hub from asking for a file.
                told = error.__cause__ or error
            raise _explain(source, shown(at), told, where) from error


def _explain(  # noqa: PLR0911 - one a cause
    source: Source, at: str, error: BaseException, where: Path | None
) -> FetchError | FileSystemError:
    repo = _named(source)
    page = f"{at}/{'datasets/' if source.kind == 'dataset' else ''}{source.repo}"
    match error:
        case errors.OfflineModeIsEnabled():
            return FetchError(f"{repo}: HF_HUB_OFFLINE is set.", remedy="offline")
        case errors.GatedRepoError():
            return FetchError(f"{repo}: {at} has it behind terms.", remedy="gated", page=page)
        case errors.DisabledRepoError():
            return FetchError(f"{repo}: {at} has disabled it.", remedy="withdrawn")
        case errors.RepositoryNotFoundError():
            return FetchError(
                f"{repo}: {at} has no such repository, or hides it.", remedy="no-repository"
            )
        case errors.RevisionNotFoundError():
            return FetchError(
                f"{repo}: {page} has no such commit; it was rewritten, or the pin is wrong.",
                remedy="no-revision",
            )
        case errors.HfHubHTTPError():
            return _refused(f"{repo}: {at} answers HTTP", error.response.status_code)
        case UntrustedError():
            return FetchError(
                f"{repo}: the certificate of {at} is not trusted here ({error}).",
                remedy="certificate",
            )
        case GaveUpError(status=int()):
            return FetchError(f"{repo}: {at} answers {error}.", remedy="busy")
        case MalformedError() | TooLongError():
            return FetchError(f"{repo}: {at} {error}.", remedy="no-hub")
        case errors.FileMetadataError():
            return FetchError(f"{repo}: {at} does not answer as a hub does.", remedy="no-hub")
        case ClientError() | errors.LocalEntryNotFoundError():
            return FetchError(
                f"{repo}: {at} cannot be reached ({_first_line(error)}). Finished files are kept.",
                remedy="unreachable",
            )
        case OSError() if system_errors.concerns_files(error):
            what = f"{repo}: the download broke off, finished files are kept"
            return system_errors.of_files(error, what, where)
    return FetchError(
        f"{repo}: the download broke off ({_first_line(error)}). Run again; finished files are "
        "kept."
    )


def _first_line(error: BaseException) -> str:
    """What a library says; its second line says what to do, in the words of its own functions."""
    return said(str(error).partition("\n")[0])


def _named(source: Source) -> str:
    """A repository and its commit, which its address has only once it is known."""
    commit = source.revision if isinstance(source.revision, str) else "an unresolved commit"
    return f"{source.kind} {source.repo} at {commit}"


def _refused(answer: str, status: int) -> FetchError:
    """What a status means that asking again does not change."""
    match status:
        case 401:
            return FetchError(
                f"{answer} 401: it does not know this account, or does not take its token.",
                remedy="login",
            )
        case 403:
            return FetchError(f"{answer} 403: this account may not read it.", remedy="no-access")
        case 404:
            return FetchError(f"{answer} 404: it has nothing there.", remedy="no-repository")
        case 410:
            return FetchError(f"{answer} 410: it was deleted for good.", remedy="withdrawn")
        case 451:
            return FetchError(
                f"{answer} 451: it is withheld for legal reasons.", remedy="withdrawn"
            )
    return FetchError(f"{answer} {status}, which no hub does.", remedy="no-hub")


def _missing(
    source: Source,
    globs: tuple[Sequence[str], Sequence[str]],
    cache: Path,
    listed: Callable[[], Mapping[str, RepoFile]],
) -> dict[str, int]:
    """The files that are not in the cache, by address, with their sizes."""
    entries, (needed, also) = listed(), globs
    return {
        f"{source.uri}#{name}": entries[name].size
        for name in select(entries, needed, source.uri, strict=True, also=also)
        if not _is_there(source, name, cache)
    }


def _is_there(source: Source, name: str, cache: Path) -> bool:
    commit = str(source.revision)
    return isinstance(try_to_load_from_cache(source.repo, name, cache, commit, source.kind), str)


def _download(source: Source, entries: Mapping[str, RepoFile], cache: Path) -> dict[str, Path]:
    """Brings the files into the cache, several at a time; the hub is not asked for those there."""
    missing = {name for name in entries if not _is_there(source, name, cache)}
    total = sum(entries[name].size for name in missing)
    cache.mkdir(parents=True, exist_ok=True)
    disable_progress_bars()  # ours tells of all files together
    client = api()
    with (
        console.bytes_bar(f"fetching {source.repo}", total) as advance,
        explained(source, client.endpoint, cache),
    ):

        def get(name: str) -> Path:
            path = _get(client, source, name, entries[name].size, cache)
            advance(entries[name].size if name in missing else 0)
            return path

        with ThreadPoolExecutor(max_workers=PARALLEL) as pool:
            return dict(zip(entries, pool.map(get, entries), strict=True))


def _get(client: HfApi, source: Source, name: str, size: int, cache: Path) -> Path:
    """Downloads a file, of which no more is written than the hub lists."""
    with within(most=size):
        path = client.hf_hub_download(
            source.repo, name, repo_type=source.kind, revision=str(source.revision), cache_dir=cache
        )
    return Path(path)


def _check(source: Source, entry: RepoFile, file: File) -> None:
    """Checks a download by the commit: its sha256 if it is a large file, else git's blob id."""
    if entry.lfs is not None:
        kind, pinned, found = "sha256", entry.lfs.sha256, file.sha256
    else:
        kind, pinned, found = "git blob id", entry.blob_id, blob_id(file.path.read_bytes())
    if found != pinned:
        file.path.resolve().unlink()
        raise FetchError(
            f"{source.uri}#{entry.path}: the download has {kind} {found}, the commit says "
            f"{pinned}. It was removed; run again, and if it comes again, distrust the hub."
        )
