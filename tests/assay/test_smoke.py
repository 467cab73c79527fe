"""The engine's flags, its processes, and each smoke check against answers good and bad."""

import json
import os
import shutil
import time
import zlib
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

import pytest

from assay import engine, smoke
from assay.checks import Check
from assay.engine import Sample
from assay.smoke import Completion, Speculation
from forge import identity, recipe, tensorfile
from forge.errors import EngineError

STANDIN = identity.ROOT / "build/standins/qwen36-dense/checkpoint"
FLAGSHIP = recipe.find("qwen36-27b-vlm-mtp").serve
BF16_ARGS = {name: value for name, value in FLAGSHIP.args.items() if name != "quantization"}

# --- flags


def test_published_flags_are_untouched_on_a_gpu():
    used, changes = engine.adapt(FLAGSHIP.args, device="cuda", max_model_len=262144)
    assert used == FLAGSHIP.args
    assert changes == ()


def test_a_short_model_shortens_the_context_on_a_gpu_too():
    used, changes = engine.adapt(FLAGSHIP.args, device="cuda", max_model_len=4096)
    assert used == {**FLAGSHIP.args, "max-model-len": 4096}
    (change,) = changes
    assert change.startswith("--max-model-len: published 65536, used 4096, because")


def test_every_flag_that_differs_on_a_cpu_has_its_sentence():
    published = {**FLAGSHIP.args, "gpu-memory-utilization": 0.9}
    used, changes = engine.adapt(published, device="cpu", max_model_len=4096)
    differing = {
        flag for flag in published | used if published.get(flag, "unset") != used.get(flag, "unset")
    }
    assert {change.split(":")[0] for change in changes} == {f"--{flag}" for flag in differing}
    assert used["max-model-len"] == 4096
    assert used["enforce-eager"] is True
    assert used["enable-prefix-caching"] is False
    assert used["mamba-cache-mode"] == "none"
    assert "gpu-memory-utilization" not in used
    assert used["tool-call-parser"] == "qwen3_coder"


@pytest.mark.parametrize(
    ("flags", "dtype"),
    [("fpu avx512f avx512bw avx512dq avx512vl", "fp8_e4m3"), ("fpu avx2 avx512f", "auto")],
)
def test_fp8_cache_where_the_cpu_can(tmp_path, monkeypatch, flags, dtype):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor : 0\nflags\t\t: {flags}\n")
    monkeypatch.setattr(engine, "_CPUINFO", cpuinfo)
    used, _ = engine.adapt({"kv-cache-dtype": "fp8_e4m3"}, device="cpu", max_model_len=4096)
    assert used["kv-cache-dtype"] == dtype


def test_command_line(tmp_path):
    args = {"max-model-len": 64, "enforce-eager": True, "enable-prefix-caching": False}
    command = engine.serve_command(tmp_path, args, port=1234, speculative_tokens=3)
    line = " ".join(command)
    assert "--host 127.0.0.1 --port 1234" in line
    assert "--max-model-len 64 --enforce-eager --no-enable-prefix-caching" in line
    assert json.loads(command[-1]) == {"method": "mtp", "num_speculative_tokens": 3}
    assert "trust-remote-code" not in line
    assert "--speculative-config" not in engine.serve_command(
        tmp_path, args, port=1234, speculative_tokens=None
    )


# --- processes


def gone(pid):
    """Whether a process has ended, given a moment to do so."""
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, EngineError])
def test_nothing_outlives_an_interruption(tmp_path, monkeypatch, interruption):
    """The child of the child, deaf to SIGTERM, goes too."""
    monkeypatch.setattr(engine, "STOP_SECONDS", 0.2)
    deaf = "trap '' TERM; sleep 60 & echo $!; wait"
    log = tmp_path / "logs" / "log"
    pids = []

    def interrupted():
        with engine.process(["sh", "-c", deaf], log=log, env=os.environ) as child:
            while not log.read_text().strip():
                time.sleep(0.02)
            pids.extend([child.pid, int(log.read_text())])
            raise interruption

    with pytest.raises(interruption):
        interrupted()
    assert all(gone(pid) for pid in pids)


