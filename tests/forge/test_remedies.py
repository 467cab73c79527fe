"""Errors state facts; only the command lines say what to do, in the words of their interface."""

import ast
import re
import string
from pathlib import Path

import pytest
import typer

from assay import __main__ as assay_main
from forge import __main__ as forge_main
from forge import remedies
from forge.core import checkout, commandline, errors
from forge.core.errors import (
    HallmarkError,
    NoEnvironmentError,
    NotReadyError,
    ReleaseError,
    UnpinnedError,
)

COMMAND_LINES = ("build/forge/__main__.py", "build/forge/remedies.py", "verify/assay/__main__.py")
ROOTS = (checkout.ROOT / "build" / "forge", checkout.ROOT / "verify" / "assay")
SOURCES = {
    path.relative_to(checkout.ROOT).as_posix(): path.read_text(encoding="utf-8")
    for root in ROOTS
    for path in sorted(root.rglob("*.py"))
}
LIBRARY = [name for name in SOURCES if name not in COMMAND_LINES]


def makefile_words():
    """The Makefile's targets, and the variables that are given on its command line."""
    text = (checkout.ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z][a-z-]*):", text, flags=re.M))
    (names,) = re.findall(r"^NAMES := ((?:.*\\\n)*.*)", text, flags=re.M)
    # A and B, the folders of compare, are words of any sentence.
    return targets, set(re.findall(r"[A-Z_]{2,}", names)) - {"NOX"}


TARGETS, VARIABLES = makefile_words()
# A variable counts with its `=`, or as a word of a sentence: `{"BASE": base}` is the Dockerfile's.
NAMED = re.compile(
    rf"\bmake (?:(?:{'|'.join(TARGETS)})(?![\w-])|<)|\bnox -s\b|\b(?:{'|'.join(VARIABLES)})="
)
WORD = re.compile(rf"(?<![\w.-])(?:{'|'.join(VARIABLES)})(?!\.?\w|[-=])")


def named(source):
    """What the strings of a module name of the Makefile; docstrings are strings as well."""
    texts = [
        node.value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    found = [match[0] for text in texts for match in NAMED.finditer(text)]
    return found + [match[0] for text in texts if " " in text for match in WORD.finditer(text)]


def test_words_of_the_makefile():
    assert {"lock", "image", "release", "sign", "verify-release", "rehearse"} <= TARGETS
    assert {"VARIANT", "BASE", "MIRROR", "OUT", "KEY", "RUNNER", "MEMORY", "UNSIGNED"} <= VARIABLES
    assert not {"NOX", "WHERE", "RELEASE", "OPTIONS"} & VARIABLES


@pytest.mark.parametrize("module", LIBRARY)
def test_library_does_not_know_the_makefile(module):
    """Messages and docstrings name neither its targets nor its variables."""
    assert named(SOURCES[module]) == []


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ('raise E(f"{x}: is open. Run `make lock VARIANT={x}`.")', ["make lock", "VARIANT="]),
        ('raise E("leave BASE out, or name a MIRROR.")', ["BASE", "MIRROR"]),
        ('raise E("give it with KEY=<file>.")', ["KEY="]),
        ('X = f"OUT={x}"', ["OUT="]),
        ('"""Run `make <variant>` before."""', ["make <"]),
        ('"""Run nox -s unit before."""', ["nox -s"]),
        ('args = {"BASE": base, "VERIFY": verify}', []),
        ('raise E("the base makes a difference, make sure that it is there")', []),
    ],
)
def test_a_module_that_names_them_is_found(statement, found):
    assert sorted(found) == sorted(set(named(statement)))


def calls_with_a_remedy():
    """Every `remedy="<code>"` in the library: where, the code, and the facts beside it."""
    for module in LIBRARY:
        for node in ast.walk(ast.parse(SOURCES[module])):
            given = {k.arg: k.value for k in node.keywords} if isinstance(node, ast.Call) else {}
            if isinstance(given.get("remedy"), ast.Constant):
                yield module, node.lineno, given.pop("remedy").value, given.keys() - {None}


