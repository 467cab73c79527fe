"""Every way in which Hallmark stops, each with its own exit code.

A message states facts: what happened, which value in which file, and what would be right. It does
not name a command or an option, since the same library is used through several interfaces. Where
one of them has a remedy, the error carries its code and the facts that it needs. Anything that is
not a :class:`HallmarkError` is a bug and keeps its traceback.
"""

from typing import ClassVar


class HallmarkError(Exception):
    """A failure that the user can act on; the command line prints it and exits with `code`.

    `name` is the exit code in words. `remedy` is the code of what to do about it, and `facts` are
    the values that this needs; :mod:`forge.remedies` puts them into words. A class whose errors all
    have the same remedy names it, for others it is given with the error.
    """

    code: ClassVar[int] = 1
    name: ClassVar[str] = "error"
    remedy: str | None = None

    def __init__(self, message: str, *, remedy: str | None = None, **facts: object) -> None:
        super().__init__(message)
        self.facts = facts
        if remedy is not None:
            self.remedy = remedy


class RecipeError(HallmarkError):
    """A recipe file is malformed, contradicts itself, or does not fit the checkpoint."""

    code = 3
    name = "bad recipe"


class UnpinnedError(HallmarkError):
    """A real build was asked for, but an input of the recipe has no full pin yet."""

    code = 4
    name = "not pinned"
    remedy = "unpinned"


class FetchError(HallmarkError):
    """An input cannot be had, or its bytes are not the pinned ones."""

    code = 5
    name = "no input"


class TensorFileError(HallmarkError):
    """A safetensors file, or an index over several, breaks the format."""

    code = 6
    name = "bad file"


class CalibrationError(HallmarkError):
    """The forward passes did not give a usable calibration record."""

    code = 7
    name = "not calibrated"


class QuantizeError(HallmarkError):
    """A tensor cannot be quantized or copied as its rule says."""

    code = 8
    name = "not quantized"


class GraftError(HallmarkError):
    """The MTP head is not exactly the set of tensors that the recipe declares."""

    code = 9
    name = "wrong head"


class DressError(HallmarkError):
    """A file beside the weights cannot be derived from the base."""

    code = 10
    name = "not completed"


class VerificationError(HallmarkError):
    """The built checkpoint failed the assay; the report names every failed check."""

    code = 11
    name = "not verified"


class StoreError(HallmarkError):
    """A result in the store cannot be used, or the store cannot be written."""

    code = 12
    name = "no result"


class EngineError(HallmarkError):
    """The inference engine did not start, or died while it was being asked."""

    code = 13
    name = "no server"


class SourceError(HallmarkError):
    """The source tree is not a commit, so a manifest could not say what built the result."""

    code = 14
    name = "not committed"


class NoEnvironmentError(HallmarkError):
    """An environment that steps run in was not made on this machine."""

    code = 15
    name = "no environment"
    remedy = "no-environment"


class NotReadyError(HallmarkError):
    """A real build was asked for, but the recipe itself states why it cannot start yet."""

    code = 16
    name = "not ready"
    remedy = "not-ready"


class FileSystemError(HallmarkError):
    """The system refused a file or folder: it is not there, not permitted, read-only or full."""

    code = 17
    name = "no file"


class BaseError(HallmarkError):
    """The base, or the donor of its MTP head, is not what its architecture and the recipe need."""

    code = 18
    name = "wrong base"


class DifferenceError(HallmarkError):
    """Two checkpoints that were to be the same are not; what differs was printed."""

    code = 20
    name = "differs"


class ManifestError(HallmarkError):
    """A provenance manifest is malformed, or what it names is not what is here."""

    code = 21
    name = "wrong manifest"


class ContainerError(HallmarkError):
    """A container was ended before its work was done, at a limit or by someone."""

    code = 30
    name = "ended"


class NoEngineError(HallmarkError):
    """No container engine answers."""

    code = 31
    name = "no engine"


class EnginePermissionError(HallmarkError):
    """There is a container engine, but this user may not use it."""

    code = 32
    name = "no permission"


class ImageError(HallmarkError):
    """The pinned image cannot be made, is not there, or was made for another machine."""

    code = 33
    name = "no image"


class NoGpuError(HallmarkError):
    """A GPU is needed, and there is none or the engine cannot hand it on."""

    code = 34
    name = "no GPU"


class DriverError(HallmarkError):
    """The GPU's driver is too old for the image's CUDA, or does not answer."""

    code = 35
    name = "no driver"


class SpaceError(HallmarkError):
    """Too little disk, memory or shared memory for what is asked."""

    code = 36
    name = "no room"


class SigningError(HallmarkError):
    """A release cannot be signed: no usable key or identity, or it is not what it lists."""

    code = 40
    name = "not signed"


class ReleaseError(HallmarkError):
    """A release is not what its signed statements say; the message is the first reason."""

    code = 41
    name = "refused"


class UploadError(HallmarkError):
    """A release cannot be published, or the hub does not hold what was sent."""

    code = 42
    name = "not published"
