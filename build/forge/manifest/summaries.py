"""The documents of a release that follow from its others, so anybody can make them again."""

from collections.abc import Mapping

from forge.manifest.bom import bom
from forge.manifest.names import BOM, PROVENANCE, TEST_RESULT
from forge.manifest.provenance import Manifest
from forge.manifest.test_result import test_result
from forge.manifest.verification import Report
from forge.recipes.recipe import Recipe


def documents(
    manifest: Manifest, manifest_sha256: str, recipe: Recipe, report: Report, licence: str | None
) -> Mapping[str, bytes]:
    """The bytes of test result and bill of materials, by path; see there for the arguments."""
    made = bom(manifest, manifest_sha256, recipe, report, licence)
    return {
        f"{PROVENANCE}/{TEST_RESULT}": test_result(manifest, report).encoded(),
        f"{PROVENANCE}/{BOM}": made.encoded(),
    }
