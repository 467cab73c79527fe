"""What verify/CHECKING.md says can be checked without Hallmark, checked as it says there, and with
libraries other than the one that signs."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from assets.verify.spoils import SPOILS

from forge.core import checkout
from forge.manifest.names import BUNDLES
from forge.release import keys, signing

GUIDE = checkout.ROOT / "verify" / "CHECKING.md"


def blocks():
    """The guide's shell commands that it says are tested."""
    tested = (
        GUIDE.read_text(encoding="utf-8")
        .partition("## Run in this project's tests")[2]
        .partition("\n## ")[0]
    )
    return re.findall(r"```sh\n(.*?)```", tested, re.DOTALL)


@pytest.fixture
def released(bench):
    """A release with all its signatures, and the public key above it."""
    signing.sign(bench.folder, bench.key, model_signature=True)
    shutil.copy(bench.key.with_name("key.pub"), bench.folder.parent / "key.pub")
    return bench


def run(block, folder):
    python = str(Path(sys.executable).parent)
    return subprocess.run(
        ["bash", "-o", "pipefail", "-e", "-c", block],
        cwd=folder, capture_output=True, encoding="utf-8", check=False, timeout=30,
        env={"PATH": f"{python}:/usr/bin:/bin"},
    )  # fmt: skip


@pytest.mark.parametrize("number", range(6))
def test_command_of_the_guide(released, number):
    done = run(blocks()[number], released.folder)
    assert done.returncode == 0, done.stderr
    expected = [
        "files and folders only",
        "Verified OK\nVerified OK",
        " files are those that are listed",
        "config.json: OK",
        f"release: {keys.public(released.folder.parent / 'key.pub').keyid}",
        "",
    ]
    assert expected[number] in done.stdout


@pytest.mark.parametrize(
    ("number", "file"),
    [
        (1, "provenance/provenance.json"),
        (2, "README.md"),
        (3, "config.json"),
        (5, "config.json"),
    ],
)
def test_command_of_the_guide_notices(released, number, file):
    released.flip(file, 300)
    assert run(blocks()[number], released.folder).returncode != 0


def model_signature_of_any_bytes(folder):
    (folder / "provenance/model.sig").write_bytes(b"\x1b[2J" * 20)


def pipe_in_place_of_a_file(folder):
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")


def shard_without_end(folder):
    os.truncate(folder / "model-mtp.safetensors", 1 << 40)


def file_of_a_name_that_is_no_text(folder):
    with open(os.fsencode(folder) + b"/\xff.json", "w", encoding="utf-8"):  # noqa: PTH123
        pass


def git_of_somebody(folder):
    (folder / ".git").mkdir()
    (folder / ".git/config").write_text("[core]\n", encoding="utf-8")


def another_key(folder):
    keys.generate(folder.parent / "another")
    shutil.copy(folder.parent / "another.pub", folder.parent / "key.pub")


HOSTILE = [
    *SPOILS, model_signature_of_any_bytes, pipe_in_place_of_a_file, shard_without_end,
    file_of_a_name_that_is_no_text, git_of_somebody, another_key,
]  # fmt: skip


@pytest.mark.parametrize("spoil", HOSTILE, ids=[one.__name__ for one in HOSTILE])
def test_the_guide_as_a_whole_refuses(released, spoil):
    """In its order, up to the first command that fails; none of them waits or reads for ever."""
    spoil(released.folder)
    assert any(run(block, released.folder).returncode for block in blocks())


def test_all_commands_are_tested():
    assert len(blocks()) == 6


@pytest.mark.parametrize("name", BUNDLES)
def test_envelope_by_sigstore_python(bench, name):
    """Signed by securesystemslib, verified by sigstore's own envelope."""
    from cryptography.hazmat.primitives.serialization import load_pem_public_key
    from sigstore import dsse
    from sigstore.errors import VerificationError

    bundle = json.loads((bench / f"provenance/{BUNDLES[name]}").read_bytes())
    envelope = dsse.Envelope._from_json(json.dumps(bundle["dsseEnvelope"]))
    key = load_pem_public_key(bench.key.with_name("key.pub").read_bytes())
    assert dsse._verify(key, envelope) == (bench / f"provenance/{name}").read_bytes()
    other = load_pem_public_key(bench.other_key.with_name("other.pub").read_bytes())
    with pytest.raises(VerificationError, match="invalid signature"):
        dsse._verify(other, envelope)


@pytest.mark.parametrize("name", BUNDLES)
def test_statement_by_in_toto(bench, name):
    """The statements, through the protobuf schema of in-toto's own library."""
    from google.protobuf import json_format
    from in_toto_attestation.v1 import statement_pb2
    from in_toto_attestation.v1.statement import Statement

    text = (bench / f"provenance/{name}").read_text(encoding="utf-8")
    parsed = json_format.Parse(text, statement_pb2.Statement())
    Statement.copy_from_pb(parsed).validate()
    assert len(parsed.subject) == len(json.loads(text)["subject"])
