"""That servers which fail or die are no verdict, and which checks are made of whom."""

import threading
from contextlib import contextmanager, nullcontext

import pytest

from assay.serving import engine, garbage, profiles, sessions, smoke, texts, tools
from assay.serving.client import Client, RefusedError
from assay.serving.sessions import Session
from assay.serving.texts import Read, Writer
from forge.core import checkout
from forge.core.errors import EngineError
from forge.manifest import verification
from forge.manifest.served_figures import Health
from forge.manifest.verification import UnmeasuredError
from forge.recipes import recipe

STANDIN = checkout.ROOT / "build/standins/qwen36-dense/checkpoint"
FLAGSHIP = recipe.find("qwen36-27b-vlm-mtp")


def serving(**changes):
    """The flagship, served otherwise."""
    return FLAGSHIP.model_copy(update={"serve": FLAGSHIP.serve.model_copy(update=changes)})


PLAIN = serving(speculative_tokens=None, acceptance_floor=())
TEXT_ONLY = serving(
    speculative_tokens=None,
    acceptance_floor=(),
    args={**FLAGSHIP.serve.args, "language-model-only": True},
)

BOTH = {
    "smoke.profiles", "smoke.tool_parser",
    "smoke.health", "smoke.chat.thinking_on", "smoke.chat.thinking_off", "smoke.image",
    "smoke.tool_call", "smoke.tool_nested", "smoke.scripts", "smoke.stop", "smoke.streaming",
    "smoke.logprobs", "smoke.long_prompt", "smoke.concurrent", "perplexity",
}  # fmt: skip
REFUSED = "the server answered 400"
NO_TEXT = "there is no text with MTP to compare with"
MTP = {"smoke.mtp", "smoke.greedy_identical", "smoke.mtp_speed"}


class Dead:
    """A server that does not start."""

    def ready(self):
        raise EngineError("vLLM ended with exit code 1")


class Up:
    """A server that is healthy at once."""

    def __init__(self, client=None):
        self.client = client

    def ready(self):
        return self.client


class Refusing:
    """A client of a server that lives, and refuses whatever it is asked."""

    def __getattr__(self, name):
        def refuse(*_, **__):
            raise RefusedError(REFUSED)

        return refuse


def good(_):
    return Health(startup_seconds=1.0, args=FLAGSHIP.serve.args, env={}, adaptations=())


def test_a_server_that_is_gone_is_an_engine_error(tmp_path):
    log = tmp_path / "log"
    log.write_text("last words\n", encoding="utf-8")
    client = Client("http://127.0.0.1:9", model="m", log=log)
    assert not client.healthy()
    with pytest.raises(EngineError, match="did not answer(.|\n)*last words"):
        client.chat([])
    client.close()


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        (FLAGSHIP, BOTH | MTP),
        (PLAIN, BOTH),
        (TEXT_ONLY, BOTH - {"smoke.image"} | {"smoke.image_refused"}),
    ],
)
def test_every_check_is_made(tmp_path, monkeypatch, device, variant, expected):
    """Of servers that refuse whatever they are asked, each with the reason."""

    def refuse(*_):
        raise UnmeasuredError(REFUSED)

    @contextmanager
    def start(*_, **__):
        yield Up(Refusing())

    monkeypatch.setattr(engine, "device", lambda: device)
    monkeypatch.setattr(engine, "serve", start)
    monkeypatch.setattr(profiles, "taken", refuse)
    monkeypatch.setattr(profiles, "tokens_at_once", lambda _: 128)
    monkeypatch.setattr(smoke, "tool_parser", refuse)
    checks = smoke.run(
        STANDIN,
        variant,
        smoke.fit(STANDIN, variant.serve),
        workdir=tmp_path,
        scoring={"perplexity": lambda client: client.chat()},
    )
    assert not any(check.passed for check in checks)
    assert expected == {check.name for check in checks}
    assert len(checks) == len(expected)
    # What is compared with texts that the server with MTP refused has a reason of its own.
    assert {check.problem for check in checks} <= {REFUSED, NO_TEXT}
    made = set(verification.expected(variant, "all")) - set(verification.STRUCTURE)
    assert expected == made


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("dying", [0, 1])
def test_a_server_that_does_not_start_ends_the_trial(together, dying):
    """Nothing is reported, as it may be this machine's fault, and the others are stopped, too."""
    running = []

    @contextmanager
    def server(number):
        running.append(number)
        yield Dead() if number == dying else Up()
        running.remove(number)

    done = []
    asked = [
        Session(server=server(n), probes={"smoke.health": good}, done=lambda n=n: done.append(n))
        for n in range(2)
    ]
    with pytest.raises(EngineError, match="exit code 1"):
        sessions.ask_all(asked, FLAGSHIP, together=together, meanwhile=list)
    assert dying in done


def test_a_server_that_dies_while_it_is_asked_ends_the_trial():
    def die(_):
        raise EngineError("POST: the server did not answer")

    probes = {"smoke.health": good, "smoke.mtp": die, "smoke.image": good}
    session = Session(server=nullcontext(), probes=probes)
    with pytest.raises(EngineError, match="did not answer"):
        sessions.ask(Up(), session, FLAGSHIP)


def test_a_text_that_mtp_never_wrote_fails_the_comparison(monkeypatch, tmp_path):
    """The other server has written; it does not wait for one that refuses to."""

    @contextmanager
    def serve(*_, speculative_tokens, **__):
        yield Up() if speculative_tokens is None else Up(Refusing())

    def refuse(*_, **__):
        raise UnmeasuredError(REFUSED)

    monkeypatch.setattr(engine, "device", lambda: "cpu")
    monkeypatch.setattr(engine, "serve", serve)
    monkeypatch.setattr(texts, "complete", lambda *_: None)
    monkeypatch.setattr(texts, "read", lambda *_: Read(gap=0.0, shift=0.0))
    monkeypatch.setattr(Writer, "long_prompt", refuse)
    monkeypatch.setattr(Writer, "at_once", refuse)
    monkeypatch.setattr(profiles, "tokens_at_once", lambda _: 128)
    for probe in ("scripts", "stop", "logprobs"):
        monkeypatch.setattr(garbage, probe, refuse)

    monkeypatch.setattr(smoke, "tool_call", refuse)
    monkeypatch.setattr(smoke, "tool_nested", refuse)
    monkeypatch.setattr(profiles, "taken", refuse)
    monkeypatch.setattr(smoke, "tool_parser", refuse)
    fitted = smoke.fit(STANDIN, FLAGSHIP.serve)
    checks = smoke.run(STANDIN, FLAGSHIP, fitted, workdir=tmp_path, scoring={})
    compared = {check.name: check.problem for check in checks if check.name in MTP}
    assert compared.pop("smoke.mtp") == REFUSED
    assert set(compared.values()) == {NO_TEXT}
    assert len(compared) == 2


def test_an_interruption_stops_the_servers_before_it_waits_for_their_answers():
    stopped = threading.Event()

    class Loading:
        def ready(self):
            assert stopped.wait(30), "nobody stopped the server"
            raise EngineError("stopped")

    @contextmanager
    def server():
        try:
            yield Loading()
        finally:
            stopped.set()

    def interrupt():
        raise KeyboardInterrupt

    session = Session(server=server(), probes={"smoke.health": print})
    with pytest.raises(KeyboardInterrupt):
        sessions.ask_all([session], FLAGSHIP, together=True, meanwhile=interrupt)
    assert stopped.is_set()


def test_names_of_the_tool_probe_and_its_check_agree():
    assert tools.WEATHER["function"]["name"] == tools.WEATHER_CALL.name
