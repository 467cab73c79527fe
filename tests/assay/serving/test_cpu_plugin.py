"""vLLM on a CPU has the NVFP4 kernels that the plugin lists there, once, or says what is wrong; and
they compute what plain torch computes from decoded weights and rounded activations."""

from importlib.metadata import entry_points
from types import SimpleNamespace

import pytest

from assay.serving import cpu_plugin, engine
from forge.core.errors import EngineError

pytestmark = pytest.mark.engine


@pytest.fixture
def linear(monkeypatch):
    """The table of kernels as it is before any plugin has run; put back afterwards."""
    from vllm.model_executor.kernels import linear
    from vllm.platforms import PlatformEnum

    kernels = {**linear._POSSIBLE_NVFP4_KERNELS}
    kernels.pop(PlatformEnum.CPU, None)
    monkeypatch.setattr(linear, "_POSSIBLE_NVFP4_KERNELS", kernels)
    experts = emulated_experts()
    monkeypatch.setattr(experts[0], experts[1], getattr(*experts))
    cpu_plugin.register.cache_clear()
    yield linear
    cpu_plugin.register.cache_clear()


def emulated_experts():
    """Where vLLM keeps the class of its emulation backend for experts."""
    from vllm.model_executor.layers.fused_moe.experts import nvfp4_emulation_moe

    return nvfp4_emulation_moe, "Nvfp4QuantizationEmulationTritonExperts"


def platform(monkeypatch, *, cpu):
    from vllm.platforms import current_platform

    monkeypatch.setattr(type(current_platform), "is_cpu", lambda _: cpu)


def listed(linear):
    from vllm.platforms import PlatformEnum

    return [kernel.__name__ for kernel in linear._POSSIBLE_NVFP4_KERNELS.get(PlatformEnum.CPU, [])]


def backend():
    """What vLLM itself finds for the experts' emulation."""
    from vllm.model_executor.layers.fused_moe.oracle import nvfp4

    (found,) = nvfp4.backend_to_kernel_cls(nvfp4.NvFp4MoeBackend.EMULATION)
    return found


def test_listed_once_however_often_it_is_called(linear, monkeypatch):
    platform(monkeypatch, cpu=True)
    cpu_plugin.register()
    cpu_plugin.register()
    assert listed(linear) == ["CpuNvFp4Linear"]
    assert backend().__name__ == "CpuNvFp4Experts"


def test_nothing_on_a_gpu(linear, monkeypatch):
    platform(monkeypatch, cpu=False)
    before = {name: list(kernels) for name, kernels in linear._POSSIBLE_NVFP4_KERNELS.items()}
    experts = backend()
    cpu_plugin.register()
    assert before == linear._POSSIBLE_NVFP4_KERNELS
    assert backend() is experts


def test_another_vllm_fails_loudly(linear, monkeypatch):
    """A release without that kind of kernel stops vLLM's start, with its version and a way out."""
    platform(monkeypatch, cpu=True)

    def refuse(*_):
        raise ValueError("Unrecognized kernel type: nvfp4")

    monkeypatch.setattr(linear, "register_linear_kernel", refuse)
    with pytest.raises(EngineError, match=r"vLLM \d.*nvfp4.*VLLM_PLUGINS="):
        cpu_plugin.register()


def test_the_entry_point_is_installed():
    from importlib.metadata import entry_points

    (found,) = entry_points(group="vllm.general_plugins", name="hallmark")
    assert found.load() is cpu_plugin.register


# --- arithmetic, against plain torch

E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
WEIGHT_SCALE, INPUT_SCALE = 0.02, 300.0  # the second is a divisor, as vLLM holds it


