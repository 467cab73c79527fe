"""Every way in which Hallmark stops, each with its own exit code.

A message says what happened, which value in which file, and what to do next. Anything that is
not a :class:`HallmarkError` is a bug and keeps its traceback.
"""


class HallmarkError(Exception):
    """A failure that the user can act on; the command line prints it and exits with `code`."""

    code = 1


class RecipeError(HallmarkError):
    """A recipe file is malformed, contradicts itself, or does not fit the checkpoint."""

    code = 3


class UnpinnedError(HallmarkError):
    """A real build was asked for, but an input of the recipe has no full pin yet."""

    code = 4


class FetchError(HallmarkError):
    """An input cannot be had, or its bytes are not the pinned ones."""

    code = 5


class TensorFileError(HallmarkError):
    """A safetensors file, or an index over several, breaks the format."""

    code = 6


class CalibrationError(HallmarkError):
    """The forward passes did not give a usable calibration record."""

    code = 7


class QuantizeError(HallmarkError):
    """A tensor cannot be quantized or copied as its rule says."""

    code = 8


class GraftError(HallmarkError):
    """The MTP head is not exactly the set of tensors that the recipe declares."""

    code = 9


class DressError(HallmarkError):
    """A file beside the weights cannot be derived from the base."""

    code = 10


class VerificationError(HallmarkError):
    """The built checkpoint failed the assay; the report names every failed check."""

    code = 11


class StoreError(HallmarkError):
    """A result in the store cannot be used, or the store cannot be written."""

    code = 12


class EngineError(HallmarkError):
    """The inference engine did not start, or died while it was being asked."""

    code = 13


class SourceError(HallmarkError):
    """The source tree is not a commit, so a manifest could not say what built the result."""

    code = 14


class DifferenceError(HallmarkError):
    """Two checkpoints that were to be the same are not; what differs was printed."""

    code = 20


class ManifestError(HallmarkError):
    """A provenance manifest is malformed, or what it names is not what is here."""

    code = 21


class ContainerError(HallmarkError):
    """A container was ended before its work was done, at a limit or by someone."""

    code = 30


class NoEngineError(HallmarkError):
    """No container engine answers."""

    code = 31


class EnginePermissionError(HallmarkError):
    """There is a container engine, but this user may not use it."""

    code = 32


class ImageError(HallmarkError):
    """The pinned image cannot be made, is not there, or was made for another machine."""

    code = 33


class NoGpuError(HallmarkError):
    """A GPU is needed, and there is none or the engine cannot hand it on."""

    code = 34


class DriverError(HallmarkError):
    """The GPU's driver is too old for the image's CUDA, or does not answer."""

    code = 35


class SpaceError(HallmarkError):
    """Too little disk, memory or shared memory for what is asked."""

    code = 36


class SigningError(HallmarkError):
    """A release cannot be signed: no usable key or identity, or it is not what it lists."""

    code = 40


class ReleaseError(HallmarkError):
    """A release is not what its signed statements say; the message is the first reason."""

    code = 41


class UploadError(HallmarkError):
    """A release cannot be published, or the hub does not hold what was sent."""

    code = 42
