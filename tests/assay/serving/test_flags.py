"""The published flags on this machine and that, and the command line that they make."""

import json

import pytest

from assay.serving import flags
from forge.manifest.served_figures import Health
from forge.recipes import recipe

GPU_ONLY = {
    "gpu-memory-utilization": 0.9,
    "tensor-parallel-size": 2,
    "attention-backend": "TRITON_ATTN",
    "compilation-config.cudagraph_mode": "PIECEWISE",
    "linear-backend": "cutlass",
}
FLAGSHIP = recipe.find("qwen36-27b-vlm-mtp").serve


def test_published_flags_are_untouched_on_a_gpu():
    used, changes = flags.adapt(FLAGSHIP.args, device="cuda", max_model_len=262144)
    assert used == FLAGSHIP.args
    assert changes == ()


def test_a_short_model_shortens_the_context_on_a_gpu_too():
    used, changes = flags.adapt(FLAGSHIP.args, device="cuda", max_model_len=4096)
    assert used == {**FLAGSHIP.args, "max-model-len": 4096}
    (change,) = changes
    assert change.startswith("--max-model-len: published 65536, used 4096, because")


def test_every_flag_that_differs_on_a_cpu_has_its_sentence():
    published = {**FLAGSHIP.args, **GPU_ONLY}
    used, changes = flags.adapt(published, device="cpu", max_model_len=4096)
    differing = {
        flag for flag in published | used if published.get(flag, "unset") != used.get(flag, "unset")
    }
    assert {change.split(":")[0] for change in changes} == {f"--{flag}" for flag in differing}
    assert used["max-model-len"] == 4096
    assert used["enforce-eager"] is True
    assert used["enable-prefix-caching"] is False
    assert used["mamba-cache-mode"] == "none"
    assert not GPU_ONLY.keys() & used.keys()
    assert used["tool-call-parser"] == "qwen3_coder"


@pytest.mark.parametrize(
    ("supported", "dtype"),
    [("fpu avx512f avx512bw avx512dq avx512vl", "fp8_e4m3"), ("fpu avx2 avx512f", "auto")],
)
def test_fp8_cache_where_the_cpu_can(tmp_path, monkeypatch, supported, dtype):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor : 0\nflags\t\t: {supported}\n", encoding="utf-8")
    monkeypatch.setattr(flags, "_CPUINFO", cpuinfo)
    used, _ = flags.adapt({"kv-cache-dtype": "fp8_e4m3"}, device="cpu", max_model_len=4096)
    assert used["kv-cache-dtype"] == dtype


def test_command_line(tmp_path):
    args = {"max-model-len": 64, "enforce-eager": True, "enable-prefix-caching": False}
    command = flags.serve_command(tmp_path, args, port=1234, speculative_tokens=3)
    line = " ".join(command)
    assert "--host 127.0.0.1 --port 1234" in line
    assert "--max-model-len 64 --enforce-eager --no-enable-prefix-caching" in line
    assert json.loads(command[-1]) == {"method": "mtp", "num_speculative_tokens": 3}
    assert "trust-remote-code" not in line
    assert "--speculative-config" not in flags.serve_command(
        tmp_path, args, port=1234, speculative_tokens=None
    )


def test_variables_for_a_gpu_are_told_too():
    env = {"VLLM_NVFP4_GEMM_BACKEND": "cutlass", "VLLM_LOGGING_LEVEL": "INFO"}
    used, changes = flags.adapt_env(env, device="cpu")
    assert used == {"VLLM_LOGGING_LEVEL": "INFO"}
    (change,) = changes
    assert change.startswith("VLLM_NVFP4_GEMM_BACKEND: published cutlass, used unset, because")
    assert flags.adapt_env(env, device="cuda") == (env, ())


def test_a_base_is_scored_alike_for_variants_that_answer_differently():
    """What decides a probability stays; names of parsers, room for requests and eyes do not."""
    vlm, _ = flags.adapt(FLAGSHIP.args, device="cpu", max_model_len=4096)
    text_args = {
        "quantization": "compressed-tensors", "max-model-len": 262144, "max-num-seqs": 2,
        "kv-cache-dtype": "fp8", "reasoning-parser": "qwen3", "language-model-only": True,
    }  # fmt: skip
    text, _ = flags.adapt(text_args, device="cpu", max_model_len=4096)
    scoring = flags.scoring(vlm, window=512)
    assert scoring == flags.scoring(text, window=512)
    assert scoring["max-model-len"] == 513
    assert "quantization" not in scoring
    assert scoring != flags.scoring({**vlm, "kv-cache-dtype": "auto"}, window=512)
    assert scoring != flags.scoring({**vlm, "dtype": "float32"}, window=512)


def test_what_an_engine_of_its_own_needs_has_its_sentence():
    """So that `smoke.health` takes it: flags and variables, new ones and published ones."""
    needed = {"gdn-prefill-backend": "triton", "kv-cache-dtype": "auto"}
    used, told = flags.with_settings(FLAGSHIP.args, needed, "--")
    assert used == {**FLAGSHIP.args, **needed}
    env, more = flags.with_settings({}, {"VLLM_USE_FLASHINFER_SAMPLER": "0"}, "")
    health = Health(startup_seconds=1.0, args=used, env=env, adaptations=(*told, *more))
    assert health.problem(recipe.find("qwen36-27b-vlm-mtp")) is None
    silent = Health(startup_seconds=1.0, args=used, env=env, adaptations=more)
    assert "--gdn-prefill-backend is 'triton'" in silent.problem(recipe.find("qwen36-27b-vlm-mtp"))
