"""`test-result.json`: which checks a build has passed, as an in-toto test result.

The predicate: https://github.com/in-toto/attestation/blob/main/spec/predicates/test-result.md. It
names every check, so a verifier that knows nothing of Hallmark can demand some of them. (A simple
verification result, the other standard form, has properties that were verified, and neither what
failed nor by which configuration.) All of it follows from manifest and report.
"""

from typing import Final, Literal

from pydantic import Field

from forge.manifest.names import PROVENANCE, VERIFICATION
from forge.manifest.provenance import Manifest
from forge.manifest.statement import TYPE, InToto, Resource, Statement, resource
from forge.manifest.verification import Report

PREDICATE_TYPE: Final = "https://in-toto.io/attestation/test-result/v0.1"
# in-toto wants keys that its specification does not have to be URIs.
REPORT: Final = "urn:hallmark:report"


class Tested(InToto):
    """What was tested, by which configuration."""

    result: Literal["PASSED", "FAILED"] = Field(
        description="FAILED if a check failed or none was made."
    )
    configuration: tuple[Resource, ...] = Field(description="The recipe, which has the thresholds.")
    passed_tests: tuple[str, ...]
    warned_tests: tuple[str, ...]
    failed_tests: tuple[str, ...]
    report: Resource = Field(alias=REPORT, description="The figures.")


class TestResult(Statement[Tested]):
    """The statement about the files of a checkpoint."""

    __test__ = False  # for pytest, which collects classes of such names

    predicate_type: Literal["https://in-toto.io/attestation/test-result/v0.1"]


def test_result(manifest: Manifest, report: Report) -> TestResult:
    """The statement of what the report of a build says."""
    path, recipe = f"{PROVENANCE}/{VERIFICATION}", manifest.asked.recipe
    within = f"{PROVENANCE}/"
    return TestResult(
        _type=TYPE,
        subject=tuple(one for one in manifest.subject if not one.name.startswith(within)),
        predicate_type=PREDICATE_TYPE,
        predicate=Tested(
            result="PASSED" if report.passed else "FAILED",
            configuration=(resource(recipe, manifest.dependencies[recipe]),),
            passed_tests=tuple(check.name for check in report.checks if check.passed),
            warned_tests=(),
            failed_tests=tuple(check.name for check in report.checks if not check.passed),
            **{REPORT: resource(path, manifest.results[path])},
        ),
    )
