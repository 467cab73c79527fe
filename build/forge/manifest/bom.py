"""`bom.cdx.json`: what a release is made of, as a CycloneDX 1.7 ML-BOM in canonical JSON.

The format: https://cyclonedx.org/docs/1.7/json. Everything in it follows from the manifest, the
report, the recipe and the text of the licence, so anybody can make it again. It is neither a claim
of its own nor signed by itself: the signed list of the release has its digest.
"""

from collections.abc import Iterable
from typing import Any, Final, Literal
from uuid import NAMESPACE_URL, uuid5

from pydantic import ConfigDict
from pydantic.alias_generators import to_camel

from forge.core.model import Maybe, Model, Sha256, Timestamp
from forge.manifest import release_list
from forge.manifest.licences import SPDX
from forge.manifest.names import PROVENANCE
from forge.manifest.provenance import Input, Manifest
from forge.manifest.served_figures import Drafts, Perplexity
from forge.manifest.verification import Report
from forge.recipes.recipe import Recipe

SCHEMA: Final = "http://cyclonedx.org/schema/bom-1.7.schema.json"
KIND = Literal["machine-learning-model", "data", "file", "application"]
MODELS = ("base", "donor")
PURL = "pkg:"


def _spelled(name: str) -> str:
    """A key of CycloneDX: in camel case, but for these."""
    return {"schema_": "$schema", "bom_ref": "bom-ref"}.get(name, to_camel(name))


class CycloneDx(Model):
    """A part of the document, with CycloneDX's keys."""

    model_config = ConfigDict(
        alias_generator=_spelled, validate_by_name=True, validate_by_alias=True
    )


class Hash(CycloneDx):
    """The digest of a file."""

    alg: Literal["SHA-256"]
    content: Sha256


class License(CycloneDx):
    """A licence by its identifier of SPDX."""

    id: str


class LicenseChoice(CycloneDx):
    """The licence of a component."""

    license: License


class Property(CycloneDx):
    """What CycloneDX has no key for; names begin with `hallmark:`."""

    name: str
    value: str


class Reference(CycloneDx):
    """Another component of the document, by its `bom-ref`."""

    ref: str


class Parameters(CycloneDx):
    """What kind of model it is, and the data that it was calibrated and scored on."""

    architecture_family: Literal["transformer"]
    model_architecture: str
    datasets: tuple[Reference, ...]


class Metric(CycloneDx):
    """A figure that the assay has measured."""

    type: str
    value: str
    slice: Maybe[str] = None


class Analysis(CycloneDx):
    """The figures of the assay."""

    performance_metrics: tuple[Metric, ...]


class ModelCard(CycloneDx):
    """What is known of a model."""

    model_parameters: Parameters
    quantitative_analysis: Analysis


class Component(CycloneDx):
    """A model, a data set, a file or a program."""

    type: KIND
    bom_ref: str
    name: str
    version: str
    hashes: tuple[Hash, ...] = ()
    licenses: tuple[LicenseChoice, ...] = ()
    purl: Maybe[str] = None
    components: "tuple[Component, ...]" = ()
    properties: tuple[Property, ...] = ()


class Pedigree(CycloneDx):
    """What a model was derived from."""

    ancestors: tuple[Component, ...]


class Result(Component):
    """The model that is released."""

    pedigree: Pedigree
    model_card: ModelCard


class Tools(CycloneDx):
    """What built it."""

    components: tuple[Component, ...]


class Metadata(CycloneDx):
    """What the document is about."""

    timestamp: Timestamp
    tools: Tools
    component: Result


class Dependency(CycloneDx):
    """What a component was made from."""

    ref: str
    depends_on: tuple[str, ...]


class Bom(CycloneDx):
    """A bill of materials of a model."""

    schema_: Literal["http://cyclonedx.org/schema/bom-1.7.schema.json"]
    bom_format: Literal["CycloneDX"]
    spec_version: Literal["1.7"]
    serial_number: str
    version: Literal[1]
    metadata: Metadata
    components: tuple[Component, ...]
    dependencies: tuple[Dependency, ...]


