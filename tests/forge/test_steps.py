"""What a step's key depends on."""

from pathlib import Path

import pytest

from forge.core.store import Result
from forge.pipeline import STEPS

FETCHED = {
    "base/model.safetensors": "a",
    "calibration/llm/samples.jsonl": "b",
    "donor/model.safetensors": "c",
    "inputs.json": "d",
    "perplexity/text.txt": "e",
    "template/chat_template.jinja": "f",
}


def result(step, digests):
    return Result(step=step, key="key", files=Path(step), digests=digests, record={})


def inputs(name, **changes):
    step = next(step for step in STEPS if step.name == name)
    needed = {other: result(other, {"calibration.safetensors": "g"}) for other in step.needs}
    needed["fetch"] = result("fetch", FETCHED | changes)
    return step.inputs(needed)


@pytest.mark.parametrize(
    ("step", "decides"),
    [
        ("calibrate", {"base/model.safetensors", "calibration/llm/samples.jsonl"}),
        ("quantize", {"base/model.safetensors"}),
        ("graft", {"base/model.safetensors", "donor/model.safetensors"}),
        ("dress", FETCHED.keys()),
        ("verify", FETCHED.keys()),
        ("attest", FETCHED.keys()),
    ],
)
def test_what_is_fetched_decides_the_key_where_it_is_read(step, decides):
    """Variants that differ in a template or a donor share a calibration."""
    found = {path for path in FETCHED if inputs(step, **{path: "z"}) != inputs(step)}
    assert found == set(decides)


def test_another_record_is_another_quantization():
    step = next(step for step in STEPS if step.name == "quantize")
    record = {"calibration.safetensors": "g", "calibrate.log": "h"}
    needed = {"fetch": result("fetch", FETCHED), "calibrate": result("calibrate", record)}
    assert step.inputs(needed)["calibrate"] == {"calibration.safetensors": "g"}
