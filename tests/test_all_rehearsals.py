"""Every variant rehearsed from its recipe to its attested checkpoint."""

import subprocess

import pytest

from forge.manifest import verification
from forge.manifest.names import SUMS
from forge.recipes import recipe

pytestmark = pytest.mark.engine


@pytest.mark.parametrize("variant", recipe.names())
def test_a_variant(rehearse, variant):
    """The checks of its level, each with something measured, and none left out."""
    rehearsed = rehearse(variant)
    checks = rehearsed.checks()
    assert all(check["measured"] for check in checks.values())
    assert tuple(checks) == verification.expected(recipe.find(variant), rehearsed.level)
    sums = ["sha256sum", "--check", "--quiet", f"provenance/{SUMS}"]
    subprocess.run(sums, cwd=rehearsed.out, check=True)
    assert str(rehearsed.out) in rehearsed.said