def test_an_error_ends_with_the_last_lines_of_the_log(tmp_path):
    log = tmp_path / "log"
    log.write_text("".join(f"line {number}\n" for number in range(100)))
    assert engine.tail(log).startswith(f"The last lines of {log}:\nline 60\n")
    assert engine.tail(log).endswith("line 99")


def test_a_server_that_is_gone_is_an_engine_error(tmp_path):
    log = tmp_path / "log"
    log.write_text("last words\n")
    client = engine.Client("http://127.0.0.1:9", model="m", log=log)
    assert not client.healthy()
    with pytest.raises(EngineError, match="did not answer(.|\n)*last words"):
        client.chat([])
    client.close()


# --- what the answers are judged by


class Answers:
    """A client whose chat gives prepared messages, one after another."""

    def __init__(self, *messages):
        self.messages = list(messages)

    def chat(self, _, **__):
        message = self.messages.pop(0)
        choice = {
            "message": message,
            "finish_reason": "stop",
            "logprobs": {"content": [CANDIDATES]},
        }
        return {"choices": [choice], "usage": {"completion_tokens": 1, "prompt_tokens": 30}}


CANDIDATES = {"top_logprobs": [{"token": "a", "logprob": -0.1}, {"token": "b", "logprob": -3.0}]}


@pytest.mark.parametrize(
    ("thinking", "message", "passed"),
    [
        (True, {"reasoning": "So.", "content": None}, True),
        (True, {"reasoning": None, "content": "Yes."}, True),
        (True, {"reasoning": "", "content": " \n"}, False),
        (False, {"reasoning": None, "content": "Yes."}, True),
        (False, {"reasoning": "So.", "content": "Yes."}, False),
        (False, {"reasoning": None, "content": ""}, False),
    ],
)
def test_an_empty_answer_fails(thinking, message, passed):
    check = smoke.chat(Answers(message), thinking=thinking)
    assert check.passed is passed
    assert check.name == f"smoke.chat.thinking_{'on' if thinking else 'off'}"


@pytest.mark.parametrize(
    ("calls", "passed"),
    [
        ([("get_weather", '{"city": "Paris"}')], True),
        ([("get_weather", '{"city": "Paris"')], False),
        ([("get_weather", '{"city": 7}')], False),
        ([("get_weather", '{"town": "Paris"}')], False),
        ([("get_time", '{"city": "Paris"}')], False),
        ([("get_weather", '{"city": "Paris"}')] * 2, False),
        ([], False),
    ],
)
def test_a_call_must_satisfy_the_schema(calls, passed):
    functions = [{"function": {"name": name, "arguments": text}} for name, text in calls]
    check = smoke.tool_call(Answers({"content": None, "tool_calls": functions}))
    assert check.passed is passed


def test_a_picture_that_changes_nothing_fails():
    """The same probabilities for red and for blue: the tower's output does not reach the model."""
    check = smoke.image(Answers({"content": "Red."}, {"content": "Red."}, {"content": "Red."}))
    assert not check.passed
    assert check.measured["logprob_shift"] == 0


def test_the_picture_is_a_png():
    data = smoke.png((255, 0, 0), side=2)
    start = data.index(b"IDAT") + 4
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    assert zlib.decompress(data[start:-16]) == b"\0\xff\0\0\xff\0\0" * 2


def test_counters_are_summed_over_engines_and_differ_from_before():
    def samples(drafts, first, second):
        prefix = "vllm:spec_decode_num_"
        position = "accepted_tokens_per_pos_total"
        return [
            Sample(prefix + "drafts_total", {"engine": "0"}, drafts - 1.0),
            Sample(prefix + "drafts_total", {"engine": "1"}, 1.0),
            Sample(prefix + "draft_tokens_total", {"engine": "0"}, 2.0 * drafts),
            Sample(prefix + position, {"position": "1"}, second),
            Sample(prefix + position, {"position": "0"}, first),
            Sample(prefix + "drafts_created", {"engine": "0"}, 1.7e9),
            Sample("vllm:num_requests_running", {}, 3.0),
        ]

    before, after = smoke.speculation(samples(10, 9, 5)), smoke.speculation(samples(210, 159, 85))
    assert after.since(before) == Speculation(drafts=200, drafted=400, accepted=(150, 80))


