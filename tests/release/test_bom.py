"""The bill of materials: valid CycloneDX by its own library, and complete."""

import json

import pytest
import reports
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from forge.manifest import document, licences, verification
from forge.manifest import test_result as statements
from forge.manifest.bom import Bom, bom
from forge.manifest.names import BOM, TEST_RESULT
from forge.manifest.provenance import Manifest
from forge.manifest.test_result import TestResult
from forge.recipes import recipe

MIT = "MIT License"


def mistakes(text):
    return JsonStrictValidator(SchemaVersion.V1_7).validate_str(text)


@pytest.fixture(scope="module")
def made(good):
    return (good / "provenance" / BOM).read_text(encoding="utf-8")


def test_it_is_valid(made):
    assert mistakes(made) is None
    assert Bom.parse(made.encode()).encoded() == made.encode()


def test_the_validator_sees_mistakes(made):
    assert mistakes(made.replace('"type":"data"', '"type":"dataset"')) is not None
    assert mistakes(made.replace('"bomFormat"', '"format"')) is not None


def test_it_has_every_file_and_input(good, made):
    manifest = document.read(Manifest, good / "provenance/provenance.json")
    data = json.loads(made)
    result = data["metadata"]["component"]
    files = {one["name"]: one["hashes"][0]["content"] for one in result["components"]}
    stated = {name: digest for name, digest in manifest.results.items() if "/" not in name}
    assert files == stated
    inputs = {
        one["name"]: one["hashes"][0]["content"]
        for source in data["components"]
        for one in source["components"]
    }
    assert inputs == {one.name: one.digest.sha256 for one in manifest.inputs}
    assert {one["name"] for one in result["pedigree"]["ancestors"]} == {"base"}
    references = [one["ref"] for one in result["modelCard"]["modelParameters"]["datasets"]]
    assert set(references) <= {one["bom-ref"] for one in data["components"]}


@pytest.mark.parametrize("licence", ["apache-2.0", "mit", None])
def test_one_of_what_an_engine_measured_is_valid(good, licence):
    manifest = document.read(Manifest, good / "provenance/provenance.json")
    variant = recipe.find(manifest.asked.target)
    found = bom(manifest, "0" * 64, variant, reports.report(variant), licence)
    assert mistakes(found.encoded().decode()) is None
    card = found.metadata.component.model_card
    assert [one.type for one in card.quantitative_analysis.performance_metrics] == [
        "perplexity", "perplexity of the base", "MTP acceptance, position 1",
    ]  # fmt: skip


def test_licences_are_those_of_the_hub_and_of_spdx():
    assert licences.identified(MIT.encode()) == "mit"
    assert licences.SPDX.keys() == {"apache-2.0", "mit"}


def test_the_test_result_names_every_check(good):
    data = (good / "provenance" / TEST_RESULT).read_bytes()
    found = TestResult.parse(data)
    assert found.encoded() == data
    assert found.predicate.result == "PASSED"
    assert found.predicate.passed_tests == verification.STRUCTURE
    assert found.predicate.failed_tests == ()


def test_what_was_not_verified_has_not_passed(good):
    manifest = document.read(Manifest, good / "provenance/provenance.json")
    variant = recipe.find(manifest.asked.target)
    nothing = verification.report(variant, "none", [])
    found = statements.test_result(manifest, nothing).predicate
    assert (found.result, found.passed_tests) == ("FAILED", ())
