"""An engine's settings file is strict, and what differs from the lock file is named."""

import importlib.metadata

import pytest

from assay.serving import own
from forge.core import checkout
from forge.core.errors import EngineError

EXAMPLE = checkout.ROOT / "tests/gpu/engine.toml"


def test_the_settings_that_vllm_026_needs():
    found = own.read(EXAMPLE)
    assert found.env == {"VLLM_USE_FLASHINFER_SAMPLER": "0"}
    assert found.serve == {"gdn-prefill-backend": "triton"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[serve]\nport = 8000", "--port is what the assay sets itself"),
        ("[serve]\n--enforce-eager = true", "String should match pattern"),
        ("[serve]\ngdn_prefill_backend = 'triton'", "String should match pattern"),
        ("[serve]\nx = [1]", "serve.x"),
        ("[serve]\nx = inf", "the value is inf"),
        ("[env]\nLD_PRELOAD = 'x'", "String should match pattern"),
        ("[env]\nHF_TOKEN = 'x'", "String should match pattern"),
        ("[env]\nVLLM_X = 0", "Input should be a valid string"),
        ("[engine]\n", "Extra inputs are not permitted"),
        ("[env]\n[env]\n", "cannot be read"),
        ("[env", "cannot be read"),
        ("x = '" + "y" * own.MOST + "'", "cannot be read"),
    ],
)  # fmt: skip
def test_another_file_is_refused_in_a_line(tmp_path, text, told):
    path = tmp_path / "own.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(EngineError) as refused:
        own.read(path)
    assert told in str(refused.value)
    assert str(refused.value).startswith(f"{path}: ")
    assert "\n" not in str(refused.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(EngineError, match="cannot be read"):
        own.read(tmp_path / "none.toml")


def test_what_is_not_of_the_lock_file_is_named():
    """This environment has no engine, and the locked versions of what it shares with that one."""
    found = own.engine(None)
    assert found.engine == ""
    assert found.settings.serve == {}
    assert found.differing["torch"].found is None
    assert "pydantic" not in found.differing


def test_the_locked_engine_is_no_own_engine(tmp_path, monkeypatch):
    """Unless it is given settings; a lock file of what is installed here stands for the locked."""
    version = importlib.metadata.version("pydantic")
    elsewhere = "colorama==0 ; sys_platform == 'win32' \\\n"
    lines = f"pydantic=={version} \\\n    --hash=sha256:0\n{elsewhere}"
    (tmp_path / "lockfiles").mkdir()
    (tmp_path / "lockfiles/verify.txt").write_text(lines, encoding="utf-8")
    monkeypatch.setattr(checkout, "ROOT", tmp_path)
    assert own.engine(None) is None
    found = own.engine(own.read(EXAMPLE))
    assert found.differing == {}
    assert found.settings.env
