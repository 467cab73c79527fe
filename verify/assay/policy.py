"""What a verifier demands of a release beyond that it is whole: a TOML file, or the default.

The default takes any builder of Hallmark, and a build whose structure at least was verified.
"""

import json
import tomllib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from forge import attest
from forge.errors import ReleaseError
from forge.sources import Model

BUILDERS = (*attest.BUILDERS.values(), *attest.REHEARSALS.values())
Rate = Annotated[float, Field(ge=0, le=1)]


class Policy(Model):
    """The demands.

    `level` is how far the build must have been verified; `committed` that it was built from a
    commit without further changes; `reproductions` how many others must have rebuilt it.
    """

    builders: tuple[str, ...] = Field(default=BUILDERS, min_length=1)
    level: Literal["structure", "all"] = "structure"
    committed: bool = False
    max_perplexity_ratio: Annotated[float, Field(gt=0)] | None = None
    min_acceptance: tuple[Rate, ...] = ()
    reproductions: int = Field(default=0, ge=0)


def read(path: Path) -> Policy:
    """The policy of a file.

    Raises:
        ReleaseError: it cannot be read, or demands what is not known here.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
        return Policy.model_validate_json(json.dumps(data, default=str))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ReleaseError(
            f"{path}: {key}: {first['msg']}; the value is {first['input']!r}."
        ) from error
    except (OSError, ValueError) as error:
        raise ReleaseError(f"{path}: cannot be read: {error}.") from error
