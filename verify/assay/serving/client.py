"""Speaks to one running server; every failure of it is an EngineError with its last words.

A server that lives and refuses a request says something of the checkpoint: a RefusedError.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from forge.core.errors import EngineError
from forge.core.libraries import library
from forge.core.processes import tail

REQUEST_SECONDS = 600.0
HEALTH_SECONDS = 5.0
EVENT = "data: "  # how a piece of a stream begins


class RefusedError(EngineError):
    """A server that lives refused a request that the checkpoint should have made good."""


class Sample(NamedTuple):
    """One value of `/metrics`."""

    name: str
    labels: Mapping[str, str]
    value: float


class Client:
    """One server; `model` is the name that it was started with, `log` where its output goes."""

    def __init__(self, url: str, *, model: str, log: Path) -> None:
        self._model = model
        self._log = log
        # trust_env: a proxy for the outside must not be asked for 127.0.0.1.
        self._http = httpx.Client(base_url=url, timeout=REQUEST_SECONDS, trust_env=False)

    def chat(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> dict[str, Any]:
        """`/v1/chat/completions`, greedy; the whole answer."""
        return self._ask("/v1/chat/completions", {"messages": list(messages), **options})

    def streamed_chat(
        self, messages: Sequence[Mapping[str, Any]], **options: Any
    ) -> list[dict[str, Any]]:
        """`/v1/chat/completions`, greedy and streamed; the pieces of the first choice, in order."""
        path = "/v1/chat/completions"
        body = self._body({"messages": list(messages), "stream": True, **options})
        text = self._checked("POST", path, json=body).text
        # Not by splitlines: a text may have separators of lines that end no line of a stream.
        events = [line[len(EVENT) :] for line in text.split("\n") if line.startswith(EVENT)]
        try:
            told = [json.loads(event) for event in events if event.strip() != "[DONE]"]
        except ValueError as error:
            raise self._nonsense(path, f"no JSON ({error})", text) from error
        pieces = [piece for event in told for piece in event.get("choices", ())]
        if not pieces or any("error" in event for event in told):
            raise self._nonsense(path, "no answer", text)
        return pieces

    def refused_chat(self, messages: Sequence[Mapping[str, Any]]) -> tuple[int, str]:
        """`/v1/chat/completions` where a refusal is hoped for: the status and the text.

        Raises:
            EngineError: the server failed over it, or does not live on.
        """
        body = self._body({"messages": list(messages), "max_tokens": 1})
        response = self._answered("POST", "/v1/chat/completions", json=body)
        self.require_health()
        return response.status_code, response.text

    def completion(
        self, prompt: str | Sequence[int] | Sequence[Sequence[int]], **options: Any
    ) -> dict[str, Any]:
        """`/v1/completions` of a text, its tokens, or several of them, greedy; the whole answer."""
        return self._ask("/v1/completions", {"prompt": prompt, **options})

    def tokenize(self, text: str) -> list[int]:
        """The tokens of a text as it is, special tokens neither added nor removed."""
        answer = self._ask("/tokenize", {"prompt": text, "add_special_tokens": False})
        tokens: list[int] = answer["tokens"]
        return tokens

    def tokenize_chat(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """The tokens of finished messages, as the chat template writes them."""
        body = {"messages": list(messages), "add_generation_prompt": False}
        tokens: list[int] = self._ask("/tokenize", body)["tokens"]
        return tokens

    def metrics(self) -> list[Sample]:
        """Every sample of `/metrics`."""
        text = self._checked("GET", "/metrics").text
        with library("prometheus_client", EngineError, "/metrics cannot be read"):
            return parse_metrics(text)

    def healthy(self) -> bool:
        """Whether `/health` answers with success; a server that does not listen yet does not."""
        try:
            healthy: bool = self._http.get("/health", timeout=HEALTH_SECONDS).is_success
        except httpx.RequestError:
            return False
        return healthy

    def require_health(self) -> None:
        """Makes sure that the server lives.

        Raises:
            EngineError: it does not, or not well enough to say so in time.
        """
        if not self.healthy():
            raise EngineError(f"/health: the server is no longer healthy.\n{tail(self._log)}")

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def _body(self, body: Mapping[str, Any]) -> dict[str, Any]:
        return {"model": self._model, "temperature": 0, **body}

    def _ask(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        text = self._checked("POST", path, json=self._body(body)).text
        try:
            answer = json.loads(text)
        except ValueError as error:
            raise self._nonsense(path, f"no JSON ({error})", text) from error
        if not isinstance(answer, dict) or answer.get("choices") == []:
            raise self._nonsense(path, "no answer", text)
        return answer

    def _nonsense(self, path: str, what: str, text: str) -> EngineError:
        return EngineError(f"{path}: the server answered {what}: {text[:500]!r}\n{tail(self._log)}")

    def _checked(self, method: str, path: str, **content: Any) -> httpx.Response:
        response = self._answered(method, path, **content)
        if not response.is_success:
            raise RefusedError(self._told(response))
        return response

    def _answered(self, method: str, path: str, **content: Any) -> httpx.Response:
        """An answer that the server gave on purpose, be it a refusal."""
        try:
            response = self._http.request(method, path, **content)
        except httpx.RequestError as error:
            raise EngineError(
                f"{method} {path}: the server did not answer ({error!r}).\n{tail(self._log)}"
            ) from error
        # vLLM answers 500 and 503 when its engine is dying or dead, and does so for a while.
        if response.is_server_error and response.status_code != httpx.codes.NOT_IMPLEMENTED:
            raise EngineError(self._told(response))
        return response

    def _told(self, response: httpx.Response) -> str:
        request = response.request
        return (
            f"{request.method} {request.url.path}: the server answered {response.status_code}: "
            f"{response.text[:500]}\n{tail(self._log)}"
        )


def parse_metrics(text: str) -> list[Sample]:
    """The samples of a Prometheus exposition."""
    from prometheus_client.parser import text_string_to_metric_families

    return [
        Sample(sample.name, sample.labels, sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    ]
