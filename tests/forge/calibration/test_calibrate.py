"""Calibration on the dense stand-in: offloading, mixed sets, and what the record says."""

import functools
import json
import shutil

import pyarrow as pa
import pytest
from conftest import FLAGSHIP, MIXED, cut_samples
from pyarrow import parquet

from forge.calibration import batches, calibrate, record, with_modelopt
from forge.core import canonical
from forge.core.errors import CalibrationError
from forge.core.store import Store
from forge.inputs import fetch, sample_files, samples
from forge.pipeline import Job, work_on
from forge.recipes import recipe
from forge.tensors import checkpoint

pytestmark = pytest.mark.libraries
MIXED_SETS = "qwen36-27b-vlm-mixedcal"
SAMPLES = 2
ROOM = 5_000_000  # of 12 MB


@pytest.fixture(scope="module")
def fetched(tmp_path_factory):
    """What the fetch step gives of a variant: few samples a set."""

    @functools.cache
    def get(variant):
        out = tmp_path_factory.mktemp(variant)
        job = Job(recipe=recipe.find(variant), store=Store(out / "store"), rehearsal=True)
        fetch.run(work_on(fetch.choose(job), {}), out / "inputs")
        cut_samples(out / "inputs", SAMPLES)
        return out / "inputs"

    return get


def run(variant, inputs, path, **placed):
    made = checkpoint.read(recipe.find(variant), inputs)
    calibrate.calibrate(made, inputs, path, **placed)
    return path.read_bytes()


@pytest.mark.filterwarnings("ignore:Accelerate disk-offload writeback:RuntimeWarning")
@pytest.mark.parametrize("variant", [FLAGSHIP, MIXED])
def test_offloading_changes_no_byte(fetched, tmp_path, variant):
    """With room for less than half of the model, the rest on disk, the record is the same."""
    inputs, wanted = fetched(variant), recipe.find(variant)
    cramped = {"device_map": "auto", "max_memory": {"cpu": ROOM}, "offload_folder": tmp_path}
    model = with_modelopt.load(wanted, inputs / "base", **cramped)
    assert "meta" in {parameter.device.type for parameter in model.parameters()}
    offloaded = run(variant, inputs, tmp_path / "a", device_map="auto", max_memory={"cpu": ROOM})
    assert offloaded == run(variant, inputs, tmp_path / "b")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_sets_add_to_the_same_maxima(fetched, tmp_path):
    """Pictures through the whole model, text through the language model; each leaves its trace."""
    inputs = fetched(MIXED_SETS)
    run(MIXED_SETS, inputs, tmp_path / "all")
    origin = record.origin(tmp_path / "all")
    sets = [entry["set"] for entry in origin["samples"]]
    assert sets == [n for n in recipe.find(MIXED_SETS).calibration.sets for _ in range(SAMPLES)]
    rows = [entry["rows"] for entry in origin["samples"]]
    assert rows == [[n, n] for _ in range(4) for n in range(SAMPLES)]
    pictured = [bool(entry.get("pictures")) for entry in origin["samples"]]
    assert pictured == [True] * 3 * SAMPLES + [False] * SAMPLES

    text = json.loads(json.dumps(recipe.find(MIXED_SETS).model_dump(mode="json")))
    text["calibration"]["sets"] = {"cnn-dailymail": text["calibration"]["sets"]["cnn-dailymail"]}
    only = recipe.Recipe.model_validate_json(json.dumps(text))
    made = checkpoint.read(only, inputs)
    calibrate.calibrate(made, inputs, tmp_path / "text")
    plan = made.plan
    whole = record.read(tmp_path / "all", plan.calibrated)
    part = record.read(tmp_path / "text", plan.calibrated)
    assert all(whole[module] >= part[module] for module in plan.calibrated)
    assert any(whole[module] > part[module] for module in plan.calibrated)


