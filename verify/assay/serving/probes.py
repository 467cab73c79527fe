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
# Width and height in pixels; processors scale up what is below 256 squared.
SMALL, LARGE = (128, 128), (640, 384)


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
        content_characters=len(content(answer)),
        finish_reason=answer["choices"][0]["finish_reason"],
        tokens=answer["usage"]["completion_tokens"],
    )


def image(client: Client) -> Image:
    """A picture is taken in, a larger one as more tokens, and what it shows changes the answer."""
    red, blue, large = (
        _look(client, png(colour, *size))
        for colour, size in ((RED, SMALL), (BLUE, SMALL), (RED, LARGE))
    )
    blind = client.chat([_question()], max_tokens=1)["usage"]["prompt_tokens"]
    answers = content(red), content(blue), content(large)
    shift = _shift(_first_logprobs(red), _first_logprobs(blue)) if all(answers) else 0.0
    return Image(
        image_tokens=(
            red["usage"]["prompt_tokens"] - blind,
            large["usage"]["prompt_tokens"] - blind,
        ),
        answers=answers,
        logprob_shift=shift,
    )


def image_refused(client: Client) -> ImageRefused:
    """A picture, for a checkpoint that has no vision tower, is refused, and the server lives on."""
    status, text = client.refused_chat([_question(png(RED, *SMALL))])
    return ImageRefused(status=status, answer=text[:ANSWER], healthy=True)


def png(colour: tuple[int, int, int], width: int, height: int) -> bytes:
    """A picture of one colour (PNG, 8-bit RGB)."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    row = b"\0" + bytes(colour) * width  # each row starts with its filter: none
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(row * height)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, data) for kind, data in chunks)


def _reasoning(answer: Mapping[str, Any]) -> str:
    return (answer["choices"][0]["message"].get("reasoning") or "").strip()


def content(answer: Mapping[str, Any]) -> str:
    """What an answer says beside its reasoning."""
    return (answer["choices"][0]["message"].get("content") or "").strip()


def _question(picture: bytes | None = None) -> dict[str, Any]:
    parts: list[dict[str, Any]] = [{"type": "text", "text": "What is the colour of this picture?"}]
    if picture is not None:
        url = f"data:image/png;base64,{base64.b64encode(picture).decode()}"
        parts.insert(0, {"type": "image_url", "image_url": {"url": url}})
    return {"role": "user", "content": parts}


def _look(client: Client, picture: bytes) -> dict[str, Any]:
    return client.chat(
        [_question(picture)],
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
