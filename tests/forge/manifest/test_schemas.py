"""The schemas in docs/ are those of the models."""

import importlib
import json
import pkgutil

import pytest

from forge import manifest
from forge.core.model import Model
from forge.manifest import schemas
from forge.manifest.schemas import FOLDER, MODELS, SUFFIX


def stale(folder):
    """What `make schemas` would change there."""
    there = {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}
    made = {f"{name}{SUFFIX}": schemas.text(name) for name in MODELS}
    return sorted(name for name in there.keys() | made.keys() if there.get(name) != made.get(name))


def test_they_are_not_stale():
    assert stale(FOLDER) == [], "run `make schemas`"


def test_a_stale_one_is_noticed(tmp_path):
    schemas.write(tmp_path)
    assert stale(tmp_path) == []
    (tmp_path / "policy.schema.json").write_text("{}", encoding="utf-8")
    (tmp_path / "release.schema.json").unlink()
    (tmp_path / "former.schema.json").write_text("{}", encoding="utf-8")
    assert stale(tmp_path) == ["former.schema.json", "policy.schema.json", "release.schema.json"]
    schemas.write(tmp_path)
    assert stale(tmp_path) == []


def objects(schema):
    """Every object that a schema describes by its keys."""
    return [one for one in (schema, *schema.get("$defs", {}).values()) if "properties" in one]


@pytest.mark.parametrize("name", MODELS)
def test_every_object_is_closed_and_described(name):
    schema = json.loads(schemas.text(name))
    assert schema["$id"] == f"urn:hallmark:schema:{name}"
    for one in objects(schema):
        assert one["additionalProperties"] is False
        assert one["description"]
        assert "\n" not in one["description"]


def test_what_may_be_left_out_may_not_be_null():
    ratio = schemas.schema("policy")["properties"]["max_perplexity_ratio"]
    assert ratio["type"] == "number"
    assert "default" not in ratio


def test_every_document_has_one():
    """A model that is no part of another is a document."""
    models = set()
    for found in pkgutil.iter_modules(manifest.__path__):
        module = importlib.import_module(f"{manifest.__name__}.{found.name}")
        models |= {
            one
            for one in vars(module).values()
            if isinstance(one, type)
            and issubclass(one, Model)
            and one.__module__ == module.__name__
        }
    described = {
        title
        for name in MODELS
        for title in (MODELS[name].__name__, *schemas.schema(name).get("$defs", {}))
    }
    # The last ones are the schemas of tools that a model is given.
    bases = {"InToto", "Statement", "Check", "Figures", "Chat", "Texts", "CycloneDx", "Holder"}
    bases |= {"WeatherArguments", "OrderArguments", "Item"}
    names = {model.__name__.partition("[")[0].partition(" of ")[0] for model in models}
    assert names - described == bases
