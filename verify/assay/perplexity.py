"""Perplexity of base and result over one text, by the same engine with the same settings.

The protocol is that of the published wikitext-2 figures: the whole text is tokenized once without
special tokens and cut into windows that do not overlap; the first token of a window has no context
and is not scored; the last window is shorter and is kept.

`python -m assay.perplexity` measures one checkpoint in a process of its own, so that its memory is
free before the next one is loaded; :func:`measure` runs that.
"""

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from assay import engine
from assay.checks import Check
from forge.errors import EngineError

# Everything that could change a figure or only its cost; the same for base and result.
SETTINGS: dict[str, Any] = {
    "dtype": "bfloat16",
    "kv_cache_dtype": "auto",
    "enforce_eager": True,
    "enable_prefix_caching": False,
    "max_num_seqs": 4,
    "max_num_batched_tokens": 2048,  # the logits of so many tokens are held at once
    "limit_mm_per_prompt": {"image": 0, "video": 0},  # text only: the vision tower is not run
    "seed": 0,
}


@dataclass(frozen=True, kw_only=True)
class Perplexity:
    """One measurement; `value` is exp(`mean_nll`), over `scored` of `tokens` tokens."""

    windows: int
    tokens: int
    scored: int
    value: float
    mean_nll: float
    seconds: float


def split(tokens: Sequence[int], window: int) -> list[list[int]]:
    """Cuts tokens into windows that do not overlap; the last one may be shorter."""
    return [list(tokens[start : start + window]) for start in range(0, len(tokens), window)]


def measure(
    checkpoint: Path, text: str, *, window: int, log: Path, max_windows: int | None = None
) -> Perplexity:
    """Scores a text with vLLM in a fresh process.

    Args:
        checkpoint: the folder to load.
        text: scored as it is, special tokens neither added nor removed.
        window: tokens in a window.
        log: where the engine's output is kept.
        max_windows: scores only so many windows from the start; None scores all.

    Raises:
        EngineError: the process failed; with the end of its log.
    """
    with tempfile.TemporaryDirectory(prefix="hallmark-perplexity-") as folder:
        source, outcome = Path(folder, "text.txt"), Path(folder, "figures.json")
        source.write_text(text, encoding="utf-8", newline="")
        command = [sys.executable, "-m", "assay.perplexity", str(checkpoint), str(source)]
        command += [str(outcome), f"--window={window}"]
        if max_windows is not None:
            command.append(f"--max-windows={max_windows}")
        with engine.process(command, log=log, env=_environment()) as child:
            code = child.wait()
        if code != 0:
            ended = f"scoring {checkpoint} ended with exit code {code}"
            raise EngineError(f"{ended}.\n{engine.tail(log)}")
        return Perplexity(**json.loads(outcome.read_text(encoding="utf-8")))


def _environment() -> dict[str, str]:
    # One process: a second one of vLLM's own would only import everything once more.
    return engine.environment() | {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}


def compare(
    base: Path,
    result: Path,
    text: str,
    *,
    window: int,
    max_ratio: float,
    text_name: str,
    workdir: Path,
    max_windows: int | None = None,
) -> Check:
    """Check `perplexity`: the result's is at most `max_ratio` times the base's.

    Logs are kept in `workdir`. An engine that fails is a failed check.
    """
    settings = {"window": window, "max_windows": max_windows, **SETTINGS}
    asked = {"text": text_name, "max_ratio": max_ratio, "settings": settings}
    try:
        before, after = (
            measure(
                checkpoint,
                text,
                window=window,
                log=workdir / f"perplexity-{role}.log",
                max_windows=max_windows,
            )
            for role, checkpoint in (("base", base), ("result", result))
        )
    except EngineError as error:
        return Check(name="perplexity", passed=False, detail=str(error), measured=asked)
    return verdict(before, after, max_ratio=max_ratio, asked=asked)


def verdict(
    base: Perplexity, result: Perplexity, *, max_ratio: float, asked: dict[str, Any]
) -> Check:
    """Judges two measurements of the same tokens; `asked` is recorded beside the figures.

    A figure that is not finite is recorded as null: it has no spelling in JSON, and fails.
    """
    ratio = result.value / base.value
    figures = {
        "base": base.value,
        "result": result.value,
        "difference": result.value - base.value,
        "ratio": ratio,
    }
    finite = {name: value if math.isfinite(value) else None for name, value in figures.items()}
    same = (base.windows, base.tokens) == (result.windows, result.tokens)
    detail = f"base {base.value:.4f}, result {result.value:.4f}, ratio {ratio:.4f} of {max_ratio}"
    if not same:
        detail = f"the tokenizers differ: {base.tokens} tokens in the base, {result.tokens} here"
    return Check(
        name="perplexity",
        passed=same and None not in finite.values() and ratio <= max_ratio,
        detail=detail,
        measured={
            **asked,
            **finite,
            "windows": result.windows,
            "tokens": result.tokens,
            "scored": result.scored,
            "seconds": {"base": base.seconds, "result": result.seconds},
        },
    )


def score(checkpoint: Path, text: str, *, window: int, max_windows: int | None) -> Perplexity:
    """Scores a text in this process; `seconds` counts the scoring, not the loading."""
    from vllm import LLM, SamplingParams

    # One token more than a window: vLLM has to generate something.
    llm = LLM(model=str(checkpoint), max_model_len=window + 1, **SETTINGS)
    tokens = llm.get_tokenizer().encode(text, add_special_tokens=False)
    windows = split(tokens, window)[:max_windows]
    prompts = [{"prompt_token_ids": ids} for ids in windows if len(ids) > 1]
    started = time.monotonic()
    outputs = llm.generate(
        prompts, SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0), use_tqdm=False
    )
    seconds = time.monotonic() - started
    logprobs = [value for output in outputs for value in _scored(output)]
    mean_nll = -math.fsum(logprobs) / len(logprobs) if logprobs else math.nan
    return Perplexity(
        windows=len(windows),
        tokens=sum(map(len, windows)),
        scored=len(logprobs),
        value=math.exp(mean_nll),
        mean_nll=mean_nll,
        seconds=round(seconds, 2),
    )


def _scored(output: Any) -> Iterator[float]:
    """The log-probability of each token of a prompt but the first."""
    pairs = zip(output.prompt_token_ids, output.prompt_logprobs, strict=True)
    next(pairs)
    for token, candidates in pairs:
        yield candidates[token].logprob


def main() -> None:
    """Scores one checkpoint and writes the figures as JSON, for :func:`measure`."""
    parser = argparse.ArgumentParser(prog="assay.perplexity", description=main.__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("outcome", type=Path)
    parser.add_argument("--window", type=int, required=True)
    parser.add_argument("--max-windows", type=int)
    options = parser.parse_args()
    text = options.text.read_bytes().decode("utf-8")  # line ends as they are
    figures = score(
        options.checkpoint, text, window=options.window, max_windows=options.max_windows
    )
    options.outcome.write_text(json.dumps(asdict(figures)), encoding="utf-8")


if __name__ == "__main__":
    main()