def stored(*shape):
    """Random packed codes and block scales, and the weight that they stand for."""
    import torch

    codes = torch.randint(0, 16, shape)
    scales = (torch.rand(*shape[:-1], shape[-1] // 16) + 0.5).to(torch.float8_e4m3fn)
    packed = (codes[..., ::2] | codes[..., 1::2] << 4).to(torch.uint8)
    values = torch.tensor([*E2M1, *(-value for value in E2M1)])[codes]
    weight = values * scales.float().repeat_interleave(16, -1) * WEIGHT_SCALE
    return packed, scales, weight.bfloat16()


def rounded(x):
    """Each block of 16 to the nearest NVFP4 values under its own scale."""
    import torch

    blocks = x.float().unflatten(-1, (-1, 16))
    scale = (INPUT_SCALE * (blocks.abs().amax(-1, keepdim=True) / 6)).to(torch.float8_e4m3fn)
    step = scale.float() / INPUT_SCALE
    grid = torch.tensor(sorted({*E2M1, *(-value for value in E2M1)}))
    nearest = ((blocks / step).unsqueeze(-1) - grid).abs().argmin(-1)
    return (grid[nearest] * step).flatten(-2).bfloat16()


@pytest.fixture
def seeded():
    import torch

    torch.manual_seed(0)
    return torch


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_activations_are_rounded_as_vllm_rounds_them(seeded, dtype):
    """Bit for bit, on random blocks of all magnitudes, on every tie, on zeros and on an outlier."""
    from vllm.model_executor.layers.quantization.utils import nvfp4_emulation_utils

    from assay.serving.cpu_kernels import rounded

    torch = seeded
    random = torch.randn(2000, 64) * torch.logspace(-8, 6, 2000).unsqueeze(-1)
    ties = torch.arange(-6, 6.25, 0.25)  # all boundaries between codes where 6 is the maximum
    ties = torch.stack([ties, torch.full_like(ties, 6.0)], 1).repeat(1, 32)
    odd = torch.zeros(3, 64)
    odd[1, 5], odd[2] = 3e38, -0.0
    x = torch.cat([random, ties, odd]).to(getattr(torch, dtype))
    for scale in (1.0, 300.0, 2688 / 0.7):
        wanted = nvfp4_emulation_utils.ref_nvfp4_quant_dequant(x, torch.tensor(scale), 16)
        assert torch.equal(wanted, rounded(x, torch.tensor(scale)))


def test_a_linear_is_its_parent_bit_for_bit(seeded):
    from vllm.model_executor.kernels.linear.nvfp4.emulation import EmulationNvFp4LinearKernel

    from assay.serving.cpu_kernels import CpuNvFp4Linear

    torch = seeded
    packed, scales, weight = stored(32, 64)
    layer = torch.nn.Module()
    layer.weight = torch.nn.Parameter(packed, requires_grad=False)
    layer.weight_scale = torch.nn.Parameter(scales, requires_grad=False)
    layer.weight_global_scale = torch.tensor(WEIGHT_SCALE)
    layer.input_global_scale_inv = torch.tensor(INPUT_SCALE)
    layer.params_dtype = torch.bfloat16
    x = torch.randn(5, 64).bfloat16()
    parent = EmulationNvFp4LinearKernel.apply_weights(None, layer, x)
    CpuNvFp4Linear.process_weights_after_loading(None, layer)
    assert torch.equal(layer.weight, weight)
    assert torch.equal(CpuNvFp4Linear.apply_weights(None, layer, x), parent)
    assert torch.equal(parent, rounded(x) @ weight.t())


@pytest.mark.parametrize("weighted_input", [False, True])
def test_experts_are_what_plain_torch_computes(seeded, weighted_input):
    """Up to the noise of BF16; every token's experts, weighted, and no other expert."""
    from vllm.model_executor.layers.fused_moe.activation import MoEActivation
    from vllm.model_executor.layers.fused_moe.config import nvfp4_moe_quant_config

    from assay.serving.cpu_kernels import CpuNvFp4Experts

    torch = seeded
    count, hidden, wide = 4, 64, 32
    w13, w13_scale, gate_up = stored(count, 2 * wide, hidden)
    w2, w2_scale, down = stored(count, hidden, wide)
    one = torch.full((count,), WEIGHT_SCALE)
    config = nvfp4_moe_quant_config(
        g1_alphas=one, g2_alphas=one, a1_gscale=torch.tensor(INPUT_SCALE),
        a2_gscale=torch.tensor(INPUT_SCALE), w1_scale=w13_scale, w2_scale=w2_scale,
    )  # fmt: skip
    unset = dict.fromkeys(
        ("swiglu_limit", "swiglu_alpha", "swiglu_beta", "activation_situ_beta",
         "activation_situ_linear_beta"),
    )  # fmt: skip
    experts = CpuNvFp4Experts(SimpleNamespace(in_dtype=torch.bfloat16, **unset), config)
    layer = torch.nn.Module()
    layer.w13_weight = torch.nn.Parameter(w13, requires_grad=False)
    layer.w2_weight = torch.nn.Parameter(w2, requires_grad=False)
    experts.process_weights_after_loading(layer)
    assert torch.equal(layer.w13_weight, gate_up)
    assert torch.equal(layer.w2_weight, down)

    x = torch.randn(7, hidden).bfloat16()
    ids = torch.stack([torch.randperm(3)[:2] for _ in x])  # expert 3 is never chosen
    layer.w2_weight[3] = float("nan")
    weights = torch.rand(7, 2)
    output = torch.empty_like(x)
    experts.apply(
        output=output, hidden_states=x, w1=layer.w13_weight, w2=layer.w2_weight,
        topk_weights=weights, topk_ids=ids, activation=MoEActivation.SILU,
        apply_router_weight_on_input=weighted_input, a1q_scale=None,
    )  # fmt: skip
    for token in range(len(x)):
        expected = torch.zeros(hidden)
        for expert, weight in zip(ids[token], weights[token], strict=True):
            gate, up = (rounded(x[token]) @ gate_up[expert].t()).float().chunk(2)
            inner = rounded((torch.nn.functional.silu(gate) * up).bfloat16())
            part = (inner @ down[expert].t()).float()
            expected += part if weighted_input else part * weight
        assert torch.allclose(
            output[token].float(), expected, rtol=0.02, atol=0.02 * expected.abs().max()
        )


def test_the_name_that_counts_is_the_one_that_is_registered():
    """What vLLM loads by its entry point is among what decides the figures."""
    (entry,) = entry_points(group="vllm.general_plugins", name="hallmark")
    assert entry.value == f"{engine.PLUGIN}:register"
