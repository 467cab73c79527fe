"""Whether a model knows where to stop: what its files say of the tokens that end an answer.

vLLM ends at the tokenizer's own token and at those of `generation_config.json`, transformers and
SGLang at the latter alone. So that file must name tokens that there are, the one among them with
which the chat template ends an answer.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from forge.core.errors import BaseError
from forge.tensors.admission import parse_object
from forge.tensors.family import Config

GENERATION = "generation_config.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
TOKENIZER = "tokenizer.json"
FILES = (GENERATION, TOKENIZER_CONFIG, TOKENIZER)
KEY = "eos_token_id"

# The bytes of a file of a checkpoint by its name, None if it is not there.
Read = Callable[[str], bytes | None]


def require(read: Read, config: Config) -> tuple[int, ...]:
    """Refuses stop tokens that contradict the vocabulary, the tokenizer or the config.

    Args:
        read: gives those of `FILES` that the checkpoint has.
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
    tokenizer = _object(read, TOKENIZER_CONFIG, where)
    token = tokenizer.get("eos_token")
    content = token.get("content") if isinstance(token, Mapping) else token
    if content is None:
        return stops
    end = _listed(tokenizer.get("added_tokens_decoder"), content)
    if end is None:  # only then is the large file looked into
        end = _added(_object(read, TOKENIZER, where).get("added_tokens"), content)
    if end not in {None, *stops}:
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


def _listed(decoder: Any, content: Any) -> int | None:
    """The number of a token that `tokenizer_config.json` lists, if it does."""
    for number, token in decoder.items() if isinstance(decoder, Mapping) else ():
        if isinstance(token, Mapping) and token.get("content") == content and number.isdigit():
            return int(number)
    return None


def _added(tokens: Any, content: Any) -> int | None:
    """The number of a token that `tokenizer.json` has beside those that were learnt, if it has."""
    for token in tokens if isinstance(tokens, list) else ():
        if isinstance(token, Mapping) and token.get("content") == content:
            number = token.get("id")
            return number if type(number) is int else None
    return None


def _object(read: Read, name: str, where: Path) -> Mapping[str, Any]:
    """A JSON object of the checkpoint, an empty one if the file is not there."""
    data = read(name)
    return {} if data is None else parse_object(data, where / name)
