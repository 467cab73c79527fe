"""Structures that hypothesis makes: whatever a stranger writes, a reader takes it or refuses it in
one line. `--fuzz=<n>` makes n times as many, other ones each time."""

import json
import os
import shutil
import stat
import tomllib

import pytest
from assets.verify.bench import LIST, MANIFEST, SIGNED_LIST
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from release.test_fuzz import MUTATIONS, STATEMENTS

from assay.release import policy
from forge.core import checkout, foreign, portable
from forge.core.errors import HallmarkError, ManifestError, ReleaseError, TensorFileError
from forge.manifest import document
from forge.manifest.model_signature import ModelSignature
from forge.manifest.provenance import Manifest
from forge.manifest.release_list import Release
from forge.manifest.reproduction import Reproduction
from forge.manifest.verification import Report
from forge.release import bundle
from forge.tensors import tensor_list, tensorfile

# How many examples of each kind `make test` runs; the pages state these numbers.
HEADERS, DOCUMENTS, BUNDLES, FOLDERS, NAMES, POLICIES = 500, 100, 500, 300, 1000, 300

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=12)
HUGE = "a number of more digits than Python reads"
NUMBERS = st.one_of(
    st.integers(),
    st.integers(-(10**40), 10**40),
    st.floats(),
    st.sampled_from([1 << 63, 10**4000, HUGE]),
)
LEAVES = st.one_of(st.none(), st.booleans(), NUMBERS, ANY_TEXT)
ANY_JSON = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ANY_TEXT, inner, max_size=4),
    max_leaves=12,
)


@pytest.fixture
def fuzzed(fuzz):
    """Runs a check with examples: the same ones each time, unless more are asked for."""

    def run(count, check, *strategies):
        wrapped = given(*strategies)(check)
        settings(
            max_examples=count * fuzz, derandomize=fuzz == 1, database=None, deadline=None,
            suppress_health_check=list(HealthCheck),
        )(wrapped)()  # fmt: skip

    return run


def spelled(value):
    """JSON as a careless writer has it: halves of characters, infinities, numbers without end."""
    return json.dumps(value).replace(f'"{HUGE}"', "1" * 4400).encode()


@st.composite
def edited(draw, good):
    """A good document with up to three places of it put to something else."""
    value = json.loads(json.dumps(good))
    for _ in range(draw(st.integers(1, 3))):
        here, path = value, draw(st.lists(st.integers(0, 50), min_size=1, max_size=8))
        for step in path:
            keys = [*here] if isinstance(here, dict) else [*range(len(here))]
            if not keys:
                break
            key = keys[step % len(keys)]
            if isinstance(here[key], dict | list) and here[key] and step != path[-1]:
                here = here[key]
                continue
            match draw(st.integers(0, 3)):
                case 0:
                    here[key] = draw(ANY_JSON)
                case 1:
                    del here[key]
                case 2 if isinstance(here, dict):
                    here[draw(ANY_TEXT)] = here[key]
                case _ if isinstance(here, list):
                    here.append(here[key])
            break
    return spelled(value)


TENSOR = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "BF16", "U8", "F4", ""]) | LEAVES,
        "shape": st.lists(st.integers(0, 4) | NUMBERS, max_size=3) | ANY_JSON,
        "data_offsets": st.tuples(st.integers(0, 64), st.integers(0, 64)) | ANY_JSON,
    }
)
HEADER = st.one_of(
    st.dictionaries(ANY_TEXT | st.just("__metadata__"), TENSOR | ANY_JSON, max_size=3).map(spelled),
    st.binary(max_size=64),
    ANY_JSON.map(spelled),
)


def test_headers(fuzzed, tmp_path):
    """Read at once and in pieces of any size, with the same outcome."""

    def check(header, data, lie, cut):
        raw = (len(header) + lie).to_bytes(8, "little", signed=True) + header + data
        path = tmp_path / "x.safetensors"
        path.write_bytes(raw)
        arriving = tensor_list.Arriving(path, len(raw), most=1 << 16, keep=8)
        for start in range(0, len(raw), cut):
            arriving.update(raw[start : start + cut])
        try:
            tensors = tensorfile.read_header(path)
        except TensorFileError:
            with pytest.raises(TensorFileError):
                arriving.header()
            return
        assert tensors == arriving.header()
        assert sum(tensor.nbytes for tensor in tensors) == len(raw) - arriving.header_bytes
        assert arriving.small.keys() == {one.name for one in tensors if one.nbytes <= 8}

    lies = st.sampled_from([0, 0, 0, 0, 1, -1, 1 << 40])
    fuzzed(HEADERS, check, HEADER, st.binary(max_size=64), lies, st.integers(1, 40))


def test_documents(good, fuzzed):
    provenance = good.folder / "provenance"
    statement = json.loads((good / LIST).read_bytes())
    for model, value in (
        (Manifest, json.loads((good / MANIFEST).read_bytes())),
        (Release, statement),
        (Report, json.loads((provenance / "verification.json").read_bytes())),
        (Reproduction, {**statement, "predicateType": "urn:hallmark:reproduction:v1"}),
        (ModelSignature, {**statement, "predicateType": "https://model_signing/signature/v1.0"}),
    ):
        fuzzed(DOCUMENTS, parsing(model), edited(value) | ANY_JSON.map(spelled))


