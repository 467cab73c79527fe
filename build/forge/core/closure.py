"""What a module can reach by imports: source files and distributions, which decide its result.

Found from the syntax trees, without importing anything. An import counts wherever it stands, in a
function too, but for those under `if TYPE_CHECKING`, which never run. So does a string that is the
name of a module of this tree (a module that is imported by name), and one that is the name of a
file or folder beside the module that has it (a template). An entry point is not followed: what is
registered there has a closure of its own.
"""

import ast
import functools
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from forge.core import checkout

_DOTTED = re.compile(r"[a-z_]\w*(\.\w+)+")


@dataclass(frozen=True, kw_only=True)
class Closure:
    """What can be reached: `files` of this tree by path, and the top-level names of the rest."""

    files: tuple[Path, ...]
    packages: tuple[str, ...]

    def digests(self) -> dict[str, str]:
        """The sha256 of every file by its path in the checkout."""
        paths = (path.relative_to(checkout.ROOT).as_posix() for path in sorted(self.files))
        return {path: checkout.source_digests()[path] for path in paths}

    def code(self) -> str:
        """One digest over the paths and contents of the files."""
        return checkout.digest_of_code(self.digests())

    def distributions(self) -> dict[str, str]:
        """The installed distributions that the packages come from, and all that those require.

        Returns:
            Versions by normalized name. What is not installed here is left out: it cannot run here.
        """
        owners = _owners()
        wanted = [(name, "") for package in self.packages for name in owners.get(package, ())]
        return dict(sorted(_required(wanted)))


def of(module: str) -> Closure:
    """The closure of a module of this tree, by its dotted name.

    Raises:
        ModuleNotFoundError: there is no such module.
    """
    root = _file(module)
    if root is None:
        raise ModuleNotFoundError(f"{module}: is no module of {', '.join(checkout.PACKAGES)}")
    files: set[Path] = set()
    packages: set[str] = set()
    waiting = [root]
    while waiting:
        path = waiting.pop()
        if path in files:
            continue
        files.add(path)
        if path.suffix == ".py":
            found = _scan(path)
            packages |= found.packages
            waiting += found.files
    return Closure(files=tuple(sorted(files)), packages=tuple(sorted(packages)))


@dataclass(frozen=True, kw_only=True)
class _Named:
    files: frozenset[Path]
    packages: frozenset[str]


@functools.cache
def _scan(path: Path) -> _Named:
    """What one module names directly."""
    files: set[Path] = set()
    packages: set[str] = set()
    for node in _running(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            files |= _named(path, node.value)
        for module in _imported(node):
            if module.partition(".")[0] in checkout.PACKAGES:
                files |= set(_modules(module))
            elif (top := module.partition(".")[0]) not in sys.stdlib_module_names:
                packages.add(top)
    return _Named(files=frozenset(files), packages=frozenset(packages))


def _running(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a tree that can run: neither documentation nor imports for types alone."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and _for_types(child.test):
            for other in child.orelse:
                yield from _running(other)
        elif not (isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant)):
            yield child
            yield from _running(child)


def _for_types(test: ast.expr) -> bool:
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


def _imported(node: ast.AST) -> Iterator[str]:
    """The dotted names that an import statement may mean: `from a import b` is a or a.b."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        if node.level or node.module is None:
            raise SyntaxError(f"line {node.lineno}: relative imports are not followed")
        yield node.module
        if node.module.partition(".")[0] in checkout.PACKAGES:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _modules(name: str) -> Iterator[Path]:
    """The files of a module and of the packages that it lies in, as far as they exist."""
    parts = name.split(".")
    prefixes = (".".join(parts[:count]) for count in range(1, len(parts) + 1))
    return (path for path in map(_file, prefixes) if path is not None)


def _file(name: str) -> Path | None:
    """The file of a module of this tree."""
    top, *rest = name.split(".")
    if top not in checkout.PACKAGES:
        return None
    path = checkout.PACKAGES[top].joinpath(*rest)
    candidates = [path / "__init__.py"]
    if rest:
        candidates.append(path.with_suffix(".py"))
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def _named(path: Path, text: str) -> set[Path]:
    """The module that a string names, or the files beside `path` that it names."""
    if _DOTTED.fullmatch(text):
        return set(_modules(text)) if _file(text) else set()
    if not re.fullmatch(r"[\w.-]+", text) or text.startswith(".") or text == "__pycache__":
        return set()
    beside = path.parent / text
    if beside.is_dir():
        # A folder of modules is a package, and is reached by imports.
        return set() if (beside / "__init__.py").is_file() else _data(beside.rglob("*"))
    return _data([beside])


def _data(paths: Iterable[Path]) -> set[Path]:
    return {path for path in paths if path.is_file() and path.suffix not in {".py", ".pyc"}}


@functools.cache
def _owners() -> Mapping[str, list[str]]:
    """The distributions that each importable top-level name comes from."""
    return metadata.packages_distributions()


def _required(wanted: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Name and version of the installed distributions in `wanted`, and of what they require.

    `wanted` are names, each with an extra or an empty string.
    """
    seen: set[tuple[str, str]] = set()
    told: set[str] = set()
    waiting = [(canonicalize_name(name), extra) for name, extra in wanted]
    while waiting:
        name, extra = one = waiting.pop()
        if one in seen:
            continue
        seen.add(one)
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        if name not in told:
            told.add(name)
            yield name, distribution.version
        for line in distribution.requires or ():
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                needed = canonicalize_name(requirement.name)
                waiting += [(needed, ""), *((needed, more) for more in requirement.extras)]
