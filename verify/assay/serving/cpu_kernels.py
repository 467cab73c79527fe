"""NVFP4 on a CPU with the arithmetic of vLLM's own emulation: linears, and experts of a MoE layer.

Weights are dequantized once, when they are loaded, where vLLM's emulation does it in every forward
pass; activations are rounded to NVFP4 as the hardware would; both are multiplied in BF16. Only
vLLM's workers import this module, through :mod:`assay.serving.cpu_plugin`, and only on a CPU.
"""

from typing import Any

import torch
from vllm.model_executor.kernels.linear.nvfp4.emulation import EmulationNvFp4LinearKernel
from vllm.model_executor.layers.fused_moe.experts.cpu_moe import CPUUnquantizedExperts
from vllm.model_executor.layers.quantization.utils.nvfp4_emulation_utils import (
    dequantize_to_dtype,
)
from vllm.model_executor.layers.quantization.utils.quant_utils import kNvfp4Dynamic, kNvfp4Static
from vllm.model_executor.utils import replace_parameter

BLOCK = 16
LARGEST, LARGEST_SCALE = 6.0, 448.0  # of E2M1 and of E4M3


def rounded(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Activations to NVFP4 and back, bit for bit as vLLM's `ref_nvfp4_quant_dequant` has it.

    Written anew because that took most of the time of an emulated model.

    Args:
        x: [rows, columns].
        scale: the divisor of the tensor, one float32.
    """
    blocks = x.float().unflatten(-1, (-1, BLOCK))
    amax = blocks.abs().amax(-1, keepdim=True)
    block_scale = (scale * (amax * (1 / LARGEST))).clamp(-LARGEST_SCALE, LARGEST_SCALE)
    block_scale = block_scale.to(torch.float8_e4m3fn).float()
    scaled = (blocks * _inverse(block_scale * _inverse(scale))).clamp(-LARGEST, LARGEST)
    # E2M1 has steps of 0.5 up to 2, of 1 up to 4, of 2 above; ties go to the even code.
    size = scaled.abs()
    step = torch.where(size < 2, 0.5, torch.where(size < 4, 1.0, 2.0))
    codes = torch.round(scaled / step) * step
    return (codes * (block_scale / scale)).flatten(-2).to(x.dtype)


def _inverse(x: torch.Tensor) -> torch.Tensor:
    """1 / x, and as good as zero where x is zero."""
    return 1.0 / (x + (x == 0) * 1e8)


class CpuNvFp4Linear(EmulationNvFp4LinearKernel):  # type: ignore[misc]  # vLLM has no types
    """A linear with the arithmetic of its parent, bit for bit."""

    def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
        """Dequantizes `layer.weight`, [rows, columns / 2] of packed codes, to [rows, columns]."""
        weight = dequantize_to_dtype(
            layer.weight.data,
            layer.weight_scale.data,
            layer.weight_global_scale,
            layer.params_dtype,
            BLOCK,
            swizzle=False,
        )
        replace_parameter(layer, "weight", weight)

    def apply_weights(
        self, layer: torch.nn.Module, x: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        """`x` rounded to NVFP4, [tokens, columns], times the weight."""
        out = torch.matmul(rounded(x, layer.input_global_scale_inv), layer.weight.t())
        return out if bias is None else out + bias


class CpuNvFp4Experts(CPUUnquantizedExperts):  # type: ignore[misc]  # vLLM has no types
    """The routed experts of a MoE layer, W4A4: the scales are those of vLLM's emulation backend.

    That backend gives all experts of a layer one scale for the input of gate and up and one for
    the input of down, the largest of theirs.
    """

    @staticmethod
    def _supports_quant_scheme(weight_key: Any, activation_key: Any) -> bool:
        return (weight_key, activation_key) == (kNvfp4Static, kNvfp4Dynamic)

    @staticmethod
    def _supports_parallel_config(moe_parallel_config: Any) -> bool:
        return not moe_parallel_config.use_ep  # every expert is here

    @classmethod
    def _supports_grouped_gemm(cls, moe_config: Any) -> tuple[bool, None]:  # noqa: ARG003
        return True, None  # the shapes that the parent's kernel cannot do are no matter here

    def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
        """Dequantizes `w13_weight` and `w2_weight`, [experts, rows, columns / 2] of codes."""
        for name, scale, global_scale in (
            ("w13_weight", self.w1_scale, self.g1_alphas),
            ("w2_weight", self.w2_scale, self.g2_alphas),
        ):
            weight = dequantize_to_dtype(
                getattr(layer, name).data,
                scale,
                global_scale,
                self.moe_config.in_dtype,
                BLOCK,
                swizzle=False,
            )
            replace_parameter(layer, name, weight)

    def apply(
        self,
        *,
        output: torch.Tensor,
        hidden_states: torch.Tensor,
        w1: torch.Tensor,
        w2: torch.Tensor,
        topk_weights: torch.Tensor,
        topk_ids: torch.Tensor,
        activation: Any,
        apply_router_weight_on_input: bool,
        **_: Any,
    ) -> None:
        """Writes the sum over k of weight[t, k] * expert id[t, k] of hidden[t] to `output`."""
        tokens, top_k = topk_ids.shape
        experts = topk_ids.flatten()
        x = rounded(hidden_states, self.a1_gscale).repeat_interleave(top_k, 0)
        gate_up = _each_by_its_expert(x, w1, experts)
        inner = gate_up.new_empty(len(experts), w2.shape[-1])
        self.activation(activation, inner, gate_up)
        down = _each_by_its_expert(rounded(inner, self.a2_gscale), w2, experts)
        down = down.view(tokens, top_k, -1)
        if apply_router_weight_on_input:  # done already
            topk_weights = torch.ones_like(topk_weights)
        output.copy_((down.float() * topk_weights.unsqueeze(-1)).sum(dim=1))


def _each_by_its_expert(
    rows: torch.Tensor, weights: torch.Tensor, experts: torch.Tensor
) -> torch.Tensor:
    """Row i times the matrix of expert i: [rows, columns], [experts, out, columns], [rows]."""
    out = rows.new_empty(len(rows), weights.shape[1])
    for expert in experts.unique().tolist():
        own = experts == expert
        out[own] = rows[own] @ weights[expert].t()
    return out