def short_rows(fetched, tmp_path, count, tokens):
    """The flagship with samples joined from the rows of a parquet file, and inputs that have it."""
    data = recipe.find(FLAGSHIP).model_dump(mode="json")
    data["calibration"]["sets"]["llm"] |= {"samples": count, "max_tokens": tokens}
    wanted = recipe.Recipe.model_validate_json(json.dumps(data))
    llm = wanted.calibration.sets["llm"]
    inputs = shutil.copytree(fetched(FLAGSHIP), tmp_path / "inputs", symlinks=True)
    # A few tens of tokens each, and each of another length.
    text = "### Instruction: Count to {}.\u2028\n\n### Response: "
    rows = [
        [{"role": "user", "content": text.format(n) + " ".join(map(str, range(n)))}]
        for n in range(1, 13)
    ]
    parquet.write_table(pa.table({llm.column: rows}), tmp_path / "llm.parquet")
    folder = inputs / "calibration/llm"
    (folder / sample_files.FILE).unlink()
    sample_files.write(samples.read_text(tmp_path / "llm.parquet", llm), folder / sample_files.ROWS)
    return wanted, inputs


def test_short_rows_are_joined_into_full_samples(fetched, tmp_path):
    """Each row once, in order; the record says which rows a sample is made of."""
    wanted, inputs = short_rows(fetched, tmp_path, count=3, tokens=100)
    calibrate.calibrate(checkpoint.read(wanted, inputs), inputs, tmp_path / "record")
    told = record.origin(tmp_path / "record")["samples"]
    assert [sample["tokens"] for sample in told] == [100] * 3
    firsts, lasts = zip(*(sample["rows"] for sample in told), strict=True)
    assert firsts == (0, *(last + 1 for last in lasts[:-1]))
    assert all(first < last for first, last in zip(firsts, lasts, strict=True))

    # A sample is what its rows' own tokens are, one after the other, cut.
    folder = inputs / "calibration/llm"
    (folder / sample_files.ROWS).rename(folder / sample_files.FILE)
    rows = [batch.ids for batch in batches.read(wanted, inputs)]
    for sample in told:
        first, last = sample["rows"]
        ids = [token for row in rows[first : last + 1] for token in row][:100]
        assert sample["sha256"] == canonical.sha256_text(canonical.dumps(ids))


def test_rows_that_fill_too_few_samples_are_refused(fetched, tmp_path):
    """Before the model is loaded; none is used twice."""
    wanted, inputs = short_rows(fetched, tmp_path, count=12, tokens=100)
    made = checkpoint.read(wanted, inputs)
    fault = r"rows\.jsonl: its rows, joined in order, fill \d samples of 100 .* takes 12"
    with pytest.raises(CalibrationError, match=fault):
        calibrate.calibrate(made, inputs, tmp_path / "record")
    assert not (tmp_path / "record").exists()


def test_a_picture_that_is_too_long_names_set_and_line(fetched, tmp_path):
    """Its tokens cannot be cut."""
    inputs = fetched(MIXED_SETS)
    data = recipe.find(MIXED_SETS).model_dump(mode="json")
    data["calibration"]["sets"]["plotqa-cot"]["max_tokens"] = 60
    short = recipe.Recipe.model_validate_json(json.dumps(data))
    made = checkpoint.read(short, inputs)
    with pytest.raises(CalibrationError, match=r"plotqa-cot.samples\.jsonl, line 1: has \d+"):
        calibrate.calibrate(made, inputs, tmp_path / "record")
    assert not (tmp_path / "record").exists()


def test_an_empty_sample_is_refused(fetched, tmp_path):
    inputs = shutil.copytree(fetched(FLAGSHIP), tmp_path / "inputs", symlinks=True)
    empty = {"messages": [{"role": "user", "content": ""}]}
    data = recipe.find(FLAGSHIP).model_dump(mode="json")
    data["calibration"]["sets"]["llm"]["chat_template"] = False
    (inputs / "calibration/llm/samples.jsonl").write_text(
        json.dumps(empty) + "\n", encoding="utf-8"
    )
    plain = recipe.Recipe.model_validate_json(json.dumps(data))
    made = checkpoint.read(plain, inputs)
    with pytest.raises(CalibrationError, match="line 1: has 0 tokens"):
        calibrate.calibrate(made, inputs, tmp_path / "record")
