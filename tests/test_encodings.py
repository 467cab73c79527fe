"""No text is read or written in the encoding of whoever's locale: each call names its own."""

import ast
import subprocess
import sys

import pytest

from forge.core import checkout

SOURCES = [
    checkout.ROOT / "noxfile.py",
    *(
        path
        for part in ("build", "verify", "tests", "tools")
        for path in (checkout.ROOT / part).rglob("*.py")
    ),
]
# Functions and methods that take text unless told otherwise, with the place of their mode, if any.
OPEN = {
    "open": 0, "fdopen": 1, "NamedTemporaryFile": 0, "TemporaryFile": 0, "SpooledTemporaryFile": 1,
    "read_text": None, "write_text": None, "TextIOWrapper": None, "FileHandler": None,
}  # fmt: skip
# Whose `open` takes no text.
BINARY = {"os", "Image", "tarfile", "wave", "builder"}
RUN = {"run", "Popen", "check_output"}
# They decode as the locale does, and cannot be told otherwise.
ALWAYS = {"popen", "getoutput", "getstatusoutput", "getpreferredencoding"}


def without_encoding(source):
    """The lines whose calls leave the encoding of text to the locale."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and leaves_it_open(node)
    ]


def leaves_it_open(call):
    owner, name = called(call)
    if name in ALWAYS:
        return owner in {"os", "subprocess", "locale"}
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    if "encoding" in given:
        return False
    if name in RUN:
        return any(is_true(given.get(option)) for option in ("text", "universal_newlines"))
    if name not in OPEN or (name == "open" and owner in BINARY):
        return False
    return not says_encoding(call, name) and is_text(call, given, name, owner)


def called(call):
    """Whose function or method is called, as far as that has a name, and which."""
    match call.func:
        case ast.Attribute(value=ast.Name(id=owner), attr=name):
            return owner, name
        case ast.Attribute(attr=name):
            return "", name
        case ast.Name(id=name):
            return None, name
    return None, ""


def says_encoding(call, name):
    """By its place among the arguments."""
    place = {"read_text": 0, "write_text": 1, "TextIOWrapper": 1, "FileHandler": 2}.get(name)
    return place is not None and len(call.args) > place


def is_text(call, given, name, owner):
    place = OPEN[name]
    if place is None:
        return True
    if name == "open" and owner is None:  # the built-in one, whose first argument is the path
        place = 1
    mode = given.get("mode", call.args[place] if len(call.args) > place else None)
    binary = "File" in name  # what files of `tempfile` are if nothing is said
    return not binary if mode is None else isinstance(mode, ast.Constant) and "b" not in mode.value


def is_true(value):
    return isinstance(value, ast.Constant) and value.value is True


def test_every_call_names_its_encoding():
    found = [
        f"{path.relative_to(checkout.ROOT)}:{line}"
        for path in SOURCES
        for line in without_encoding(path.read_text(encoding="utf-8"))
    ]
    assert found == []


@pytest.mark.parametrize(
    "line",
    [
        "open('f')", "open('f', 'w')", "open('f', mode='a')", "path.open()", "(a / 'b').open('w')",
        "f().read_text()", "path.write_text('x')", "os.fdopen(3)", "os.fdopen(3, 'w')",
        "tempfile.NamedTemporaryFile('w')", "NamedTemporaryFile(mode='w+')",
        "io.TextIOWrapper(raw)", "logging.FileHandler('f')", "os.popen('ls')",
        "subprocess.run(['ls'], text=True)", "subprocess.check_output(c, universal_newlines=True)",
        "subprocess.getoutput('ls')", "locale.getpreferredencoding()",
    ],
)  # fmt: skip
def test_calls_that_name_none(line):
    assert without_encoding(line) == [1]


@pytest.mark.parametrize(
    "line",
    [
        "open('f', 'rb')", "open('f', encoding='utf-8')", "path.open('wb')", "os.open('f', 0)",
        "path.read_text(encoding='utf-8')", "path.read_text('utf-8')", "path.read_bytes()",
        "tempfile.NamedTemporaryFile()", "TemporaryFile('wb')", "subprocess.run(['ls'])",
        "subprocess.run(['ls'], text=True, encoding='utf-8')", "Image.open('f')",
        "subprocess.run(['ls'], encoding='utf-8')", "io.TextIOWrapper(raw, 'utf-8')",
    ],
)  # fmt: skip
def test_calls_that_name_theirs(line):
    assert without_encoding(line) == []


@pytest.mark.parametrize(
    ("line", "fine"),
    [
        ('print(Path("f").read_text())', False),
        ('Path("f").write_text("x")', False),
        ('Path("f").open("w")', False),
        ('print(Path("f").read_text(encoding="utf-8"))', True),
    ],
)
def test_lint_finds_them_too(line, fine):
    """Ruff, with the settings of this tree."""
    done = subprocess.run(
        [
            sys.executable, "-m", "ruff", "check", "--quiet", "--output-format=concise",
            f"--config={checkout.ROOT / 'pyproject.toml'}", "--select=PLW1514",
            "--stdin-filename=build/forge/core/added.py", "-",
        ],
        input=f"from pathlib import Path\n\n{line}\n", cwd=checkout.ROOT,
        capture_output=True, encoding="utf-8", check=False,
    )  # fmt: skip
    assert (done.returncode == 0) == fine, done.stderr
    assert ("unspecified-encoding" in done.stdout) != fine
