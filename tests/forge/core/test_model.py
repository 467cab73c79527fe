"""The one base of all models: strict, closed, and spelled in one way."""

import re

import pytest
from pydantic import ValidationError

from forge.core import checkout
from forge.core.model import Maybe, Model, RelativePath, Timestamp, mistake


class Small(Model):
    path: RelativePath
    numbers: tuple[int, ...] = ()
    rate: float = 0.5
    note: Maybe[str] = None


def test_written_with_sorted_keys_and_without_what_is_absent():
    small = Small(path="a/b", numbers=(2, 1))
    assert small.encoded() == b'{"numbers":[2,1],"path":"a/b","rate":0.5}\n'
    assert Small.parse(small.encoded()) == small
    told = Small(path="x", note="é")
    assert told.encoded() == '{"note":"é","numbers":[],"path":"x","rate":0.5}\n'.encode()
    assert Small.parse(told.encoded()) == told


def test_nan_is_not_written():
    with pytest.raises(ValueError, match="not JSON compliant"):
        Small(path="x", rate=float("nan")).encoded()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"path":"x","more":1}', "more: Extra inputs are not permitted; the value is 1"),
        ('{"path":1}', "path: Input should be a valid string; the value is 1"),
        ('{"path":"../x"}', "path: Value error, must be a relative POSIX path"),
        ('{"path":"x","numbers":["1"]}', "numbers.0: Input should be a valid integer"),
        ('{"path":"x","note":null}', "note: Value error, leave the key out instead"),
        ("[]", "the whole document: Input should be an object"),
    ],
)
def test_other_forms_are_refused(text, reason):
    with pytest.raises(ValidationError) as caught:
        Small.parse(text.encode())
    assert mistake(caught.value).startswith(reason)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"path":"x","path":"y"}', "the key 'path' stands twice"),
        ('{"path":"x","rate":NaN}', "NaN is not JSON"),
        ("{", "Expecting"),
        ("[" * 100_000, "nests too deeply"),
    ],
)
def test_what_is_not_json_for_all_readers_is_refused(text, reason):
    with pytest.raises(ValueError, match=reason):
        Small.parse(text.encode())


def test_no_mutation():
    with pytest.raises(ValidationError, match="frozen"):
        Small(path="x").path = "y"


@pytest.mark.parametrize("time", ["2026-01-02T03:04:05Z", "2026-01-02T03:04:05.1+00:00", "now"])
def test_time_in_another_spelling(time):
    class Event(Model):
        at: Timestamp

    assert Event(at="2026-01-02T03:04:05+00:00")
    with pytest.raises(ValidationError, match="should match pattern"):
        Event(at=time)


def test_the_base_is_declared_once():
    """Every other model of the tree is made from it, so none is lax by accident."""
    sources = [
        path
        for folder in ("build/forge", "verify")
        for path in (checkout.ROOT / folder).rglob("*.py")
        if re.search(r"\bBaseModel\b", path.read_text(encoding="utf-8"))
    ]
    assert sources == [checkout.ROOT / "build/forge/core/model.py"]
