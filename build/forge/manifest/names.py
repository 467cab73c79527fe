"""Names of the files of a build and of a release."""

import re

# The folder beside the checkpoint, and what a build writes into it.
PROVENANCE = "provenance"
STATEMENT = "provenance.json"
SUMS = "SHA256SUMS"
TENSORS = "tensors.jsonl"
VERIFICATION = "verification.json"
# The error of every quantized linear, if the build was verified at all.
ERRORS = "quantization_error.jsonl"
# What fetch leaves beside the inputs.
INPUTS = "inputs.json"

# What `make release` puts beside a checkpoint; a rebuild does not have them.
DOCUMENTS = ("README.md", "NOTICE", "report.html", ".gitattributes")
# What it adds to the provenance: a test result and a bill of materials, which follow from what is
# there, and the list of all files.
TEST_RESULT = "test-result.json"
BOM = "bom.cdx.json"
CONTENTS = "release.json"
# The statements that are signed, each with the bundle that holds its signature, and the optional
# OpenSSF model signature.
BUNDLES = {
    STATEMENT: "provenance.sigstore.json",
    TEST_RESULT: "test-result.sigstore.json",
    CONTENTS: "release.sigstore.json",
}
MODEL_SIGNATURE = "model.sig"
SIGNATURES = tuple(f"{PROVENANCE}/{name}" for name in (*BUNDLES.values(), MODEL_SIGNATURE))
SUMMARIES = tuple(f"{PROVENANCE}/{name}" for name in (TEST_RESULT, BOM))
ADDED = frozenset({*DOCUMENTS, *SUMMARIES, f"{PROVENANCE}/{CONTENTS}", *SIGNATURES})


def listing_of(role: str) -> str:
    """What the list of the tensors of base or donor is called."""
    return f"{role}.tensors.jsonl"


def original_of(path: str) -> str:
    """What a file is called that is kept as it was fetched, such as `base/config.json`."""
    return path.replace("/", ".", 1)


def is_of_input(path: str) -> bool:
    """Whether a path of a release is that of a list or file of the inputs."""
    return (
        re.fullmatch(rf"{PROVENANCE}/(base|donor)\.(tensors\.jsonl|[^/]+\.json)", path) is not None
    )
