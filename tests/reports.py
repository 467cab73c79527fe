"""What an engine would have measured of a release that no engine saw, check by check."""

import json
from functools import partial

from forge.manifest import call_figures as called
from forge.manifest import probe_figures as probed
from forge.manifest import served_figures as served
from forge.manifest import stored_figures as stored
from forge.manifest import verification
from forge.manifest.served_figures import rates

DRAFTS, TOKENS, WINDOWS = 400, 640, 400


def structural(variant):
    """Figures of the structural checks by name, as those of a small release."""
    head = len(variant.mtp.tensors)
    dropped = variant.mtp.source == "dropped"
    there = 0 if dropped else head
    formats = sorted(variant.gates.max_error)
    linears, kept, none = 30, 58, ()
    tensors = there + kept + 4 * linears
    worst = {
        name: stored.Worst(linears=linears // len(formats), module="a.b", relative=0.06)
        for name in formats
    }
    return {
        "structure.index": stored.Index(tensors=tensors, bytes=9000, declared=9000),
        "structure.names": stored.Names(
            expected=tensors, stored=tensors, removed=0, missing=none, extra=none
        ),
        "structure.digests": stored.Digests(files=14, tensors=tensors, wrong=none),
        "structure.sources": stored.Sources(tensors=104, wrong=none),
        "structure.mtp": stored.Head(
            tensors=head, stored=there, equal=there, bytes=100 * there, wrong=none
        ),
        "structure.kept": stored.Kept(tensors=kept, equal=kept, bytes=4000, wrong=none),
        "structure.quantized": stored.Quantized(linears=linears, tensors=4 * linears, wrong=none),
        "structure.scales": stored.Scales(scales=500, wrong=none),
        "structure.siblings": stored.Siblings(fused=8, wrong=none),
        "structure.parallel": stored.Parallel(devices={"1": none, "2": none, "4": ("x",)}),
        "structure.ignore": stored.Ignore(
            quantized=linears,
            not_quantized=19,
            entries={"config.json": 25},
            wrong=none,
            readers={name: stored.Misread(layers=0) for name in ("sglang", "transformers")},
        ),
        "structure.config": stored.Declared(files=1, kv_cache=variant.layout.kv_cache, wrong=none),
        "structure.files": stored.Files(files=14, compared=10, wrong=none),
        "structure.weights": stored.Weights(formats=worst, zeros=none),
    }


def by_engine(variant):
    """Figures of the checks that ask an engine, by name."""
    serve = variant.serve
    count = serve.speculative_tokens or 1
    accepted = tuple(DRAFTS * 8 // 10 - 10 * n for n in range(count))
    settings = served.Settings(
        window=variant.perplexity.window, max_windows=WINDOWS, base={}, result={}
    )
    named = {served.DEFAULT: served.Profile(args=serve.args, env=serve.env), **serve.profiles}
    words = {
        "reasoning_characters": 0, "content_characters": 9, "finish_reason": "stop", "tokens": 3
    }  # fmt: skip
    parser = str(serve.args["tool-call-parser"])
    ordered = called.Call(name=called.ORDER, arguments=json.dumps(called.ORDER_CALL.arguments))
    fast, slow = (probed.Timed(tokens=320, seconds=seconds) for seconds in (3.2, 4.0))
    return {
        "smoke.profiles": served.Profiles(profiles=named, unknown_variables={}, wrong=()),
        "smoke.tool_parser": called.ToolParser(
            parser=parser, written="<tool_call>", read=(called.WEATHER_CALL, called.ORDER_CALL)
        ),
        "smoke.health": served.Health(
            startup_seconds=1.5, args=serve.args, env=serve.env, adaptations=()
        ),
        "smoke.chat.thinking_on": served.Thinking(**words),
        "smoke.chat.thinking_off": served.NoThinking(**words),
        "smoke.scripts": probed.Scripts(
            said={name: probed.Said(forced=one, free=one) for name, one in probed.SCRIPTS.items()}
        ),
        "smoke.stop": probed.Stop(
            ended=tuple(probed.Ended(token=n, finish_reason="stop", tokens=1) for n in (65, 63)),
            ordinary=(),
            turn_end=65,
            finish_reason="stop",
        ),
        "smoke.streaming": probed.Streaming(
            answers=(probed.Streamed(pieces=3, streamed="Hi.", whole="Hi.", same_tokens=True),) * 2
        ),
        "smoke.tool_call": called.ToolCall(
            calls=(called.Call(name=called.TOOL, arguments='{"city": "Paris"}'),)
        ),
        "smoke.tool_nested": called.ToolNested(demanded=(ordered,), chosen=(ordered,)),
        "smoke.image": served.Image(
            image_tokens=(16, 240), answers=("Red.", "Blue.", "Red."), logprob_shift=0.3
        ),
        "smoke.logprobs": probed.Logprobs(
            positions=150, candidates=20, finite=150, flat=0, lowest=-17.5
        ),
        "smoke.long_prompt": probed.LongPrompt(
            chunk=2048, prompt=1984, written=128, shift=0.4, noise=0.3
        ),
        "smoke.concurrent": served.Concurrent(
            prompts=10,
            identical=10,
            tokens=TOKENS,
            tokens_before_difference=TOKENS,
            differences=(),
            own_noise=0.06,
        ),
        "smoke.image_refused": served.ImageRefused(
            status=400, answer="At most 0 image(s)", healthy=True
        ),
        "smoke.mtp": served.Drafts(
            drafts=DRAFTS,
            drafted=DRAFTS * count,
            accepted=accepted,
            acceptance=rates(DRAFTS, accepted),
        ),
        "smoke.greedy_identical": served.Greedy(
            prompts=10,
            identical=9,
            tokens=TOKENS,
            tokens_before_difference=TOKENS - 5,
            differences=(served.Difference(prompt=3, position=59, gap=0.125),),
            own_noise=0.06,
        ),
        "smoke.mtp_speed": probed.Pace(with_mtp=fast, without=slow, speedup=1.25),
        "perplexity": served.Perplexity(
            text="wikitext-2-raw-v1 test",
            settings=settings,
            windows=WINDOWS,
            tokens=WINDOWS * settings.window,
            scored=WINDOWS * (settings.window - 1),
            base=8.0,
            result=8.4,
            ratio=8.4 / 8.0,
            seconds=served.Seconds(base=1.0, result=1.0),
        ),
    }


def checks(variant, names):
    """These checks of a variant, each passed."""
    figures = {**structural(variant), **by_engine(variant)}
    made = [verification.check(name, variant, partial(figures.get, name)) for name in names]
    assert verification.passed(made), [one.problem for one in made]
    return made


def report(variant, level="all"):
    """The report of a build that passed."""
    names = verification.expected(variant, level)
    return verification.report(variant, level, checks(variant, names))
