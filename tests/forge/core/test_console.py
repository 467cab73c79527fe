"""Text of strangers on the screen: nothing acts, nothing hides, and what is readable stays."""

import io
import json
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.rebuild import tables
from forge.core import commandline, console
from forge.core.console import Plain
from forge.core.errors import ReleaseError
from forge.core.portable import shown

HOSTILE = "a\x1b[2J\x07\x08\r\x9b1m\u202eb\u2066\u200b\ufeff\udc80\U000e0041z"
ESCAPED = r"a\x1b[2J\x07\x08\r\x9b1m\u202eb\u2066\u200b\ufeff\udc80\U000e0041z"
ACTING = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def acting(text):
    return {character for character in text if unicodedata.category(character) in ACTING} - {"\n"}


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("how", ["text", "cell", "title", "bar"])
def test_however_it_is_printed(monkeypatch, terminal, how):
    """Also as a terminal with colours, whose own escapes are rich's."""
    file = io.StringIO()
    plain = Plain(file=file, force_terminal=terminal, width=200, color_system=None)
    monkeypatch.setattr(console, "_console", plain)
    monkeypatch.setattr(tables, "_console", lambda: plain)
    match how:
        case "text":
            console.say(HOSTILE)
            tables.say(HOSTILE)
        case "cell":
            tables.table(["name"], [[HOSTILE]])
        case "title":
            from rich.table import Table

            plain.print(Table(HOSTILE, title=HOSTILE))
        case "bar":
            with console.bytes_bar(HOSTILE, 9) as advance:
                advance(9)
    text = file.getvalue().replace("\x1b[?25l", "").replace("\x1b[?25h", "")
    for own in ("\r\x1b[2K", "\x1b[1A\x1b[2K", "\x1b[2K", "\r"):
        text = text.replace(own, "") if terminal else text
    assert not acting(text), text
    assert how == "bar" or ESCAPED in text


@given(st.text(st.characters(exclude_categories=())))
def test_shown_hides_nothing(text):
    told = shown(text)
    assert not acting(told)
    assert "\n" not in told
    told.encode("utf-8")
    if not acting(text) and "\n" not in text and text.isprintable():
        assert told == text


@pytest.mark.parametrize("text", ["caf\u00e9", "\u65e5\u672c\u8a9e", "\U0001f600", "[red]a[/red]"])
def test_what_is_readable_stays(capsys, text):
    console.out(text)
    assert capsys.readouterr().out == f"{text}\n"


@given(st.text(st.characters(exclude_categories=())))
def test_json_stays_json(text):
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", printed)
        console.out_json(json.dumps({"a": text}, ensure_ascii=False))
    assert json.loads(printed.getvalue()) == {"a": text}
    assert not acting(printed.getvalue())


def test_errors_and_bugs(capsys, monkeypatch):
    """The line of an error, and the traceback of a bug with a stranger's text in it."""
    monkeypatch.setattr(console, "_console", Plain(file=sys.stderr))

    def fail():
        raise ReleaseError(HOSTILE)

    def crash():
        raise LookupError(HOSTILE)

    for app in (fail, crash):
        assert commandline._outcome(app, lambda _: None)
        said = capsys.readouterr().err
        assert not acting(said)
        assert r"a\x1b[2J" in said
