"""Inputs from the hub: a repository's files at a commit, held to that commit's own listing.

A commit pins the listing, and the listing pins the bytes: by sha256 for the large files (LFS), by
git's blob id for the others. Downloads land in a cache folder of the store, by huggingface_hub,
which goes on where a connection broke off and keeps every finished file.
"""

import errno
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from huggingface_hub import errors, hf_hub_download, try_to_load_from_cache
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils.tqdm import disable_progress_bars

from forge.core import console
from forge.core.errors import FetchError
from forge.core.files import File, Origin, Watch, hash_files, select, stamps, unwatched
from forge.core.hub_client import LOGIN, ClientError, api, blob_id, endpoint
from forge.inputs.mirror import title
from forge.recipes.sources import Source

PROBE_SECONDS = 3.0
PARALLEL = 4


def unreachable(source: Source) -> str | None:
    """Why the hub does not give this repository's commit within seconds, or None if it does."""
    try:
        api().repo_info(
            source.repo,
            repo_type=source.kind,
            revision=str(source.revision),
            timeout=PROBE_SECONDS,
        )
    except (ClientError, OSError, ValueError) as error:
        return f"{endpoint()} does not give it ({type(error).__name__})"
    return None


def listing(source: Source) -> dict[str, RepoFile]:
    """The files of a repository at its commit, with size and digest, by path.

    Raises:
        FetchError: the hub cannot be asked, refuses, or answers for another commit.
    """
    asked, commit = api(), str(source.revision)
    with explained(source, asked.endpoint):
        found = asked.repo_info(source.repo, repo_type=source.kind, revision=commit).sha
        if found != commit:
            raise FetchError(
                f"{source.uri}: {endpoint()} answers with commit {found}. It is no hub to build "
                "from: check HF_ENDPOINT."
            )
        tree = asked.list_repo_tree(
            source.repo, repo_type=source.kind, revision=commit, recursive=True
        )
        return {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}


def repository(source: Source, globs: Sequence[str], cache: Path) -> Origin:
    """A repository at its commit; nothing is asked of the hub before it is taken."""
    return Origin(
        kind="hub",
        uri=source.uri,
        revision=str(source.revision),
        name=title(source),
        key=[source.uri, list(globs)],
        take=partial(take, source, globs, cache),
    )


def take(
    source: Source, globs: Sequence[str], cache: Path, watch: Watch = unwatched
) -> dict[str, File]:
    """The files that the globs select, downloaded into `cache` and checked.

    `watch` is told of each file, and fed what is read of it.

    Raises:
        FetchError: as `listing`; the disk is full; a download broke off; a file's bytes are not
            those of the commit (it is removed, so that the next run fetches it again).
    """
    entries = listing(source)
    names = select(entries, globs, source.uri, strict=True)
    paths = _download(source, {name: entries[name] for name in names}, cache)
    files = hash_files(paths, stamps(paths), watch)
    for name, file in files.items():
        _check(source, entries[name], file)
    return files


@contextmanager
def explained(source: Source, at: str) -> Iterator[None]:
    """Turns what huggingface_hub and its HTTP client raise into errors that name the way out.

    Raises:
        FetchError: in place of theirs.
    """
    commit = source.revision if isinstance(source.revision, str) else "an unresolved commit"
    repo = f"{source.kind} {source.repo} at {commit}"
    page = f"{at}/{'datasets/' if source.kind == 'dataset' else ''}{source.repo}"
    try:
        yield
    except errors.OfflineModeIsEnabled as error:
        raise FetchError(f"{repo}: HF_HUB_OFFLINE is set.", remedy="offline") from error
    except errors.GatedRepoError as error:
        raise FetchError(f"{repo} is gated: accept its terms at {page}, then {LOGIN}.") from error
    except errors.RepositoryNotFoundError as error:
        raise FetchError(
            f"{repo}: {at} has no such repository, or hides it: {LOGIN}, or correct the recipe."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise FetchError(
            f"{repo}: {page} has no such commit; it was rewritten, or the pin is wrong.",
            remedy="no-revision",
        ) from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        way = f"{LOGIN} with an account that may read it" if status in {401, 403} else "try later"
        raise FetchError(f"{repo}: {at} answers HTTP {status}; {way}.") from error
    except (ClientError, errors.LocalEntryNotFoundError) as error:
        raise FetchError(
            f"{repo}: {at} cannot be reached ({error}). Finished files are kept.",
            remedy="unreachable",
        ) from error
    except json.JSONDecodeError as error:
        raise FetchError(
            f"{repo}: {at} does not answer as a hub does. Check HF_ENDPOINT and the proxy."
        ) from error
    except OSError as error:
        raise FetchError(_disk_message(repo, error)) from error


def _download(source: Source, entries: Mapping[str, RepoFile], cache: Path) -> dict[str, Path]:
    """Brings the files into the cache, several at a time; the hub is not asked for those there."""
    commit = str(source.revision)

    def is_there(name: str) -> bool:
        found = try_to_load_from_cache(source.repo, name, cache, commit, source.kind)
        return isinstance(found, str)

    total = sum(entry.size for name, entry in entries.items() if not is_there(name))
    _require_space(source, cache, total)
    disable_progress_bars()  # ours tells of all files together
    with (
        console.bytes_bar(f"fetching {source.repo}", total) as advance,
        explained(source, endpoint()),
    ):

        def get(name: str) -> Path:
            size = 0 if is_there(name) else entries[name].size
            path = hf_hub_download(
                source.repo,
                name,
                repo_type=source.kind,
                revision=commit,
                cache_dir=cache,
                endpoint=endpoint(),
            )
            advance(size)
            return Path(path)

        with ThreadPoolExecutor(max_workers=PARALLEL) as pool:
            return dict(zip(entries, pool.map(get, entries), strict=True))


def _check(source: Source, entry: RepoFile, file: File) -> None:
    """Holds a download to the commit: its sha256 if it is a large file, else git's blob id."""
    if entry.lfs is not None:
        kind, pinned, found = "sha256", entry.lfs.sha256, file.sha256
    else:
        kind, pinned, found = "git blob id", entry.blob_id, blob_id(file.path)
    if found != pinned:
        file.path.resolve().unlink()
        raise FetchError(
            f"{source.uri}#{entry.path}: the download has {kind} {found}, the commit says "
            f"{pinned}. It was removed; run again, and if it comes again, distrust the hub."
        )


def _require_space(source: Source, cache: Path, needed: int) -> None:
    cache.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(cache).free
    if free < needed:
        raise FetchError(
            f"{source.uri}: {needed / 1e9:.1f} GB are still to be fetched, {cache} has room for "
            f"{free / 1e9:.1f} GB. Free some, or put the store on a larger disk."
        )


def _disk_message(repo: str, error: OSError) -> str:
    if error.errno == errno.ENOSPC:
        return f"{repo}: the disk is full. Free some of it and run again; finished files are kept."
    return f"{repo}: the download broke off ({error}). Run again; finished files are kept."