def bom(
    manifest: Manifest, manifest_sha256: str, recipe: Recipe, report: Report, licence: str | None
) -> Bom:
    """The bill of materials of a release.

    Args:
        manifest: of the build.
        manifest_sha256: its digest, which is the version of the release.
        recipe: the one that the manifest names.
        report: the one that the manifest names.
        licence: what :func:`forge.manifest.licences.identified` says of the file LICENSE.
    """
    asked = manifest.asked
    named = release_list.purl(asked.target, manifest_sha256)
    licenses = (LicenseChoice(license=License(id=SPDX[licence])),) if licence else ()
    sources = _sources(manifest.inputs, licenses)
    commit = manifest.commit
    tool = Component(
        type="application",
        bom_ref="hallmark",
        name="hallmark",
        version=commit.digest.git_commit if commit else "unknown",
    )
    datasets = tuple(Reference(ref=one.bom_ref) for one in sources if one.type == "data")
    result = Result(
        type="machine-learning-model",
        bom_ref=named,
        name=asked.target,
        version=manifest_sha256,
        licenses=licenses,
        purl=named,
        components=tuple(
            _file(named, one.name, one.digest.sha256)
            for one in manifest.subject
            if not one.name.startswith(f"{PROVENANCE}/")
        ),
        properties=_properties(manifest, recipe, report),
        pedigree=Pedigree(ancestors=tuple(_alone(one) for one in sources if one.name in MODELS)),
        model_card=ModelCard(
            model_parameters=Parameters(
                architecture_family="transformer",
                model_architecture=recipe.architecture,
                datasets=datasets,
            ),
            quantitative_analysis=Analysis(performance_metrics=_metrics(report)),
        ),
    )
    return Bom(
        schema_=SCHEMA,
        bom_format="CycloneDX",
        spec_version="1.7",
        serial_number=uuid5(NAMESPACE_URL, named).urn,
        version=1,
        metadata=Metadata(
            timestamp=manifest.finished, tools=Tools(components=(tool,)), component=result
        ),
        components=sources,
        dependencies=(Dependency(ref=named, depends_on=tuple(one.bom_ref for one in sources)),),
    )


def _sources(inputs: Iterable[Input], licenses: tuple[LicenseChoice, ...]) -> tuple[Component, ...]:
    """A component for each role of the inputs; the licence is that of the base."""
    roles: dict[str, list[Input]] = {}
    for one in inputs:
        roles.setdefault(one.role, []).append(one)
    return tuple(_source(role, files, licenses) for role, files in sorted(roles.items()))


def _source(role: str, files: list[Input], licenses: tuple[LicenseChoice, ...]) -> Component:
    uri = files[0].uri.partition("#")[0]
    return Component(
        type="machine-learning-model" if role in MODELS else "data",
        bom_ref=f"input:{role}",
        name=role,
        version=uri.rpartition("@")[2],
        licenses=licenses if role == "base" else (),
        purl=uri if uri.startswith(PURL) else None,
        components=tuple(_file("input", one.name, one.digest.sha256) for one in files),
        properties=(Property(name="hallmark:uri", value=uri),),
    )


def _alone(component: Component) -> Component:
    """A component without its files, under a name of its own: each stands once in the document."""
    return component.model_copy(update={"bom_ref": f"ancestor:{component.name}", "components": ()})


def _file(parent: str, name: str, sha256: str) -> Component:
    return Component(
        type="file",
        bom_ref=f"{parent}#{name}",
        name=name,
        version=f"sha256:{sha256}",
        hashes=(Hash(alg="SHA-256", content=sha256),),
    )


def _properties(manifest: Manifest, recipe: Recipe, report: Report) -> tuple[Property, ...]:
    """How it was quantized, by whom it was built, and how far it was verified."""
    path = manifest.asked.recipe
    told: list[tuple[str, str]] = [
        ("builder", manifest.builder),
        (
            "recipe",
            f"{path}@sha256:{manifest.dependencies[path]}",
        ),
        ("calibration", recipe.calibration.engine),
        ("loader", recipe.layout.loader),
        ("kv-cache", recipe.layout.kv_cache or "unquantized"),
        ("mtp-head", recipe.mtp.source),
        ("verified", report.level),
        *(
            (f"quantize:{rule.format}", pattern)
            for rule in recipe.quantize
            for pattern in rule.modules
        ),
        *(("keep", pattern) for rule in recipe.keep for pattern in rule.tensors),
        *(("remove", pattern) for rule in recipe.remove for pattern in rule.tensors),
    ]
    return tuple(Property(name=f"hallmark:{name}", value=value) for name, value in told)


def _metrics(report: Report) -> tuple[Metric, ...]:
    """What an engine has measured, if one was asked."""
    made: list[dict[str, Any]] = []
    if scored := report.figures(Perplexity):
        made += [
            {"type": "perplexity", "value": repr(scored.result), "slice": scored.text},
            {"type": "perplexity of the base", "value": repr(scored.base), "slice": scored.text},
        ]
    if drafts := report.figures(Drafts):
        made += [
            {"type": f"MTP acceptance, position {position}", "value": repr(rate)}
            for position, rate in enumerate(drafts.acceptance, start=1)
        ]
    return tuple(Metric(**one) for one in made)
