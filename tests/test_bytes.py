"""Each byte once: what our own code reads and hashes over a whole rehearsal, counted.

The table is the one of docs/bytes.md; `byte_counts.py` says what is counted, and how.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "bytes.md"
STEPS = (
    "fetch", "calibrate", "quantize", "graft", "dress", "verify", "attest", "place", "release",
    "sign", "verify-release", "reproduce", "reproduce: quantize", "reproduce: graft",
    "reproduce: dress",
)  # fmt: skip


def count(folder, *options):
    """Runs the rehearsal in a process of its own."""
    done = subprocess.run(
        [sys.executable, str(HERE / "byte_counts.py"), str(folder), *options],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True, encoding="utf-8", check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def counts(tmp_path_factory):
    return count(tmp_path_factory.mktemp("counted"))


def total(counts, role, suffix):
    return sum(
        size
        for name, size in counts["sizes"].items()
        if name.startswith(f"{role}/") and name.endswith(suffix)
    )


def read(counts, role, suffix):
    """Bytes read of the files of a role, by phase."""
    found = dict.fromkeys(STEPS, 0)
    for name, phases in counts["read"].items():
        if name.startswith(f"{role}/") and name.endswith(suffix):
            for when, number in phases.items():
                found[when] += number
    return {when: number for when, number in found.items() if number}


def test_weights_of_the_base(counts):
    weights, head = total(counts, "base", ".safetensors"), head_of(counts)
    assert read(counts, "base", ".safetensors") == {
        "fetch": weights,
        "quantize": weights,
        "graft": head,
        "verify": weights,
        "reproduce: quantize": weights,
        "reproduce: graft": head,
    }
    for name, phases in counts["read"].items():  # each file for itself, not on the whole
        if name.startswith("base/model"):
            size = counts["sizes"][name]
            assert {phases[step] for step in ("fetch", "quantize", "verify")} == {size}


def head_of(counts):
    return counts["sizes"]["result/model-mtp.safetensors"]


def test_tokenizer_of_the_base(counts):
    size = total(counts, "base", ".json")
    assert size > 0
    assert read(counts, "base", ".json") == dict.fromkeys(
        ("fetch", "dress", "reproduce: dress"), size
    )


@pytest.mark.parametrize("suffix", [".safetensors", ".json"])
def test_result(counts, suffix):
    """Until it is released, what is built is read by the structure check alone."""
    size = total(counts, "result", suffix)
    assert read(counts, "result", suffix) == {"verify": size, "release": size}


@pytest.mark.parametrize("suffix", [".safetensors", ".json"])
def test_release(counts, suffix):
    size = total(counts, "release", suffix)
    assert read(counts, "release", suffix) == {
        "sign": size,
        "verify-release": size,
        "reproduce": size,
    }


def test_sha256(counts):
    """What is read or written is hashed once as a file, and a tensor's bytes once as a tensor's.

    A copied tensor has the digest of its arrival.
    """
    base, head = total(counts, "base", ".safetensors"), head_of(counts)
    stored, tokenizer = total(counts, "result", ".safetensors"), total(counts, "base", ".json")
    body = stored - head
    expected = {
        "fetch": counts["inputs"] + base,
        "quantize": base + body + counts["packed"],
        "graft": 2 * head,
        "dress": 2 * tokenizer,
        "verify": base + 2 * stored + tokenizer,
        "attest": 0,
        "place": 0,
        "release": stored + tokenizer,
        "sign": stored + tokenizer,
        "verify-release": 2 * stored + tokenizer,
        "reproduce": stored + tokenizer,
        "reproduce: quantize": base + body + counts["packed"],
        "reproduce: graft": 2 * head,
        "reproduce: dress": 2 * tokenizer,
    }
    # The rest are headers, configs, listings and, of verify-release, the source tree: less than
    # the head, or half of the release.
    for when, number in expected.items():
        most = stored // 2 if when == "verify-release" else head
        assert 0 <= counts["hashed"].get(when, 0) - number < most, when


@pytest.mark.libraries
def test_with_the_real_calibration(tmp_path):
    """After it, the base's files are hashed once more; the rest is as without."""
    counts = count(tmp_path / "root", "--calibrate")
    weights, head = total(counts, "base", ".safetensors"), head_of(counts)
    assert read(counts, "base", ".safetensors") == {
        "fetch": weights,
        "calibrate": weights,
        "quantize": weights,
        "graft": head,
        "verify": weights,
    }
    assert 0 <= counts["hashed"]["calibrate"] - weights < head


def test_page(counts):
    """The figures of docs/bytes.md are these."""
    rows = {
        "base, tensors": ("base", ".safetensors"),
        "base, `tokenizer.json`": ("base", ".json"),
        "result, tensors": ("result", ".safetensors"),
        "result, `tokenizer.json`": ("result", ".json"),
        "release, tensors": ("release", ".safetensors"),
        "release, `tokenizer.json`": ("release", ".json"),
    }
    page = PAGE.read_text(encoding="utf-8")
    for what, where in rows.items():
        figures = [f"{when} {number:,}" for when, number in read(counts, *where).items()]
        if where == ("base", ".safetensors"):
            figures.insert(1, f"calibrate {total(counts, *where):,}")
        row = f"| {what} | {total(counts, *where):,} | {', '.join(figures)} |"
        assert row in page, row
