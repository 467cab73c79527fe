"""The scripts for a machine with a GPU, as far as one without can run them; their page."""

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import reports
from gpu import full_size, machines, page, stand_ins

from forge.core import checkout
from forge.core.errors import FetchError
from forge.manifest import verification
from forge.manifest.own_engine import EngineSettings, OwnEngine, Version
from forge.recipes import recipe
from forge.tensors import family, tensorfile

SCRIPTS = Path(__file__).parent


def start(*words):
    return subprocess.run(
        [sys.executable, SCRIPTS, *map(str, words)],
        env={**os.environ, "HF_HUB_OFFLINE": "1"}, capture_output=True, encoding="utf-8",
        check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The result of a whole run in the sizes of the stand-in."""
    root = tmp_path_factory.mktemp("small")
    (root / "work").mkdir()
    where = ("--out", root / "out", "--work", root / "work")
    done = start("full-size", "--small", "--without-engine", *where)
    assert done.returncode == 0, done.stderr
    assert not list((root / "work").iterdir())
    (path,) = (root / "out").iterdir()
    return json.loads(path.read_text(encoding="utf-8"))


def test_a_small_build_goes_through_every_part(small):
    """With the project's own steps, whose structural checks pass on random weights."""
    assert small["passed"]
    parts = {part["part"]: part for part in small["parts"]}
    assert list(parts) == ["base", "fetch", *full_size.STEPS]
    assert all(part["exit_code"] == 0 and part["seconds"] > 0 for part in parts.values())
    assert all(part["peak_rss_mib"] > 10 for part in parts.values())
    assert parts["verify"]["gave"] == {"checks": 14}
    assert parts["dress"]["gave"]["bytes"] < parts["base"]["gave"]
    assert small["sizes"] == {"hidden_size": 256, "num_hidden_layers": 4, "vocab_size": 4096}
    assert small["machine"]["packages"]["numpy"] == np.__version__


def test_the_full_size_is_that_of_the_published_model():
    """1,199 tensors, 333 of them the vision tower's; the bytes of the base built on 2026-11-27."""
    config = family.Config(
        path=Path("config.json"), data=full_size.config(layers=None, small=False)
    )
    tensors = family.find(config).expected(config)
    assert len(tensors) == 1199
    assert sum(name.startswith("model.visual.") for name in tensors) == 333
    assert 2 * sum(np.prod(one.shape, dtype=int) for one in tensors.values()) == 55_562_855_904


def test_fewer_layers_of_the_full_width():
    text = full_size.config(layers=8, small=False)["text_config"]
    assert (text["num_hidden_layers"], len(text["layer_types"])) == (8, 8)
    assert text["hidden_size"] == 5120


def test_random_weights(tmp_path):
    """Finite, of both signs, 2**-10 to 2**-6 in magnitude; the same for the same seed alone."""
    spec = tensorfile.Spec(name="x", dtype="BF16", shape=(33, 7))
    for number, seed in enumerate((0, 0, 1)):
        full_size._write_shard(tmp_path / f"{number}.safetensors", [spec], seed)
    first, again, other = (path.read_bytes() for path in sorted(tmp_path.iterdir()))
    assert first == again != other
    bits = np.frombuffer(first[-2 * 33 * 7 :], dtype=np.uint16).astype(np.uint32) << 16
    values = bits.view(np.float32)
    assert (np.abs(values) >= 2.0**-10).all()
    assert (np.abs(values) < 2.0**-6).all()
    assert 0.3 < np.mean(values < 0) < 0.7


def test_a_part_that_fails_is_told(tmp_path, capfd):
    def work():
        raise FetchError("nothing there")

    part = full_size._measured("fetch", work, tmp_path)
    assert (part["exit_code"], part["gave"]) == (1, None)
    assert "nothing there" in capfd.readouterr().err


def test_without_an_engine_there_is_nothing_to_load(tmp_path, small):
    """The last part needs vLLM, which this environment has not: no run passes without it."""
    del small  # what is compiled is there
    done = start("full-size", "--small", "--out", tmp_path)
    assert done.returncode == 1
    assert "no vLLM is installed in this environment" in done.stderr
    result = json.loads((tmp_path / "cpu-full-size.json").read_text(encoding="utf-8"))
    assert not result["passed"]
    assert [part["part"] for part in result["parts"] if part["exit_code"]] == ["engine"]


def test_a_rehearsal_that_is_not_there(tmp_path):
    """A variant without one fails, and the others are tried."""
    done = start("stand-ins", "--rehearsals", tmp_path, "--out", tmp_path / "out")
    assert done.returncode == 1
    for variant in stand_ins.VARIANTS:
        path = tmp_path / "out" / f"cpu-{variant}.json"
        result = json.loads(path.read_text(encoding="utf-8"))
        assert (result["exit_code"], result["report"]) == (FetchError.code, None)
        assert "so it is no release" in "\n".join(result["said"])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--layers", "5"), "argument --layers"),
        (("--layers", "4", "--small"), "not allowed with"),
        (("--variant", "another"), "argument --variant"),
        (("everything",), "invalid choice"),
        (("--egnine=x",), "unrecognized arguments"),
    ],
)
def test_words_that_are_wrong(words, told):
    done = start(*words)
    assert done.returncode == 2
    assert told in done.stderr