RAISED = list(calls_with_a_remedy())
CLASSES = [
    found
    for found in vars(errors).values()
    if isinstance(found, type) and issubclass(found, HallmarkError)
]


def placeholders(text):
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


@pytest.mark.parametrize(("module", "line", "code", "facts"), RAISED)
def test_every_remedy_is_in_the_table_and_has_its_facts(module, line, code, facts):
    for text in remedies.REMEDIES[code]:
        assert placeholders(text) <= facts, f"{module}:{line}"


def test_every_remedy_of_the_table_is_used():
    of_classes = {found.remedy for found in CLASSES} - {None}
    of_command_lines = {"unconfirmed", "unconfirmed-removal", "whom-to-trust"}
    used = {code for _, _, code, _ in RAISED} | of_classes | of_command_lines
    assert used == remedies.REMEDIES.keys()


def test_errors_of_a_class_with_a_remedy_have_its_facts():
    """So far two such classes have some; their errors name the variant, or another remedy."""
    facts = {
        found: {name for text in remedies.REMEDIES[found.remedy] for name in placeholders(text)}
        for found in CLASSES
        if found.remedy is not None
    }
    assert facts == {
        UnpinnedError: {"variant"},
        NotReadyError: {"variant"},
        NoEnvironmentError: set(),
    }
    named = {found.__name__ for found, names in facts.items() if names}
    raised = [
        {keyword.arg for keyword in node.keywords}
        for module in LIBRARY
        for node in ast.walk(ast.parse(SOURCES[module]))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in named
    ]
    assert raised
    assert all(keywords & {"variant", "remedy"} for keywords in raised)


def test_words_of_the_interface(monkeypatch):
    error = UnpinnedError("x.toml: base is open.", variant="x")
    monkeypatch.setenv(commandline.INTERFACE, "make")
    assert remedies.remedy(error).startswith("Run `make lock VARIANT=x`")
    monkeypatch.delenv(commandline.INTERFACE)
    assert remedies.remedy(error).startswith("Run `python -m forge lock x`")
    assert remedies.remedy(HallmarkError("no remedy")) is None


def test_facts_are_quoted_for_a_shell(monkeypatch):
    monkeypatch.setenv(commandline.INTERFACE, "make")
    error = ReleaseError("no release", remedy="not-released", folder=Path("a folder/it's"))
    assert remedies.remedy(error) == """Run `make release DIR='a folder/it'"'"'s'`."""


@pytest.mark.parametrize("code", remedies.REMEDIES)
def test_each_is_a_sentence_in_the_words_of_its_interface(code):
    make, command = remedies.REMEDIES[code]
    assert "`--" not in make
    assert "python -m" not in make
    assert set(named(repr(command))) <= {"nox -s"}
    for text in (make, command):
        assert text[0].isupper()
        assert text.endswith(".")


OPTION = re.compile(r"`(--[a-z]+)")
COMMAND = re.compile(r"`python -m forge ([a-z-]+)")


def test_commands_and_options_exist():
    """Those that the remedies name are those of the command lines."""
    texts = [command for _, command in remedies.REMEDIES.values()]
    commands = {found for text in texts for found in COMMAND.findall(text)}
    options = {found for text in texts for found in OPTION.findall(text)}
    apps = [typer.main.get_group(main.app) for main in (forge_main, assay_main)]
    known = [one for app in apps for one in app.commands.values()]
    assert commands <= apps[0].commands.keys()
    assert options <= {name for one in known for option in one.params for name in option.opts}


def test_targets_and_variables_exist():
    texts = [make for make, _ in remedies.REMEDIES.values()]
    targets = {t for text in texts for t in re.findall(r"`make ([a-z-]+)", text)}
    variables = {v for text in texts for v in re.findall(r"\b([A-Z_]+)=", text)}
    assert targets <= TARGETS
    assert variables <= VARIABLES
