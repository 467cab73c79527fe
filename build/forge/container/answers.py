"""Reads the container engine's answers, and refuses those of an unexpected form."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from docker import DockerClient

from forge.core.errors import NoEngineError
from forge.core.libraries import library


@contextmanager
def asking(what: str) -> Iterator[None]:
    """Turns whatever the engine's library raises within into one error; `what` did not work.

    Raises:
        NoEngineError: in its place.
    """
    with library("docker", NoEngineError, what, remedy="host"):
        yield


def field(answer: object, *keys: str) -> Any:
    """A value of an answer, by the keys that lead to it.

    Raises:
        NoEngineError: it has no such value.
    """
    for key in keys:
        if not isinstance(answer, Mapping) or key not in answer:
            raise NoEngineError(
                f"the container engine's answer has no {'.'.join(keys)}.", remedy="host"
            )
        answer = answer[key]
    return answer


def info(client: DockerClient) -> Mapping[str, Any]:
    """What the engine says of itself.

    Raises:
        NoEngineError: it does not.
    """
    with asking("the container engine does not tell of itself"):
        found = client.info()
        if not isinstance(found, Mapping):
            raise NoEngineError(
                f"the container engine tells {found!r:.100} of itself.", remedy="host"
            )
    return found
