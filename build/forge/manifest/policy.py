"""What a verifier may demand of a release beyond that it is whole; a TOML file has this form."""

from typing import Annotated, Literal

from pydantic import Field

from forge.core.model import Maybe, Model
from forge.manifest.provenance import BUILDERS, REHEARSALS

KNOWN_BUILDERS = (*BUILDERS.values(), *REHEARSALS.values())
Rate = Annotated[float, Field(ge=0, le=1)]


class Policy(Model):
    """The demands. The default takes any builder of Hallmark, verified in structure at least."""

    builders: Annotated[
        tuple[str, ...], Field(min_length=1, description="Whose builds are taken, by builder id.")
    ] = KNOWN_BUILDERS
    level: Annotated[
        Literal["structure", "all"], Field(description="How far the build must be verified.")
    ] = "structure"
    committed: Annotated[
        bool, Field(description="Whether it must be built from a commit without further changes.")
    ] = False
    max_perplexity_ratio: Annotated[
        Maybe[Annotated[float, Field(gt=0)]],
        Field(description="The largest perplexity, as a multiple of the base's."),
    ] = None
    min_acceptance: Annotated[
        tuple[Rate, ...],
        Field(description="The least share of the MTP head's drafts accepted, by position."),
    ] = ()
    reproductions: Annotated[
        int, Field(ge=0, description="How many others must have rebuilt it.")
    ] = 0
