"""The HTTP client that huggingface_hub is given: limits in time and size, and one rule for retries.

By itself huggingface_hub asks most things without a timeout, tries some calls again and others
not, and waits as long as a server says. Every call of the library goes through `Client.send`, so
the rule is here, and applies to fetching and publishing alike:

- Every connection, read and write has a timeout. An answer that is no download also has one as a
  whole, and a size. A download is no longer than its caller expects.
- 408, 425, 429, 5xx and broken connections are tried again, after a wait that doubles and varies.
  `Retry-After` is waited for, up to a bound. All else is for the caller at once.
- What cannot be sent twice without harm is tried again only where the hub says that it did nothing.

A download whose connection breaks in the middle is continued by huggingface_hub.
"""

import importlib
import math
import random
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

from huggingface_hub import constants, errors
from huggingface_hub.utils._http import hf_request_event_hook, parse_ratelimit_headers

from forge.core import console

if TYPE_CHECKING:
    import httpx
else:
    # httpx in huggingface_hub 1 (build), httpx2 in 2 (verify), with the same names.
    httpx = importlib.import_module(errors.HTTPError.__module__)

TRIES = 6
FIRST_WAIT, LONGEST_WAIT = 1.0, 30.0
# The hub counts requests in windows of five minutes.
LONGEST_ASKED_WAIT = 300.0
# To begin an answer to what was sent; a commit of many files takes the hub minutes.
SENT_SECONDS = 300.0
ANSWER_SECONDS = 120.0
ANSWER_BYTES = 64 << 20

_UNENDING = "its answers did not end in time"
_LATER = {408, 425, 429}
# Statuses that say that nothing was done.
_UNDONE = {408, 425, 429, 503}
_BROKEN = (httpx.TimeoutException, httpx.NetworkError, httpx.RemoteProtocolError)
_UNSENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


class GaveUpError(httpx.HTTPError):  # type: ignore[misc]
    """There was no usable answer; `status` is the last one, if the hub answered at all.

    It is not among the errors after which huggingface_hub tries again.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class UntrustedError(GaveUpError):
    """The hub's certificate is not signed by an authority that this machine trusts."""


class TooLongError(GaveUpError):
    """The hub sent more than it may, or than it lists."""


@dataclass(frozen=True)
class _Allowance:
    tries: int
    ends: float
    most: float  # bytes of a download


_USUAL = _Allowance(TRIES, math.inf, math.inf)
_allowance = ContextVar("_allowance", default=_USUAL)


@contextmanager
def within(
    seconds: float = math.inf, *, tries: int = TRIES, most: float = math.inf
) -> Iterator[None]:
    """All that is asked inside ends within these seconds, waits included; for this thread.

    A download has so many bytes at most. Inside another, the tighter of both counts.
    """
    outer = _allowance.get()
    inner = _Allowance(
        min(tries, outer.tries), min(monotonic() + seconds, outer.ends), min(most, outer.most)
    )
    token = _allowance.set(inner)
    try:
        yield
    finally:
        _allowance.reset(token)


class Client(httpx.Client):  # type: ignore[misc]
    """What `huggingface_hub.set_client_factory` is given."""

    def __init__(self) -> None:
        # The hook is what heeds HF_HUB_OFFLINE.
        super().__init__(event_hooks={"request": [hf_request_event_hook]}, follow_redirects=True)

    def send(
        self, request: "httpx.Request", *, stream: bool = False, **options: Any
    ) -> "httpx.Response":
        """Sends a request until there is an answer that another try would not change.

        Raises:
            GaveUpError: there was none in the tries and the time allowed.
            TooLongError: the answer is too long.
            UntrustedError: the certificate is not trusted.
            httpx.HTTPError: the connection broke, and the request may have been carried out.
        """
        allowed, tries = _allowance.get(), 0
        while True:
            tries += 1
            _limit(request, allowed.ends)
            answer = self._try(request, stream, allowed, options)
            if isinstance(answer, Exception):
                if not _is_repeatable(request, undone=isinstance(answer, _UNSENT)):
                    raise answer
                problem, status, asked = str(answer).rstrip("."), None, None
                problem = problem or type(answer).__name__
                if monotonic() >= allowed.ends:
                    raise GaveUpError(_UNENDING) from answer
            else:
                status, asked = answer.status_code, _asked_wait(answer)
                problem = f"HTTP {status}"
                repeatable = _is_repeatable(request, undone=status in _UNDONE)
                if not _comes_later(status) or not (repeatable or _is_too_long(asked)):
                    return answer
            wait = _wait(tries, asked)
            if tries >= allowed.tries or _is_too_long(asked) or monotonic() + wait > allowed.ends:
                times = "" if tries == 1 else f" {tries} times"
                later = "" if asked is None else f", and asks to come back in {asked:.0f} s"
                cause = answer if isinstance(answer, Exception) else None
                raise GaveUpError(f"{problem}{times}{later}", status) from cause
            console.say(f"{request.url.host}: {problem}; asking again in {wait:.0f} s")
            sleep(wait)

    def _try(
        self, request: "httpx.Request", stream: bool, allowed: _Allowance, options: dict[str, Any]
    ) -> "httpx.Response | Exception":
        """One answer, read if it is no download; or how the connection broke."""
        try:
            response = super().send(request, stream=True, **options)
            if stream and not response.is_error:
                response.stream = _Download(response.stream)
                response.iter_bytes = partial(_bounded, response.iter_bytes, allowed.most)
                return response
            ends = min(allowed.ends, monotonic() + ANSWER_SECONDS)
            response.stream = _Bounded(response.stream, ends)
            # Some megabytes on the wire can be gigabytes once they are decoded.
            response.iter_bytes = partial(_bounded, response.iter_bytes, ANSWER_BYTES)
            try:
                response.read()
            finally:
                response.close()
        except httpx.LocalProtocolError:
            # Its message quotes the header, which may be the token.
            raise GaveUpError("the token has characters that no header can carry") from None
        except _BROKEN as error:
            if _is_untrusted(error):
                raise UntrustedError(str(error)) from error
            return error
        return response


