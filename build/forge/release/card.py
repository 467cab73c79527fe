"""The texts of a release, generated from its facts: model card and NOTICE.

The card's metadata are those of the hub (https://huggingface.co/docs/hub/model-cards). A figure
that was not measured has no line.
"""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from forge.core.portable import shown
from forge.core.sizes import size
from forge.recipes.recipe import Profile
from forge.release.facts import Facts

# What Markdown, or HTML in it, takes for more than a character.
_MARKDOWN = re.compile(r"[\\`*_\[\]<>&|~]")
LIBRARY = "vllm"  # what the result was tested with, and the only library that is promised


def environment() -> Environment:
    """The templates; what they are given is escaped in HTML, and must exist."""
    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=select_autoescape(["html.jinja"], default=False),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_seen,
    )
    made.filters["size"] = size
    made.filters["cell"] = _cell
    return made


def _seen(value: object) -> object:
    """What a template puts in, without a character that acts or hides; markup stays markup."""
    if not isinstance(value, str):
        return value
    return type(value)(shown(value, keep="\n"))


def _cell(text: object) -> str:
    """A text that others wrote, as the cell of a table in Markdown."""
    return _MARKDOWN.sub(r"\\\g<0>", shown(str(text)))


def card(facts: Facts) -> str:
    """README.md."""
    template = environment().get_template("README.md.jinja")
    return template.render(facts=facts, metadata=metadata(facts), commands=commands(facts))


def notice(facts: Facts) -> str:
    """NOTICE: whose works the release is made from."""
    return environment().get_template("NOTICE.jinja").render(facts=facts)


def metadata(facts: Facts) -> str:
    """The YAML at the head of the card."""
    formats = sorted({part.stored_as.lower() for part in facts.parts if part.stored_as != "BF16"})
    tags = [
        *formats,
        facts.recipe.layout.loader,
        *(["mtp", "speculative-decoding"] if facts.recipe.serve.speculative_tokens else []),
        *(["rehearsal"] if facts.rehearsal else []),
    ]
    licence = {"license": facts.licence or "other"}
    if facts.licence is None:
        licence |= {"license_name": "see-license", "license_link": "LICENSE"}
    fields: dict[str, Any] = {
        "base_model": facts.recipe.base.repo,
        "library_name": LIBRARY,
        **licence,
        "pipeline_tag": "image-text-to-text" if facts.vision else "text-generation",
        "tags": tags,
        "base_model_relation": "quantized",
    }
    return str(yaml.dump(fields, sort_keys=False, allow_unicode=True)).strip()


def commands(facts: Facts) -> dict[str, str]:
    """The commands that serve the result, by the name of their profile."""
    serve = facts.recipe.serve
    return {
        "as published": _command(serve, serve.speculative_tokens),
        **{
            name: _command(profile, serve.speculative_tokens)
            for name, profile in serve.profiles.items()
        },
    }


def _command(profile: Profile, speculative_tokens: int | None) -> str:
    variables = [f"{name}={shlex.quote(value)}" for name, value in profile.env.items()]
    flags = []
    for name, value in profile.args.items():
        if isinstance(value, bool):
            flags.append(f"--{name}" if value else f"--no-{name}")
        else:
            flags.append(f"--{name} {shlex.quote(str(value))}")
    if speculative_tokens:
        config = {"method": "mtp", "num_speculative_tokens": speculative_tokens}
        flags.append(f"--speculative-config {shlex.quote(json.dumps(config))}")
    return " \\\n  ".join([" ".join([*variables, "vllm serve <this repository>"]), *flags])
