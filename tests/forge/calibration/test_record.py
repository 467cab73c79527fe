"""The calibration record: one number a linear, or an error that names it."""

import numpy as np
import pytest

from forge.calibration import calibrate, record
from forge.core.errors import CalibrationError
from forge.tensors import small_floats, tensorfile
from forge.tensors.plan import make_plan

MAXIMA = {"b": 2.5, "a": 1.0}


def test_what_is_written_is_read_back(tmp_path):
    path = tmp_path / record.FILE
    record.write(path, MAXIMA, {"device": "x"})
    assert record.read(path, ["a", "b"]) == {"a": np.float32(1), "b": np.float32(2.5)}
    assert record.origin(path) == {"device": "x"}
    assert [t.name for t in tensorfile.read_header(path)] == ["a", "b"]


def test_bytes_depend_on_the_content_alone(tmp_path):
    record.write(tmp_path / "1", MAXIMA, {"x": 1, "y": 2})
    record.write(tmp_path / "2", dict(reversed(MAXIMA.items())), {"y": 2, "x": 1})
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


@pytest.mark.parametrize("modules", [["a"], ["a", "b", "c"]])
def test_record_of_another_model(tmp_path, modules):
    record.write(tmp_path / record.FILE, MAXIMA, {})
    with pytest.raises(CalibrationError, match="another model or recipe"):
        record.read(tmp_path / record.FILE, modules)


def test_a_linear_that_zeros_alone_reached(tmp_path):
    record.write(tmp_path / record.FILE, {**MAXIMA, "b": 0.0}, {})
    found = record.read(tmp_path / record.FILE, ["a", "b"])
    assert small_floats.global_scale(found["b"]) == small_floats.divisor(found["b"]) == 1


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf"), 2.0**-120])
def test_impossible_maximum_names_the_linear(tmp_path, value):
    record.write(tmp_path / record.FILE, {**MAXIMA, "b": value}, {})
    with pytest.raises(CalibrationError, match=f"'b' is {value}"):
        record.read(tmp_path / record.FILE, ["a", "b"])


def test_group_takes_the_largest(flagship, arrays):
    plan = make_plan(flagship, arrays)
    maxima = {module: 1.0 + number for number, module in enumerate(plan.quantized)}
    merged = calibrate.merge(plan, maxima)
    for group in plan.groups:
        assert {merged[module] for module in group} == {max(maxima[m] for m in group)}


def test_linear_that_no_sample_reached(flagship, arrays):
    plan = make_plan(flagship, arrays)
    maxima = dict.fromkeys(plan.quantized, 1.0)
    del maxima[plan.quantized[3]]
    with pytest.raises(CalibrationError, match=f"{plan.quantized[3]}.*no sample reached"):
        calibrate.merge(plan, maxima)