class _Download(httpx.SyncByteStream):  # type: ignore[misc]
    """The bytes of a download.

    huggingface_hub continues one whose connection was closed or fell silent, but not one whose
    connection was reset. So a reset is told as a close.
    """

    def __init__(self, stream: "httpx.SyncByteStream") -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._stream
        except httpx.ReadError as error:
            raise httpx.RemoteProtocolError(str(error)) from error

    def close(self) -> None:
        self._stream.close()


class _Bounded(httpx.SyncByteStream):  # type: ignore[misc]
    """The bytes of an answer, up to a time and a size."""

    def __init__(self, stream: "httpx.SyncByteStream", ends: float) -> None:
        self._stream, self._ends = stream, ends

    def __iter__(self) -> Iterator[bytes]:
        size = 0
        for chunk in self._stream:
            size += len(chunk)
            if monotonic() > self._ends:
                raise GaveUpError(_UNENDING)
            if size > ANSWER_BYTES:
                raise _too_long(ANSWER_BYTES)
            yield chunk

    def close(self) -> None:
        self._stream.close()


def _bounded(
    decoded: Callable[..., Iterator[bytes]], most: float, *sizes: int, **sizes_by_name: int
) -> Iterator[bytes]:
    """The bytes of an answer once they are decoded, up to a size."""
    size = 0
    for chunk in decoded(*sizes, **sizes_by_name):
        size += len(chunk)
        if size > most:
            raise _too_long(most)
        yield chunk


def _too_long(most: float) -> TooLongError:
    return TooLongError(f"sends an answer longer than {most:,.0f} bytes")


def _limit(request: "httpx.Request", ends: float) -> None:
    """Gives a request the timeouts that its caller left open, and none beyond the end."""
    left = ends - monotonic()
    if left <= 0:
        raise GaveUpError(_UNENDING)
    usual = float(constants.HF_HUB_DOWNLOAD_TIMEOUT)
    reading = usual if _only_reads(request) else max(usual, SENT_SECONDS)
    limits = {"connect": usual, "read": reading, "write": usual, "pool": usual}
    given = request.extensions.get("timeout", {})
    limits |= {name: seconds for name, seconds in given.items() if seconds is not None}
    request.extensions["timeout"] = {name: min(left, limits[name]) for name in limits}


def _only_reads(request: "httpx.Request") -> bool:
    return request.method in {"GET", "HEAD"}


def _is_repeatable(request: "httpx.Request", *, undone: bool) -> bool:
    """Whether a request can be sent again: it only reads, or did nothing and is still at hand."""
    if _only_reads(request):
        return True
    try:
        _ = request.content
    except httpx.RequestNotRead:
        return False  # huggingface_hub rewinds the file and tries again itself
    return undone


def _comes_later(status: int) -> bool:
    return status in _LATER or status >= 500


def _is_too_long(asked: float | None) -> bool:
    return asked is not None and asked > LONGEST_ASKED_WAIT


def _wait(tries: int, asked: float | None) -> float:
    """Seconds until the next try; varied, so that many clients do not come back at once."""
    if asked is not None:
        return asked + random.uniform(0, 1)  # noqa: S311 - no secret
    return min(FIRST_WAIT * 2.0 ** (tries - 1), LONGEST_WAIT) * random.uniform(0.5, 1)  # noqa: S311


def _asked_wait(response: "httpx.Response") -> float | None:
    """Seconds that the hub asks to wait, in `Retry-After` or in its own `RateLimit`."""
    value = response.headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return float(value)
    if value:
        try:
            moment = parsedate_to_datetime(value).astimezone(UTC)
        except (ValueError, OverflowError):  # the last day of the last year, in a zone behind UTC
            return None
        seconds = (moment - datetime.now(UTC)).total_seconds()
        return max(0.0, float(seconds))
    rate = parse_ratelimit_headers(response.headers) if response.status_code == 429 else None
    return float(rate.reset_in_seconds) if rate is not None and rate.remaining == 0 else None


def _is_untrusted(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        error = error.__cause__ or error.__context__
    return False
