"""The probes of a chat model: a few requests each, and one check of what comes back."""

import base64
import struct
import zlib
from collections.abc import Mapping
from typing import Any

from assay.serving.client import Client
from forge.manifest.served_figures import Chat, Image, ImageRefused, NoThinking, Thinking

CHAT_TOKENS = 512
ANSWER = 2000  # characters of a refusal that are recorded

# Two pictures of one colour each must not give the same first token with the same probabilities.
RED, BLUE = (255, 0, 0), (0, 0, 255)


def chat(client: Client, *, thinking: bool) -> Chat:
    """The chat template switches thinking, and the reasoning parser tells it from the answer."""
    answer = client.chat(
        [{"role": "user", "content": "Tell me about the sea."}],
        max_tokens=CHAT_TOKENS,
        chat_template_kwargs={"enable_thinking": thinking},
    )
    kind = Thinking if thinking else NoThinking
    return kind(
        reasoning_characters=len(_reasoning(answer)),
        content_characters=len(_content(answer)),
        finish_reason=answer["choices"][0]["finish_reason"],
        tokens=answer["usage"]["completion_tokens"],
    )


def image(client: Client) -> Image:
    """A picture is taken in, and what it shows changes the answer."""
    red, blue = (_look(client, colour) for colour in (RED, BLUE))
    blind = client.chat([_question()], max_tokens=1)
    answers = _content(red), _content(blue)
    shift = _shift(_first_logprobs(red), _first_logprobs(blue)) if all(answers) else 0.0
    return Image(
        image_tokens=red["usage"]["prompt_tokens"] - blind["usage"]["prompt_tokens"],
        answers=answers,
        logprob_shift=shift,
    )


def image_refused(client: Client) -> ImageRefused:
    """A picture, for a checkpoint that has no vision tower, is refused, and the server lives on."""
    status, text = client.refused_chat([_question(RED)])
    return ImageRefused(status=status, answer=text[:ANSWER], healthy=True)


def png(colour: tuple[int, int, int], side: int = 128) -> bytes:
    """A square picture of one colour (PNG, 8-bit RGB)."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    row = b"\0" + bytes(colour) * side  # each row starts with its filter: none
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(row * side)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, data) for kind, data in chunks)


def _reasoning(answer: Mapping[str, Any]) -> str:
    return (answer["choices"][0]["message"].get("reasoning") or "").strip()


def _content(answer: Mapping[str, Any]) -> str:
    return (answer["choices"][0]["message"].get("content") or "").strip()


def _question(colour: tuple[int, int, int] | None = None) -> dict[str, Any]:
    parts: list[dict[str, Any]] = [{"type": "text", "text": "What is the colour of this picture?"}]
    if colour is not None:
        url = f"data:image/png;base64,{base64.b64encode(png(colour)).decode()}"
        parts.insert(0, {"type": "image_url", "image_url": {"url": url}})
    return {"role": "user", "content": parts}


def _look(client: Client, colour: tuple[int, int, int]) -> dict[str, Any]:
    return client.chat(
        [_question(colour)],
        max_tokens=32,
        logprobs=True,
        top_logprobs=5,
        chat_template_kwargs={"enable_thinking": False},
    )


def _first_logprobs(answer: Mapping[str, Any]) -> dict[str, float]:
    candidates = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
    return {candidate["token"]: candidate["logprob"] for candidate in candidates}


def _shift(one: Mapping[str, float], other: Mapping[str, float]) -> float:
    """The largest move of a token; one that fell out of the list counts as its least likely."""
    low, other_low = min(one.values()), min(other.values())
    return max(
        abs(one.get(token, low) - other.get(token, other_low))
        for token in one.keys() | other.keys()
    )
