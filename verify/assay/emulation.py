"""A vLLM plugin: gives vLLM on a CPU the NVFP4 arithmetic that it ships but does not offer there.

vLLM has `EmulationNvFp4LinearKernel`, which dequantizes weights, rounds activations to NVFP4 as
the hardware would, and multiplies in BF16. It lists that kernel for CUDA and ROCm only, so an
NVFP4 checkpoint cannot be loaded on a CPU. The kernel is plain torch and runs there once it is
listed. On every other platform this plugin does nothing.
"""

import functools

from forge.errors import EngineError


@functools.cache  # vLLM may call a plugin again in the same process
def register() -> None:
    """Lists vLLM's NVFP4 emulation kernel for the CPU; entry point of `vllm.general_plugins`.

    Called by vLLM in every process that it starts. Other platforms pay for one attribute look-up.

    Raises:
        EngineError: this vLLM has no such kernel, or no such way to list it. It is raised out of
            vLLM's start, because a server that goes on would fail later with a worse message.
    """
    from vllm.platforms import PlatformEnum, current_platform

    if not current_platform.is_cpu():
        return
    try:
        from vllm.model_executor.kernels.linear import register_linear_kernel
        from vllm.model_executor.kernels.linear.nvfp4.emulation import EmulationNvFp4LinearKernel

        register_linear_kernel(EmulationNvFp4LinearKernel, PlatformEnum.CPU, "nvfp4")
    except (ImportError, ValueError) as error:
        from vllm import __version__

        raise EngineError(
            f"vLLM {__version__}: cannot list EmulationNvFp4LinearKernel for the CPU ({error}). "
            "Adapt assay/emulation.py to this release, or install the one in lockfiles/; "
            "`VLLM_PLUGINS=` starts vLLM without this plugin, and without NVFP4 on a CPU."
        ) from error