@pytest.mark.parametrize(
    ("counted", "passed"),
    [
        (Speculation(drafts=200, drafted=400, accepted=(120, 80)), True),
        (Speculation(drafts=200, drafted=400, accepted=(119, 80)), False),
        (Speculation(drafts=200, drafted=400, accepted=(120, 79)), False),
        (Speculation(drafts=200, drafted=400, accepted=(120,)), False),
        (Speculation(drafts=99, drafted=198, accepted=(99, 99)), False),
        (Speculation(drafts=0, drafted=0, accepted=(0, 0)), False),
        (Speculation(drafts=0, drafted=0, accepted=()), False),
    ],
)
def test_each_position_has_its_floor(counted, passed):
    assert smoke.acceptance(counted, (0.6, 0.4)).passed is passed


def text(*tokens, gap=0.1):
    """A greedy text; at every position token 9 is `gap` behind, all others are out of sight."""
    return Completion(
        prompt=(1,), tokens=tokens, logprobs=tuple({t: -1.0, 9: -1 - gap} for t in tokens)
    )


@pytest.mark.parametrize(
    ("drafted", "plain", "noise", "passed"),
    [
        ([text(1, 2, 3)], [text(1, 2, 3)], 0.0, True),
        ([text(1, 9, 5)], [text(1, 2, 3, gap=0.2)], 0.0, True),  # two steps of BF16
        ([text(1, 9, 5)], [text(1, 2, 3, gap=0.4)], 0.0, False),
        ([text(1, 9, 5)], [text(1, 2, 3, gap=0.4)], 0.2, True),  # the engine is that noisy
        ([text(1, 9, 5)], [text(1, 2, 3, gap=0.4)], 0.19, False),
        ([text(1, 9, 5)], [text(1, 2, 3, gap=1.5)], 2.0, False),  # no noise excuses this
        ([text(1, 7, 5)], [text(1, 2, 3)], 0.0, False),  # not among the likeliest
        ([text(1, 2)], [text(1, 2, 3)], 0.0, False),
        ([text()], [text()], 0.0, False),
    ],
)
def test_texts_differ_only_at_ties(drafted, plain, noise, passed):
    check = smoke.greedy_identical(drafted, plain, noise=noise)
    assert check.passed is passed
    json.dumps(check.as_json(), allow_nan=False)


def test_the_first_difference_is_where_the_gap_is_taken():
    check = smoke.greedy_identical([text(1, 9, 5)], [text(1, 2, 3, gap=0.2)], noise=0.0)
    assert check.measured["differences"] == [{"prompt": 0, "position": 1, "gap": 0.2}]
    assert check.measured["identical"] == 0
    assert check.measured["tokens_before_difference"] == 1


def test_servers_that_do_not_start_fail_every_check(tmp_path, monkeypatch):
    """None of the checks is missing from the report, and each says why it failed."""

    @contextmanager
    def refuse(*_, **__):
        raise EngineError("vLLM ended with exit code 1")
        yield

    monkeypatch.setattr(engine, "device", lambda: "cpu")
    monkeypatch.setattr(engine, "serve", refuse)
    monkeypatch.setattr(smoke, "_written_and_read", lambda *_: ("", [smoke.WEATHER_CALL]))
    parsed, *served = smoke.run(STANDIN, FLAGSHIP, workdir=tmp_path)
    assert parsed.passed
    assert not any(check.passed for check in served)
    assert all("exit code 1" in check.detail for check in served)
    assert sorted(check.name for check in served) == [
        "smoke.chat.thinking_off",
        "smoke.chat.thinking_on",
        "smoke.greedy_identical",
        "smoke.health",
        "smoke.image",
        "smoke.mtp",
        "smoke.tool_call",
    ]


