"""The benchmark times what it says: the same linears by us and by the libraries."""

import pytest

from bench import __main__ as bench
from bench import bases, limits
from bench.work import LIBRARIES, WORK
from forge.core import canonical
from forge.recipes import recipe
from forge.tensors import tensorfile
from forge.tensors.plan import make_plan


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    """The shapes of the 27B, but small."""
    for name, width in {"HIDDEN": 64, "WIDE": 128, "VOCABULARY": 320}.items():
        monkeypatch.setattr(bases, name, width)


@pytest.fixture
def mlps(tmp_path):
    bases.write_base(tmp_path / "mlps", bases.mlp_shapes(2))
    return tmp_path / "mlps"


def digests(folder):
    return {path.name: canonical.sha256_file(path) for path in folder.glob("*.safetensors")}


def test_base_is_one_that_the_recipe_quantizes(tmp_path):
    """Each of its tensors has a rule, and every kind of linear is among the quantized."""
    bases.write_base(tmp_path / "base", bases.base_shapes(4))
    plan = make_plan(recipe.find(bases.VARIANT), tensorfile.read_checkpoint(tmp_path / "base"))
    kinds = {module.split(".", 4)[-1] for module in plan.quantized}
    assert {"mlp.gate_proj", "self_attn.q_proj", "linear_attn.in_proj_qkv"} <= kinds
    assert canonical.read(tmp_path / "base" / bases.DIGESTS) == digests(tmp_path / "base")

    WORK["rebuild"](tmp_path / "base", tmp_path / "out")
    written = tensorfile.read_header(next((tmp_path / "out").iterdir()))
    assert len(written) == 4 * len(plan.quantized) + len(plan.keep)


def test_hashing_changes_no_byte(mlps, tmp_path):
    WORK["hashed"](mlps, tmp_path / "a")
    WORK["unhashed"](mlps, tmp_path / "b")
    assert digests(tmp_path / "a") == digests(tmp_path / "b")


@pytest.mark.libraries
@pytest.mark.parametrize("name", LIBRARIES)
def test_libraries_quantize_the_same_linears(mlps, tmp_path, name):
    """They store as many codes and block scales as we do."""
    WORK["unhashed"](mlps, tmp_path / "ours")
    WORK[name](mlps, tmp_path / "theirs")
    sizes = []
    for out in (tmp_path / "ours", tmp_path / "theirs"):
        files = sorted(out.glob("*.safetensors"))
        tensors = [tensor for path in files for tensor in tensorfile.read_header(path)]
        sizes.append(sorted(tensor.nbytes for tensor in tensors if tensor.nbytes > 4))
    assert sizes[0] == sizes[1]
    assert len(sizes[0]) == 2 * 6


def test_median_is_a_round_that_was_run():
    rounds = [{"seconds": 3.0, "peak_rss_mib": 5.0}, {"seconds": 1.0, "peak_rss_mib": 9.0}]
    rounds.append({"seconds": 2.0, "peak_rss_mib": 6.0})
    assert bench.median(rounds) == {"seconds": 2.0, "peak_rss_mib": 9.0}


def test_machine_is_measured_for_real(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "PROBE_BYTES", 1 << 24)
    assert limits.disk_rate(tmp_path) > 0
    assert not [*tmp_path.iterdir()]
    assert limits.hash_rate() > 0
    assert limits.in_memory_rate() > 0
