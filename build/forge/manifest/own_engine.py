"""An engine that is not the locked one: what it was told besides the profile, and its packages.

A report that has this in it is of a machine with packages of its own. It is worth reading, and no
release can have it.
"""

from typing import Annotated

from pydantic import Field, StringConstraints, field_validator

from forge.core.model import Maybe, Model

NOT_LOCKED = "was made with a machine's own engine, not with that of the lock file"
# What chooses kernels and nothing else: no variable that holds a secret or changes what is run.
Variable = Annotated[
    str,
    StringConstraints(
        pattern=r"^(VLLM|CUDA|TORCH|TORCHINDUCTOR|TRITON|FLASHINFER|NCCL)_[A-Z0-9_]+$",
        max_length=100,
    ),
]
Flag = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]*(\.\w+)*$", max_length=100)]
Text = Annotated[str, StringConstraints(max_length=300)]
Real = Annotated[float, Field(allow_inf_nan=False)]
# The assay gives these itself.
RESERVED = frozenset({"host", "model", "port", "served-model-name", "speculative-config"})


class EngineSettings(Model):
    """What the engine of a machine needs; a TOML file has this form."""

    env: dict[Variable, Text] = Field(
        default_factory=dict, description="Variables of the server's environment."
    )
    serve: dict[Flag, Text | int | Real | bool] = Field(
        default_factory=dict, description="Flags of `vllm serve`, without dashes before them."
    )

    @field_validator("serve")
    @classmethod
    def _leave_ours(cls, serve: dict[str, object]) -> dict[str, object]:
        if taken := sorted(RESERVED & serve.keys()):
            raise ValueError(f"--{taken[0]} is what the assay sets itself")
        return serve


class Version(Model):
    """A version that differs from the lock file's; `found` is left out if there is none."""

    locked: str
    found: Maybe[str] = None


class OwnEngine(Model):
    """The engine of a machine with packages of its own."""

    engine: Annotated[str, Field(description="The engine's version; empty if there is none.")]
    python: str
    settings: EngineSettings
    differing: Annotated[
        dict[str, Version],
        Field(description="The packages that are not those of the lock file, by name."),
    ]
