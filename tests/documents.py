"""A small manifest for tests, without a build."""

from forge.core import machine
from forge.manifest import provenance
from forge.manifest.provenance import (
    BUILD_TYPE,
    REHEARSALS,
    Builder,
    Definition,
    Details,
    External,
    Internal,
    Metadata,
    StepRecord,
)

NOTHING = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
THEN = "2026-01-01T00:00:00+00:00"


def manifest(variant, source="standin:x"):
    """The manifest of a rehearsal."""
    recipe = provenance.recipe_of(variant)
    record = StepRecord(
        key="key",
        started=THEN,
        finished=THEN,
        parameters={},
        needs={},
        code=NOTHING,
        distributions={},
        system={},
        outputs={},
    )
    return provenance.manifest(
        {"config.json": NOTHING},
        Definition(
            build_type=BUILD_TYPE,
            external_parameters=External(source=source, target=variant, recipe=recipe),
            internal_parameters=Internal(
                source={},
                fetched_from={"base": "standin"},
                machine=machine.machine(),
                verified="structure",
            ),
            resolved_dependencies=(
                *provenance.source_files({recipe: NOTHING}),
                provenance.source_tree("unknown", uncommitted_changes=True),
            ),
        ),
        Details(
            builder=Builder(id=REHEARSALS["host"]),
            metadata=Metadata(started_on=THEN, finished_on=THEN),
            byproducts=(provenance.step("fetch", record),),
        ),
    )