def test_a_server_that_dies_while_it_is_asked_fails_that_check_and_the_rest():
    def die(_):
        raise EngineError("POST: the server did not answer")

    good = {"a": lambda _: Check(name="a", passed=True, detail="", measured={"x": 1})}
    checks = smoke.ask(nullcontext(None), {**good, "b": die, "c": die})
    assert [(check.name, check.passed) for check in checks] == [
        ("a", True),
        ("b", False),
        ("c", False),
    ]


# --- the engine itself


@pytest.mark.engine
def test_metrics_are_read_as_prometheus_writes_them():
    lines = (
        "# HELP vllm:spec_decode_num_drafts_total Number of drafts.",
        "# TYPE vllm:spec_decode_num_drafts_total counter",
        'vllm:spec_decode_num_drafts_total{engine="0",model_name="a \\"b\\""} 355.0',
    )
    (sample,) = engine.parse_metrics("\n".join(lines) + "\n")
    assert sample == Sample(
        "vllm:spec_decode_num_drafts_total", {"engine": "0", "model_name": 'a "b"'}, 355.0
    )


@pytest.mark.engine
def test_tool_parser_and_template_agree():
    check = smoke.tool_parser(STANDIN, "qwen3_coder")
    assert check.passed, check
    assert (
        "<function=get_weather>\n<parameter=city>\nParis\n</parameter>" in check.measured["written"]
    )


@pytest.mark.engine
@pytest.mark.parametrize("parser", ["hermes", "no_such_parser", ""])
def test_a_parser_of_another_form_fails(parser):
    assert not smoke.tool_parser(STANDIN, parser).passed


@pytest.mark.engine
def test_a_checkpoint_that_cannot_be_served(tmp_path):
    """No config.json: the error has the server's last words, and no process is left."""
    broken = shutil.copytree(STANDIN, tmp_path / "broken")
    (broken / "config.json").unlink()
    serve = partial(engine.serve, broken, {}, speculative_tokens=None, log=tmp_path / "log")
    with pytest.raises(EngineError, match=r"ended with exit code \d+(.|\n)*config.json"), serve():
        pytest.fail("it was served")
    assert not any(str(broken).encode() in line for line in command_lines())


@pytest.mark.engine
def test_a_start_that_takes_too_long(tmp_path):
    serve = partial(engine.serve, STANDIN, {}, speculative_tokens=None, log=tmp_path / "log")
    with pytest.raises(EngineError, match="not healthy within 1 s"), serve(timeout_s=1):
        pytest.fail("it was served")


@pytest.mark.engine
def test_a_head_of_zeros_fails_where_all_else_passes(tmp_path):
    """The text stays right without a head, so only its acceptance can tell."""
    broken = shutil.copytree(STANDIN, tmp_path / "broken")
    for name, tensor in tensorfile.read_checkpoint(broken).items():
        if name.startswith("mtp."):
            with tensor.file.open("r+b") as file:
                file.seek(tensor.offset)
                file.write(bytes(tensor.nbytes))
    args, _ = engine.adapt(BF16_ARGS, device=engine.device(), max_model_len=4096)
    log = tmp_path / "log"
    with engine.serve(broken, args, speculative_tokens=1, log=log) as client:
        checks = [probe(client) for probe in smoke.FREE.values()]
        drafted = []
        mtp = smoke.mtp(client, serve=FLAGSHIP, prompts=smoke.PROMPTS, drafted=drafted)
        refused = partial(client.chat, [{"role": "user", "content": "?"}], max_tokens=-1)
        with pytest.raises(EngineError, match="answered 400"):
            refused()
    assert [check.detail for check in checks if not check.passed] == []
    assert len(drafted) == len(smoke.PROMPTS)
    assert not mtp.passed
    assert mtp.measured["drafted"] >= smoke.MIN_DRAFTED
    assert mtp.measured["acceptance"][0] < 0.3
    assert not any(str(broken).encode() in line for line in command_lines())


def command_lines():
    """The command lines of every process there is."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            yield path.read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
