"""Whether a model knows where to stop: what its files say of the tokens that end an answer.

vLLM ends at the tokenizer's own token and at those of `generation_config.json`, transformers and
SGLang at the latter alone. So that file must name tokens that there are, the one among them with
which the chat template ends an answer.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from forge.core import canonical
from forge.core.errors import BaseError
from forge.tensors.family import Config

GENERATION = "generation_config.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
TOKENIZER = "tokenizer.json"
KEY = "eos_token_id"

# The bytes of a file of a checkpoint by its name, None if it is not there.
Read = Callable[[str], bytes | None]


def require(read: Read, config: Config) -> tuple[int, ...]:
    """Refuses stop tokens that contradict the vocabulary, the tokenizer or the config.

    Args:
        read: gives the files of the checkpoint.
        config: its config.json.

    Returns:
        The stop tokens of `generation_config.json`; none if it names none.

    Raises:
        BaseError: naming file and token, or a file that is no JSON object.
    """
    where = config.path.parent
    stops = _numbers(_object(read, GENERATION, where).get(KEY), where / GENERATION)
    if not stops:
        return ()
    size = _own(config, "vocab_size")
    for stop in stops:
        if stop < 0 or (type(size) is int and stop >= size):
            raise BaseError(
                f"{where / GENERATION}: {KEY} is {[*stops]}, and the model has the tokens 0 to "
                f"{size - 1}."
            )
    named = _numbers(_own(config, KEY), config.path)
    if named and not {*named} & {*stops}:
        raise BaseError(
            f"{where / GENERATION}: {KEY} is {[*stops]}, in {config.path.name} it is {[*named]}: "
            "they have none in common."
        )
    token = _object(read, TOKENIZER_CONFIG, where).get("eos_token")
    content = token.get("content") if isinstance(token, Mapping) else token
    if content is not None and (end := _id(read, content, where)) not in {None, *stops}:
        raise BaseError(
            f"{where / GENERATION}: {KEY} is {[*stops]} and lacks {end}, the tokenizer's "
            f"{content!r}, so that engines would write on where an answer ends."
        )
    return stops


def _own(config: Config, key: str) -> Any:
    """A value of the language model's, which may be all of the model."""
    inner = config.get(f"text_config.{key}")
    return config.get(key) if inner is None else inner


def _numbers(value: Any, where: Path) -> tuple[int, ...]:
    found = value if isinstance(value, list) else [] if value is None else [value]
    if any(type(one) is not int for one in found) or value == []:
        raise BaseError(f"{where}: {KEY} is {value!r:.100}, which is no number of a token.")
    return tuple(found)


def _id(read: Read, content: Any, where: Path) -> int | None:
    """The number of a token that a tokenizer was given beside those that it learnt, if it was."""
    listed = _object(read, TOKENIZER_CONFIG, where).get("added_tokens_decoder")
    if isinstance(listed, Mapping):
        for number, token in listed.items():
            if isinstance(token, Mapping) and token.get("content") == content and number.isdigit():
                return int(number)
    added = _object(read, TOKENIZER, where).get("added_tokens")
    for token in added if isinstance(added, list) else []:
        if isinstance(token, Mapping) and token.get("content") == content:
            number = token.get("id")
            return number if type(number) is int else None
    return None


def _object(read: Read, name: str, where: Path) -> Mapping[str, Any]:
    """A JSON object of the checkpoint, an empty one if the file is not there."""
    data = read(name)
    if data is None:
        return {}
    try:
        found = canonical.loads(data)
    except ValueError as error:
        raise BaseError(
            f"{where / name}: is no JSON that all readers agree on: {error}."
        ) from error
    if not isinstance(found, dict):
        raise BaseError(f"{where / name}: must hold a JSON object.")
    return found