def parsing(model):
    """What is read is written so that it is read again; what is refused is told in few words."""

    def check(data):
        try:
            found = document.parse(model, data, "it")
        except ManifestError as error:
            told = str(error)
        else:
            assert document.parse(model, found.encoded(), "it") == found
            return
        assert len(told) < 1000

    return check


def test_bundles(good, fuzzed):
    """One that is read has the one spelling that it may have."""
    value = json.loads((good / SIGNED_LIST).read_bytes())

    def check(data):
        try:
            found = bundle.read(data, "it")
        except ReleaseError:
            return
        assert bundle.spell(found.to_dict()) == data

    spellings = edited(value).map(respelled)
    fuzzed(
        BUNDLES, check, edited(value) | ANY_JSON.map(spelled) | st.binary(max_size=99) | spellings
    )


def respelled(data):
    """A bundle in our spelling, if it can be had in that."""
    try:
        return bundle.spell(json.loads(data))
    except ValueError:
        return data


def test_policies(fuzzed, tmp_path):
    """Text that is nearly TOML, of keys that are known or not."""
    path = tmp_path / "policy.toml"
    keys = st.sampled_from(["level", "builders", "reproductions", "max_perplexity_ratio", "x"])
    values = st.sampled_from(
        [
            "1",
            "-1",
            "nan",
            "inf",
            "1e999",
            "[]",
            "[[",
            "{}",
            "true",
            "2026-01-01",
            '"all"',
            "'\x00'",
        ]
    ) | ANY_JSON.map(lambda value: spelled(value).decode())
    lines = st.lists(st.tuples(keys, values).map(" = ".join), max_size=4).map("\n".join)

    def check(text):
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        try:
            policy.read(path)
        except HallmarkError:
            return
        tomllib.loads(text)

    fuzzed(POLICIES, check, lines | ANY_TEXT)


def test_names(fuzzed):
    """One that is taken is a name on this system, and is shown as it is."""

    def check(name):
        try:
            portable.check_name(name)
        except ReleaseError as error:
            told = str(error)
        else:
            told = name
            assert max(len(part.encode()) for part in name.split("/")) < 256
        assert portable.shown(told) == told

    odd = st.sampled_from("/.\\: \x00\u200b\u202e\udc80CONcon-aé\u0301ﬁ" * 2)
    fuzzed(NAMES, check, ANY_TEXT | st.text(odd, max_size=300))


ENTRY = st.sampled_from(["file", "large", "link", "out", "pipe", "folder", "empty", "loop"])
TREE = st.dictionaries(
    st.text(st.sampled_from("abAé.\x1b \u202e:"), min_size=1, max_size=3).filter(
        lambda name: name not in {".", ".."}
    ),
    ENTRY | st.dictionaries(st.sampled_from("xyz"), ENTRY, max_size=3),
    max_size=5,
)


def put(folder, tree):
    """Makes what a tree says."""
    folder.mkdir()
    for name, what in tree.items():
        path = folder / name
        match what:
            case "file":
                path.write_bytes(name.encode())
            case "large":
                path.touch()
                os.truncate(path, 1 << 40)
            case "link" | "out" | "loop":
                path.symlink_to({"link": "a", "out": "/etc/passwd", "loop": name}[what])
            case "pipe":
                os.mkfifo(path)
            case "empty":
                path.mkdir()
            case "folder":
                path.mkdir()
                (path / "in").write_bytes(b"in")
            case _:
                put(path, what)


def test_folders(fuzzed, tmp_path):
    """Every file of one that is taken is a regular file, and what is read of it is its bytes."""
    folder, told = tmp_path / "f", []

    def check(tree):
        put(folder, tree)
        try:
            with foreign.opened(folder) as found:
                for name, file in found.files.items():
                    assert stat.S_ISREG((folder / name).lstat().st_mode)
                    if file.size < 99:
                        assert file.read(99) == (folder / name).read_bytes()
                    else:
                        with pytest.raises(ReleaseError, match="at most 99 are read"):
                            file.read(99)
        except ReleaseError as error:
            told.append(str(error))
        finally:
            shutil.rmtree(folder)

    fuzzed(FOLDERS, check, TREE)
    assert not [one for one in told if portable.shown(one) != one]


def test_the_page_states_the_counts():
    page = (checkout.ROOT / "docs/verification.md").read_text(encoding="utf-8")
    for stated in (
        f"{MUTATIONS:,} random changes",
        f"{STATEMENTS} changes each",
        f"{HEADERS} headers",
        f"{DOCUMENTS} documents",
        f"{BUNDLES} bundles",
        f"{POLICIES} policies",
        f"{NAMES:,} names",
        f"{FOLDERS} folders",
    ):
        assert stated in page
