"""What a checker knows beforehand of a release: which files must be named by its manifest."""

from forge.calibration import record
from forge.manifest.names import PROVENANCE, SUMS, TENSORS, VERIFICATION

# No other environment's lock file counts: no step that writes a byte of the checkpoint runs there.
LOCK = "lockfiles/build.txt"
# What lies in the provenance beside the manifest that names it.
BESIDE = tuple(f"{PROVENANCE}/{name}" for name in (SUMS, TENSORS, record.FILE, VERIFICATION))