def test_the_checkout_is_installed_for_a_while():
    before = (list(sys.path), os.environ.get("PYTHONPATH"))
    with machines.installed():
        found = importlib.metadata.distribution("hallmark")
        assert Path(str(found.locate_file("."))).parent != checkout.ROOT
        steps = importlib.metadata.entry_points(group="hallmark.steps")
        assert {"fetch", "verify"} < {step.name for step in steps}
        assert os.environ["PYTHONPATH"].startswith(sys.path[0])
    assert (list(sys.path), os.environ.get("PYTHONPATH")) == before


def test_the_page_has_the_figures_of_the_result_files():
    """`python3 tests/gpu page` writes them anew."""
    assert page.figures(machines.RESULTS) in page.PAGE.read_text(encoding="utf-8")


def test_the_page_is_short():
    """Beside its tables, which grow with the result files."""
    before, _, rest = page.PAGE.read_text(encoding="utf-8").partition(page.BEGIN)
    assert len((before + rest.partition(page.END)[2]).split()) <= 560


def test_every_result_file_is_shown():
    names = {f"{kind}-{what}.json" for kind in page.KINDS for what in
             (*stand_ins.VARIANTS, "full-size")}  # fmt: skip
    assert {path.name for path in machines.RESULTS.glob("*.json")} <= names


def test_figures_of_both_beside_each_other(tmp_path, small):
    variant = recipe.find(stand_ins.VARIANTS[0])
    own = OwnEngine(
        engine="vllm 0.26.0",
        python="3.12.3",
        settings=EngineSettings(),
        differing={"torch": Version(locked="2.13.0", found="2.11.0")},
    )
    report = reports.report(variant, "all").model_copy(update={"own_engine": own})
    assayed = {"machine": small["machine"], "seconds": 200.4, "report": report.as_json()}
    gpu = {**small["machine"], "kind": "gpu", "device": "A card", "driver": "580.1"}
    machines.write(tmp_path, variant.name, {**assayed, "exit_code": 0, "machine": gpu})
    machines.write(tmp_path, "full-size", small)
    told, checks = page.figures(tmp_path), len(verification.expected(variant, "all"))
    assert "no GPU has run" not in told
    for line in (
        f"| checks | {page.NOT_RUN} | {checks} of {checks} passed |",
        f"| seconds in all | {page.NOT_RUN} | 200 |",
        f"| layers, width | 4, 256 | {page.NOT_RUN} |",
        "- GPU: A card, driver 580.1, ",
        "- CPU: ",
    ):
        assert line in told
    assert told.count("Not run yet.") == 2


def test_without_a_result_of_a_gpu_the_page_says_so(tmp_path, small):
    machines.write(tmp_path, "full-size", small)
    assert "no GPU has run these scripts" in page.figures(tmp_path)


def test_a_check_that_broke_off_is_shown(tmp_path, small):
    result = {"machine": small["machine"], "seconds": 9.0, "exit_code": 13, "report": None}
    machines.write(tmp_path, stand_ins.VARIANTS[0], result)
    assert "| checks | none, exit code 13 | not run yet |" in page.figures(tmp_path)
