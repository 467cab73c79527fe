"""Every variant rehearsed from its recipe to its attested checkpoint, with a real engine."""

import subprocess

import pytest

from forge.manifest.names import SUMS
from forge.recipes import recipe

pytestmark = pytest.mark.engine
SMOKE = {
    "smoke.profiles", "smoke.health", "smoke.chat.thinking_on", "smoke.chat.thinking_off",
    "smoke.tool_call", "smoke.tool_parser",
}  # fmt: skip
MTP = {"smoke.mtp", "smoke.greedy_identical"}


@pytest.mark.parametrize("variant", recipe.names())
def test_a_variant(rehearse, variant):
    """Structure, perplexity and smoke, each with something measured, and none left out."""
    rehearsed = rehearse(variant)
    checks = rehearsed.checks()
    assert all(check["measured"] for check in checks.values())
    names = {name for name in checks if not name.startswith("structure.")}
    serve = recipe.find(variant).serve
    head = MTP if serve.speculative_tokens else set()
    picture = "smoke.image_refused" if "language-model-only" in serve.args else "smoke.image"
    assert names == {"perplexity", picture} | SMOKE | head
    assert len(checks) == len(names) + 12
    sums = ["sha256sum", "--check", "--quiet", f"provenance/{SUMS}"]
    subprocess.run(sums, cwd=rehearsed.out, check=True)
    assert str(rehearsed.out) in rehearsed.said
