"""The files of a release that are uploaded to a hub. What is sent is what was hashed."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from huggingface_hub import CommitOperationAdd

from forge.core.errors import UploadError
from forge.core.files import File, Stamps, stamps

# Up to this size a file is sent from memory. The hub puts no larger one into a commit itself, it
# takes those as LFS files, under their digest.
IN_MEMORY = 16 << 20


@dataclass(frozen=True, kw_only=True)
class Outgoing:
    """The files of a release by path, and their stamps from before they were hashed."""

    files: Mapping[str, File]
    stamps: Stamps
    _read: dict[str, bytes] = field(default_factory=dict)

    def content(self, name: str) -> bytes:
        """The bytes of a small file, which are those that were hashed; they are kept in memory.

        Raises:
            UploadError: the file was changed before it was read.
        """
        if name not in self._read:
            self._read[name] = self._compared(name)
        return self._read[name]

    def _compared(self, name: str) -> bytes:
        file = self.files[name]
        try:
            data = file.path.read_bytes()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise _changed(file.path) from error
        if sha256(data).hexdigest() != file.sha256:
            raise _changed(file.path)
        return data

    def require_unchanged(self, names: Iterable[str] | None = None) -> None:
        """Refuses files whose stamp is not what it was before they were hashed; by default all.

        Raises:
            UploadError: it names the first.
        """
        wanted = self.files.keys() if names is None else set(names)
        for name, *stamp in self.stamps:
            if name not in wanted:
                continue
            path = self.files[name].path
            try:
                ((_, *now),) = stamps({name: path})
            except (FileNotFoundError, NotADirectoryError) as error:
                raise _changed(path) from error
            if stamp != now:
                raise _changed(path)

    def addition(self, name: str) -> CommitOperationAdd:
        """What adds a file to a commit.

        Raises:
            UploadError: the file was changed.
        """
        file = self.files[name]
        if file.bytes <= IN_MEMORY:
            return CommitOperationAdd(name, self.content(name))
        self.require_unchanged([name])
        return CommitOperationAdd(name, file.path)

    def require_sent(self, addition: CommitOperationAdd) -> None:
        """Refuses a file that was sent with other bytes, by the digest that was taken on sending.

        Raises:
            UploadError: the file was changed.
        """
        name = addition.path_in_repo
        if name in self._read:  # it was sent from memory
            return
        file, sent = self.files[name], addition.upload_info
        if (sent.size, sent.sha256.hex()) != (file.bytes, file.sha256):
            raise _changed(file.path)
        self.require_unchanged([name])


def _changed(path: Path) -> UploadError:
    return UploadError(
        f"{path}: was changed after it was checked, so it is not published. Let nothing write to "
        "the release, and run this again."
    )
