"""Nothing outside the models takes a manifest apart by its keys."""

import re

import pytest

from forge.core import checkout

# The keys of in-toto and SLSA, and of the records in them, in quotes.
KEYS = re.compile(
    r"""["'](predicate|predicateType|subject|buildDefinition|buildType|externalParameters"""
    r"""|internalParameters|resolvedDependencies|runDetails|byproducts|annotations|gitCommit"""
    r"""|startedOn|finishedOn)["']"""
)
# The one module that looks into a manifest before it is one, to refuse a former build type.
ALLOWED = "build/forge/manifest/provenance.py"


def chains(source):
    """The keys of a manifest that a source has as strings."""
    return [match[1] for match in KEYS.finditer(source)]


@pytest.mark.parametrize("folder", ["build/forge", "verify"])
def test_only_the_models_know_the_keys(folder):
    found = {
        path.relative_to(checkout.ROOT).as_posix(): keys
        for path in (checkout.ROOT / folder).rglob("*.py")
        if (keys := chains(path.read_text(encoding="utf-8")))
    }
    found.pop(ALLOWED, None)
    assert found == {}


def test_a_chain_is_seen():
    source = 'asked = statement["predicate"]["buildDefinition"]["externalParameters"]'
    assert chains(source) == ["predicate", "buildDefinition", "externalParameters"]
    assert chains("asked = statement['predicate'].get('runDetails')") == ["predicate", "runDetails"]
