"""The ways of serving that a recipe publishes, read by vLLM's own argument parser.

Only the first of them is run; a flag that this vLLM does not have, or a value that it does not
take, must not wait for a user of the others.
"""

from collections.abc import Mapping
from typing import Any, NoReturn

from assay.serving.flags import arguments
from forge.manifest.served_figures import DEFAULT, Profiles
from forge.recipes.recipe import Profile


def taken(serve: Profile, profiles: Mapping[str, Profile]) -> Profiles:
    """The figures of check `smoke.profiles`: vLLM takes every flag of every profile, as published.

    Variables of vLLM's that this release does not know do nothing; they are named.
    """
    problems: list[str] = []
    unknown: dict[str, tuple[str, ...]] = {}
    named = {DEFAULT: Profile(args=serve.args, env=serve.env), **profiles}
    for name, profile in named.items():
        problem = _problem(profile)
        if problem is not None:
            problems.append(f"{name}: {problem}")
        unknown |= {name: tuple(ignored)} if (ignored := _unknown_variables(profile)) else {}
    return Profiles(profiles=named, unknown_variables=unknown, wrong=tuple(problems))


def tokens_at_once(args: Mapping[str, Any]) -> int:
    """How many tokens of a prompt vLLM reads at once, served with these flags on this machine."""
    from vllm.engine.arg_utils import EngineArgs
    from vllm.usage.usage_lib import UsageContext

    stated = args.get("max-num-batched-tokens")
    if stated is not None:
        return int(stated)
    most, _ = EngineArgs.get_batch_defaults(1)
    return int(most[UsageContext.OPENAI_API_SERVER])


def _problem(profile: Profile) -> str | None:
    """What vLLM has against the flags of a profile, if anything."""
    from vllm.model_executor.layers.quantization import QUANTIZATION_METHODS
    from vllm.reasoning import ReasoningParserManager
    from vllm.utils.argparse_utils import FlexibleArgumentParser
    from vllm.v1.attention.backends.registry import AttentionBackendEnum

    try:
        from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
        from vllm.entrypoints.launchers.launcher import validate_api_server_args
    except ImportError:  # up to 0.26, which is what machines with packages of their own have
        from vllm.entrypoints.openai.api_server import validate_api_server_args
        from vllm.entrypoints.openai.cli_args import make_arg_parser, validate_parsed_serve_args

    class Parser(FlexibleArgumentParser):  # type: ignore[misc]  # vLLM has no types
        def error(self, message: str) -> NoReturn:  # by default it ends the process
            raise ValueError(message)

    try:
        read = make_arg_parser(Parser(add_help=False)).parse_args(arguments(profile.args))
        validate_parsed_serve_args(read)
        validate_api_server_args(read)
        # These are looked at only when a model is loaded.
        parsers = ReasoningParserManager.list_registered()
        _one_of("reasoning-parser", read.reasoning_parser or None, [None, *parsers])
        _one_of("quantization", read.quantization, [None, *QUANTIZATION_METHODS])
        _one_of("attention-backend", read.attention_backend, [None, *AttentionBackendEnum])
    except (KeyError, TypeError, ValueError) as error:
        return str(error.args[0] if error.args else error)
    return None


def _one_of(flag: str, value: Any, known: list[Any]) -> None:
    names = [getattr(one, "name", one) for one in known]
    if getattr(value, "name", value) not in names:
        raise ValueError(f"argument --{flag}: {value!r} is none of {names}")


def _unknown_variables(profile: Profile) -> list[str]:
    from vllm import envs

    return sorted(
        name
        for name in profile.env
        if name.startswith("VLLM_") and name not in envs.environment_variables
    )
