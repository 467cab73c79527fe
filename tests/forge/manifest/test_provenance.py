"""The model of the manifest: bytes that stay as they are, and answers without a chain of keys."""

import json

import pytest
from conftest import FLAGSHIP
from documents import NOTHING, THEN, manifest

from forge.core import canonical
from forge.core.errors import ManifestError
from forge.core.machine import Container, ContainerEngine, ContainerImage
from forge.manifest import document, provenance
from forge.manifest.inputs import InputFile
from forge.manifest.provenance import (
    BaseImage,
    Image,
    ImageContents,
    Input,
    Manifest,
    SourceFile,
    SourceTree,
    Step,
)
from forge.manifest.statement import Digest


@pytest.fixture
def stated():
    return manifest(FLAGSHIP)


def with_dependencies(stated, *more):
    """The same manifest with further dependencies."""
    definition = stated.predicate.build_definition
    resources = (*definition.resolved_dependencies, *more)
    definition = definition.model_copy(update={"resolved_dependencies": resources})
    predicate = stated.predicate.model_copy(update={"build_definition": definition})
    return stated.model_copy(update={"predicate": predicate})


def file(path, size):
    return InputFile(role="base", path=path, sha256=NOTHING, bytes=size, uri=f"pkg:x#{path}")


def test_what_is_read_is_written_again_byte_for_byte(stated):
    data = stated.encoded()
    assert data == (canonical.dumps(json.loads(data)) + "\n").encode()
    assert Manifest.parse(data).encoded() == data


def test_keys_are_those_of_in_toto_and_slsa(stated):
    value = json.loads(stated.encoded())
    assert value.keys() == {"_type", "subject", "predicateType", "predicate"}
    assert value["predicate"]["buildDefinition"]["buildType"] == "urn:hallmark:build:v2"
    assert value["predicate"]["runDetails"]["metadata"] == {"startedOn": THEN, "finishedOn": THEN}
    assert "uri" not in value["subject"][0]


def test_every_kind_of_dependency_is_read_as_what_it_is(stated):
    image = Image(
        name="image",
        digest=Digest(sha256=NOTHING),
        annotations=ImageContents(layers_sha256=NOTHING, labels={"a": "b"}),
    )
    base = BaseImage(name="image/base", digest=Digest(sha256=NOTHING), uri="oci:x")
    more = [provenance.input_of(file("model.safetensors", 7)), image, base]
    read = Manifest.parse(with_dependencies(stated, *more).encoded())
    found = read.predicate.build_definition.resolved_dependencies
    assert [type(one) for one in found] == [SourceFile, SourceTree, Input, Image, BaseImage]
    assert read.encoded() == with_dependencies(stated, *more).encoded()


def test_answers(stated):
    inputs = [provenance.input_of(file(*one)) for one in (("a.safetensors", 7), ("a.json", 5))]
    stated = with_dependencies(stated, *inputs)
    recipe = f"build/variants/{FLAGSHIP}.toml"
    assert (stated.asked.target, stated.asked.recipe) == (FLAGSHIP, recipe)
    assert stated.rehearsal
    assert stated.commit.digest.git_commit == "unknown"
    assert stated.base_bytes == 7
    assert [one.role for one in stated.inputs] == ["base", "base"]
    assert stated.dependencies == {
        recipe: NOTHING, "base/a.safetensors": NOTHING, "base/a.json": NOTHING
    }  # fmt: skip
    assert stated.results.keys() == {"config.json", "step/fetch"}
    assert isinstance(stated.steps["fetch"], Step)
    assert stated.steps["fetch"].digest.sha256 == stated.steps["fetch"].annotations.sha256


def test_a_record_in_a_container():
    """What the runner tells the process inside is read as it was written."""
    image = ContainerImage(id="sha256:x", layers=NOTHING, labels={})
    engine = ContainerEngine(name="x", version="1")
    container = Container(image=image, engine=engine, graphics=None)
    assert Container.parse(container.encoded()) == container


def test_a_name_twice(stated):
    twice = with_dependencies(stated, *provenance.source_files({"build/x": NOTHING}) * 2)
    with pytest.raises(ManifestError, match="resolvedDependencies: .*'build/x' stands twice"):
        document.parse(Manifest, twice.encoded(), "it")


@pytest.mark.parametrize("build_type", ["urn:hallmark:build:v1", "urn:hallmark:build:v3"])
def test_other_build_types(stated, build_type):
    data = stated.encoded().replace(b"urn:hallmark:build:v2", build_type.encode())
    reason = {
        "urn:hallmark:build:v1": "it: its build type is urn:hallmark:build:v1, this version reads "
        "urn:hallmark:build:v2 alone",
        "urn:hallmark:build:v3": "buildType: Input should be 'urn:hallmark:build:v2'",
    }[build_type]
    with pytest.raises(ManifestError, match=reason):
        document.parse(Manifest, data, "it")
