"""JSON Schemas of the documents, for those who read them without Hallmark."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic.json_schema import GenerateJsonSchema

from forge.core import checkout, placing
from forge.core.model import NOT_NULL, Model
from forge.core.results import Record
from forge.manifest.bom import Bom
from forge.manifest.inputs import Inputs
from forge.manifest.ledger import Ledger
from forge.manifest.model_signature import ModelSignature
from forge.manifest.policy import Policy
from forge.manifest.provenance import Manifest
from forge.manifest.release_list import Release
from forge.manifest.reproduction import Outcome, Reproduction
from forge.manifest.tensor_list import TensorLine
from forge.manifest.test_result import TestResult
from forge.manifest.verification import Report

FOLDER = checkout.ROOT / "docs" / "schemas"
SUFFIX = ".schema.json"
MODELS: Mapping[str, type[Model]] = {
    "bom": Bom,
    "inputs": Inputs,
    "ledger": Ledger,
    "model": ModelSignature,
    "policy": Policy,
    "provenance": Manifest,
    "record": Record,
    "release": Release,
    "reproduced": Outcome,
    "reproduction": Reproduction,
    "tensors": TensorLine,
    "test-result": TestResult,
    "verification": Report,
}


class _Generator(GenerateJsonSchema):
    """Leaves out titles that repeat a key's name."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        del schema
        return False


def schema(name: str) -> dict[str, Any]:
    """The JSON Schema of a document of `MODELS`."""
    made = MODELS[name].model_json_schema(by_alias=True, schema_generator=_Generator)
    return {
        "$schema": _Generator.schema_dialect,
        "$id": f"urn:hallmark:schema:{name}",
        **_tidy(made),
    }


def text(name: str) -> str:
    """The schema file of a document of `MODELS`."""
    return json.dumps(schema(name), indent=2, ensure_ascii=False) + "\n"


def write(folder: Path) -> list[Path]:
    """Writes every schema, and removes those of documents that are gone."""
    paths = {folder / f"{name}{SUFFIX}": text(name) for name in MODELS}
    for path, content in paths.items():
        placing.write(path, content.encode())
    for old in sorted(folder.iterdir()):  # a glob passes over a folder that may not be read
        if old.name.endswith(SUFFIX) and old not in paths:
            old.unlink()
    return sorted(paths)


def _tidy(value: Any) -> Any:
    """Docstrings on one line; a key that may be left out may not be null, as `Maybe` reads it."""
    if isinstance(value, list):
        return [_tidy(item) for item in value]
    if not isinstance(value, dict):
        return value
    value = {key: _tidy(item) for key, item in value.items()}
    if isinstance(value.get("description"), str):
        value["description"] = " ".join(value["description"].split())
    if value.pop(NOT_NULL, False):
        (kind,) = (one for one in value.pop("anyOf") if one != {"type": "null"})
        del value["default"]
        value = {**kind, **value}
    return value
