"""What a checker knows beforehand of a release: which files must be named by its manifest."""

from forge.calibration import record
from forge.manifest.names import (
    PROVENANCE,
    SUMS,
    TENSORS,
    VERIFICATION,
    listing_of,
    original_of,
)
from forge.tensors.configs import CONFIG

# The lock file of the environment that writes the checkpoint, which every build names.
LOCK = "lockfiles/build.txt"
# What lies in the provenance beside the manifest that names it.
BESIDE = tuple(
    f"{PROVENANCE}/{name}"
    for name in (
        SUMS, TENSORS, record.FILE, VERIFICATION, listing_of("base"), original_of(f"base/{CONFIG}"),
    )
)  # fmt: skip
