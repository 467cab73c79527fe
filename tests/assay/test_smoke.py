"""The engine's processes, and what is reported of servers that fail, die, or have a broken head."""

import os
import shutil
import time
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

import pytest

from assay import engine, flags, probes, smoke, speculation
from assay.checks import Check
from assay.engine import Sample
from forge import identity, recipe, tensorfile
from forge.errors import EngineError

STANDIN = identity.ROOT / "build/standins/qwen36-dense/checkpoint"
FLAGSHIP = recipe.find("qwen36-27b-vlm-mtp").serve
BF16_ARGS = {name: value for name, value in FLAGSHIP.args.items() if name != "quantization"}

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


# --- the checks of both servers


def test_servers_that_do_not_start_fail_every_check(tmp_path, monkeypatch):
    """None of the checks is missing from the report, and each says why it failed."""

    @contextmanager
    def refuse(*_, **__):
        raise EngineError("vLLM ended with exit code 1")
        yield

    monkeypatch.setattr(engine, "device", lambda: "cpu")
    monkeypatch.setattr(engine, "serve", refuse)
    monkeypatch.setattr(probes, "_written_and_read", lambda *_: ("", [probes.WEATHER_CALL]))
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
    args, _ = flags.adapt(BF16_ARGS, device=engine.device(), max_model_len=4096)
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
    assert mtp.measured["drafted"] >= speculation.MIN_DRAFTED
    assert mtp.measured["acceptance"][0] < 0.3
    assert not any(str(broken).encode() in line for line in command_lines())


def command_lines():
    """The command lines of every process there is."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            yield path.read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
