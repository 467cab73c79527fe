"""The parser of vLLM takes the flags of published profiles, and refuses what it does not know."""

import pytest

from assay.serving import profiles
from forge.manifest import verification
from forge.recipes import recipe
from forge.recipes.recipe import Profile

pytestmark = pytest.mark.engine

RECIPE = recipe.find("qwen36-27b-vlm-mtp")
FLAGSHIP = RECIPE.serve
GB10 = Profile(
    args={
        "quantization": "modelopt_fp4", "max-model-len": 131072, "gpu-memory-utilization": 0.7,
        "max-num-seqs": 64, "max-num-batched-tokens": 8192, "attention-backend": "TRITON_ATTN",
        "enable-chunked-prefill": True, "compilation-config.cudagraph_mode": "PIECEWISE",
        "tensor-parallel-size": 2, "language-model-only": True, "kv-cache-dtype": "fp8",
    },
    env={"VLLM_NVFP4_GEMM_BACKEND": "cutlass", "TORCH_CUDA_ARCH_LIST": "12.1"},
)  # fmt: skip


def check(published):
    """The check of the flagship, had it published these profiles as well."""
    serve = FLAGSHIP.model_copy(update={"profiles": published})
    return verification.check(
        "smoke.profiles",
        RECIPE.model_copy(update={"serve": serve}),
        lambda: profiles.taken(serve, published),
    )


def test_published_profiles_are_taken_on_a_machine_without_a_gpu():
    made = check({"gb10": GB10})
    assert made.passed, made
    assert made.measured.profiles["gb10"].args == GB10.args


def test_a_variable_that_does_nothing_is_named():
    """This vLLM has `--linear-backend` in its place."""
    made = check({"gb10": GB10})
    assert made.measured.unknown_variables == {"gb10": ("VLLM_NVFP4_GEMM_BACKEND",)}
    assert "VLLM_NVFP4_GEMM_BACKEND" in made.told


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ({"max-modle-len": 4096}, "unrecognized arguments: --max-modle-len"),
        ({"max-model-len": "long"}, "--max-model-len"),
        ({"kv-cache-dtype": "fp9"}, "invalid choice: 'fp9'"),
        ({"quantization": "modelop"}, "'modelop' is none of"),
        ({"attention-backend": "TRITON"}, "'TRITON' is none of"),
        ({"reasoning-parser": "qwen33"}, "'qwen33' is none of"),
        ({"enable-auto-tool-choice": True, "tool-call-parser": "x"}, "invalid tool call parser: x"),
        ({"enable-auto-tool-choice": True}, "tool-call-parser"),
        ({"compilation-config": "{"}, "--compilation-config"),
    ],
)
def test_a_wrong_flag_fails_and_the_profile_is_named(args, told):
    made = check({"other": Profile(args=args)})
    assert not made.passed
    assert made.problem.startswith("1 profiles are not taken: other: ")
    assert told in made.problem
