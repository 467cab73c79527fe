"""A vLLM plugin: gives vLLM on a CPU the NVFP4 arithmetic that it ships but does not offer there.

vLLM emulates NVFP4 linears and experts: it dequantizes weights, rounds activations to NVFP4 as the
hardware would, and multiplies in BF16. It lists the linears for CUDA and ROCm only and needs
Triton for the experts, so an NVFP4 checkpoint cannot be loaded on a CPU.
:mod:`assay.serving.cpu_kernels` has both for a CPU. On every other platform this plugin does
nothing.
"""

import functools

from forge.core.errors import EngineError


@functools.cache  # vLLM may call a plugin again in the same process
def register() -> None:
    """Lists the CPU's NVFP4 kernels; entry point of `vllm.general_plugins`.

    Called by vLLM in every process that it starts. Other platforms pay for one attribute look-up.

    Raises:
        EngineError: this vLLM emulates otherwise, or has no such way to list a kernel. It is
            raised out of vLLM's start, because a server that goes on would fail later with a
            worse message.
    """
    from vllm.platforms import PlatformEnum, current_platform

    if not current_platform.is_cpu():
        return
    try:
        from vllm.model_executor.kernels.linear import register_linear_kernel
        from vllm.model_executor.layers.fused_moe.experts import nvfp4_emulation_moe as emulation

        from assay.serving.cpu_kernels import CpuNvFp4Experts, CpuNvFp4Linear

        register_linear_kernel(CpuNvFp4Linear, PlatformEnum.CPU, "nvfp4")
        # Experts have no such table: the emulation backend is the class of this name.
        emulation.Nvfp4QuantizationEmulationTritonExperts.is_supported_config  # noqa: B018
        emulation.Nvfp4QuantizationEmulationTritonExperts = CpuNvFp4Experts
    except (AttributeError, ImportError, ValueError) as error:
        from vllm import __version__

        raise EngineError(
            f"vLLM {__version__}: cannot list NVFP4 kernels for the CPU ({error}). "
            "Adapt assay/serving/cpu_plugin.py to this release, or install the one in lockfiles/; "
            "`VLLM_PLUGINS=` starts vLLM without this plugin, and without NVFP4 on a CPU."
        ) from error
