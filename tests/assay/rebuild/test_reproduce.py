"""A release is reproduced from its provenance; each kind of tampering ends as it should: in the
right verdict if the release's files were changed, in a refusal if what a rebuild needs was."""

import errno
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import FLAGSHIP
from huggingface_hub import constants
from released import build, local_base

from assay.rebuild import recalibration, reproduce
from assay.rebuild.recalibration import Scale
from forge.calibration import record
from forge.core import canonical, checkout
from forge.core.errors import (
    CalibrationError,
    DifferenceError,
    FetchError,
    ManifestError,
    StoreError,
)
from forge.core.store import Store
from forge.manifest import names, provenance
from forge.tensors import tensorfile

BODY = "model-00001-of-00001.safetensors"
LINEAR = "model.language_model.layers.1.mlp.down_proj"
RECIPE = f"build/variants/{FLAGSHIP}.toml"


@pytest.fixture(autouse=True, scope="module")
def offline():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        yield


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    root = tmp_path_factory.mktemp("original")
    build(root, local_base(root / "base"))
    return root


@pytest.fixture
def released(original, tmp_path):
    """A release of one's own; the original's store and base beside it are not to be touched."""
    return shutil.copytree(original / "release", tmp_path / "release")


@pytest.fixture
def again(original, tmp_path):
    def run(folder, base=None):
        return reproduce.run(folder, Store(tmp_path / "store"), base=base or original / "base")

    return run


@pytest.mark.parametrize("name", ["inputs.json", "tensors/base.jsonl"])
def test_a_stored_input_with_a_flipped_bit_is_no_verdict(released, again, tmp_path, name):
    """Its size and time are those of before: it is named and removed, and fetched again."""
    assert again(released).identical
    (file,) = (tmp_path / "store").glob(f"fetch/*/files/{name}")
    stat, data = file.stat(), file.read_bytes()
    file.write_bytes(data[:-20] + bytes([data[-20] ^ 1]) + data[-19:])
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(StoreError, match=f"{name}: has sha256 .*Removed from the store: fetch "):
        again(released)
    assert again(released).identical


def edit(folder, change):
    """Changes the manifest."""
    path = folder / "provenance" / names.STATEMENT
    statement = json.loads(path.read_text(encoding="utf-8"))
    change(statement)
    canonical.write(path, statement)


def entry(resources, name):
    return next(one for one in resources if one["name"] == name)


def definition(statement):
    return statement["predicate"]["buildDefinition"]


def dependency(statement, name):
    return entry(definition(statement)["resolvedDependencies"], name)


def admit(folder, name):
    """Makes the manifest agree with a changed file beside it, as a thorough forger would."""
    digest = {"sha256": canonical.sha256_file(folder / "provenance" / name)}

    def change(statement):
        byproducts = statement["predicate"]["runDetails"]["byproducts"]
        entry([*statement["subject"], *byproducts], f"provenance/{name}")["digest"] = digest

    edit(folder, change)


def poke(path, offset=-1):
    """Flips a bit of a file's byte, by default of the last."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.unlink()  # its bytes may be those of a store
    path.write_bytes(data)


def verdicts(found):
    return {file.path: file.verdict for file in found.files if file.verdict != "identical"}


def elsewhere(path):
    """Puts a link to a file of other bytes in the place of one."""
    other = path.parent.parent / f"other-{path.name}"
    other.write_bytes(path.read_bytes()[:-1] + b"x")
    path.unlink()
    path.symlink_to(other)


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: poke(folder / BODY),
        lambda folder: elsewhere(folder / BODY),
        lambda folder: (folder / BODY).unlink(),
        lambda folder: elsewhere(folder / "config.json"),
        lambda folder: (folder / "pytorch_model.bin").write_bytes(b"pickle"),
        lambda folder: poke(folder / "provenance" / record.FILE),
        lambda folder: (folder / "provenance" / names.SUMS).write_text("", encoding="utf-8"),
    ],
)
def test_what_is_compared_is_what_was_looked_at(released, again, monkeypatch, change):
    """What is put in a file's place later is neither compared nor rebuilt from."""
    fetch_ = reproduce._fetch

    def changed(*arguments):
        change(released)
        return fetch_(*arguments)

    monkeypatch.setattr(reproduce, "_fetch", changed)
    found = again(released)
    assert found.identical
    assert found.outcome.compared.against == "files"


def test_bytes_that_change_in_place_meanwhile(released, again, monkeypatch):
    """A file that was looked at is compared as it is when it is read."""
    shutil.copyfile(released / BODY, released / "copy")  # its bytes may be those of a store
    (released / "copy").replace(released / BODY)
    fetch_ = reproduce._fetch

    def changed(*arguments):
        with (released / BODY).open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            last = file.read()
            file.seek(-1, os.SEEK_END)
            file.write(bytes([last[0] ^ 1]))
        return fetch_(*arguments)

    monkeypatch.setattr(reproduce, "_fetch", changed)
    assert verdicts(again(released).files) == {BODY: "tensors differ"}


@pytest.mark.parametrize("how", [("_fetch", True), ("_rebuild", True), ("_rebuild", False)])
def test_a_release_that_is_replaced_meanwhile(released, again, tmp_path, monkeypatch, how):
    """Whatever the comparison came to, it is of two releases; no rebuild is kept of it."""
    step, there = how
    before = canonical.sha256_file(released / "provenance" / names.STATEMENT)
    work = getattr(reproduce, step)

    def replaced(*arguments):
        if there:
            poke(released / BODY)
            edit(released, lambda statement: dependency(statement, RECIPE).update(digest={}))
        else:
            shutil.rmtree(released)
        return work(*arguments)

    monkeypatch.setattr(reproduce, step, replaced)
    with pytest.raises(ManifestError, match="another release was put in its place") as refused:
        again(released)
    assert f"{before} and has {'' if there else 'nothing. '}" in str(refused.value)
    assert not list((tmp_path / "store").glob("reproduce/*"))


def test_an_error_while_it_is_rebuilt(released, again, tmp_path, monkeypatch):
    """It is told as what it is, and the half of a rebuild is removed."""

    def compare(*_):
        assert list((tmp_path / "store").glob("reproduce/*/dress"))
        raise FetchError("no comparison")

    monkeypatch.setattr(reproduce.compare, "listings", compare)
    with pytest.raises(FetchError, match="no comparison"):
        again(released)
    assert not list((tmp_path / "store").glob("reproduce/*"))


def test_whole_release(original, released, again, capsys, tmp_path):
    found = again(released)
    assert found.identical
    assert found.files is not None
    reproduce.show(found, released)
    (line,) = capsys.readouterr().out.splitlines()
    size = sum(path.stat().st_size for path in released.glob("*") if path.is_file())
    assert line == (
        f"{released} is reproduced: {len(found.files.files)} files, {found.files.compared} tensors,"
        f" {size / 1e6:.2f} MB, identical to its files"
    )
    assert not list((tmp_path / "store" / "reproduce").iterdir())
    assert (original / "release" / BODY).read_bytes() == (released / BODY).read_bytes()


@pytest.mark.parametrize("name", ["provenance", "under-another-name"])
def test_provenance_alone(released, again, tmp_path, name, capsys):
    folder = shutil.copytree(released / "provenance", tmp_path / "alone" / name)
    found = again(folder)
    assert found.identical
    assert found.files is None
    reproduce.show(found, folder)
    assert capsys.readouterr().out.endswith("identical to the digests that it lists\n")


def test_release_whose_files_were_not_fetched(released, again, tmp_path):
    """A folder that holds provenance/ and nothing else is reproduced by digests as well."""
    shutil.copytree(released / "provenance", tmp_path / "partial" / "provenance")
    assert again(tmp_path / "partial").files is None


def test_the_cache_is_no_reproduction(original, said):
    """In the very store of the build, and twice: inputs may come out of it, results may not."""
    for _ in range(2):
        said.clear()
        assert reproduce.run(
            original / "release", Store(original / "store"), base=original / "base"
        ).identical
        for step in ("quantize", "graft", "dress"):
            assert any(f"{step}  done in" in line for line in said)
        assert "     fetch  unchanged, nothing to do" in said


def test_an_earlier_rebuild_is_no_reproduction(released, again, said, tmp_path, monkeypatch):
    """One that cannot be removed lies in the trash, one that cannot be moved is an error.

    Both are injected, into `os.unlink` and `os.rename`. A link to a rebuild is none.
    """
    remove, move = os.unlink, os.rename

    def refuse(path, **options):
        if path == "record.json":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        remove(path, **options)

    def stay(old, new, **options):
        if Path(old) == kept:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(old), None, str(new))
        move(old, new, **options)

    poke(released / "config.json")
    assert not again(released).identical
    (kept,) = (tmp_path / "store" / "reproduce").iterdir()
    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", stay)
        with pytest.raises(StoreError, match=f"{kept} -> .*Permission denied"):
            again(released)
    with monkeypatch.context() as patched:
        patched.setattr(os, "unlink", refuse)
        said.clear()
        assert not again(released).identical
    assert any("quantize  done in" in line for line in said)
    trash = tmp_path / "store" / "trash" / f"reproduce-{kept.name}"
    assert any(line.startswith(str(trash)) and "cannot be removed" in line for line in said)

    kept.rename(tmp_path / "elsewhere")
    kept.symlink_to(tmp_path / "elsewhere")
    said.clear()
    again(released)
    assert any("quantize  done in" in line for line in said)


@pytest.mark.parametrize(
    ("suffix", "kind"),
    [
        (".weight", "packed weight"),
        (".weight_scale", "block scale"),
        (".weight_scale_2", "global scale"),
        (".input_scale", "input scale"),
    ],
)
def test_changed_tensor(released, again, suffix, kind, capsys):
    tensor = tensorfile.read_checkpoint(released)[LINEAR + suffix]
    poke(tensor.file, tensor.offset)
    found = again(released)
    assert verdicts(found.files) == {BODY: "tensors differ"}
    (one,) = found.files.tensors
    assert (one.name, one.kind, one.elements, one.largest) == (tensor.name, kind, 1, 1)
    with pytest.raises(DifferenceError, match="so its files were changed since: 1 of 10 files"):
        reproduce.show(found, released)
    assert tensor.name in capsys.readouterr().out


@pytest.mark.parametrize(
    ("tamper", "expected"),
    [
        (lambda folder: poke(folder / "config.json"), {"config.json": "differs"}),
        (
            lambda folder: (folder / "vocab.json").write_text("x", encoding="utf-8"),
            {"vocab.json": "extra"},
        ),
        (
            lambda folder: (folder / "tokenizer_config.json").unlink(),
            {"tokenizer_config.json": "missing"},
        ),
        (lambda folder: poke(folder / "model-mtp.safetensors"),
         {"model-mtp.safetensors": "tensors differ"}),
        (lambda folder: (folder / BODY).rename(folder / "model.safetensors"),
         {BODY: "re-sharded", "model.safetensors": "re-sharded"}),
    ],
)  # fmt: skip
def test_changed_file(released, again, tamper, expected, tmp_path):
    tamper(released)
    found = again(released)
    assert verdicts(found.files) == expected
    assert found.listed.identical
    assert not found.identical
    kept = list((tmp_path / "store" / "reproduce").glob("*/dress/*/files/config.json"))
    assert len(kept) == 1


def test_digests_that_nothing_has(released, again):
    """A digest forged in manifest and SHA256SUMS alike: the files are good, the release is not."""
    sums = released / "provenance" / names.SUMS
    real = canonical.sha256_file(released / "config.json")
    sums.write_text(sums.read_text(encoding="utf-8").replace(real, "0" * 64), encoding="utf-8")
    edit(
        released,
        lambda s: entry(s["subject"], "config.json").update(digest={"sha256": "0" * 64}),
    )
    admit(released, names.SUMS)
    found = again(released)
    assert verdicts(found.listed) == {"config.json": "differs"}
    with pytest.raises(DifferenceError, match="has the same files, but the release lists other"):
        reproduce.show(found, released)
    with pytest.raises(DifferenceError, match="is not reproduced: 1 of 10 files"):
        reproduce.show(again(released / "provenance"), released)


def test_tensor_digest_that_nothing_has(released, again):
    lines = released / "provenance" / names.TENSORS
    first = json.loads(lines.read_text(encoding="utf-8").splitlines()[0])
    lines.write_text(
        lines.read_text(encoding="utf-8").replace(first["sha256"], "0" * 64), encoding="utf-8"
    )
    admit(released, names.TENSORS)
    found = again(released)
    assert [one.name for one in found.listed.tensors] == [first["name"]]
    assert not found.identical


def test_a_manifest_that_the_system_refuses_is_not_told_as_another_one(released):
    """A process that has too many files open is told that."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            reproduce._require_there(released, "0" * 64)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_record_of_another_calibration(released, again):
    """A forged record that the manifest admits cannot make the released input scales."""
    path = released / "provenance" / record.FILE
    modules = [tensor.name for tensor in tensorfile.read_header(path)]
    maxima = {module: float(value) for module, value in record.read(path, modules).items()}
    path.unlink()
    record.write(path, {**maxima, LINEAR: maxima[LINEAR] * 2}, {"device": "a hand"})
    admit(released, record.FILE)
    found = again(released)
    assert verdicts(found.files) == {BODY: "tensors differ"}
    assert [(one.name, one.relative) for one in found.files.tensors] == [
        (f"{LINEAR}.input_scale", 0.5)
    ]


def test_other_recipe(released, again):
    edit(released, lambda s: dependency(s, RECIPE).update(digest={"sha256": "0" * 64}))
    here = canonical.sha256_file(checkout.ROOT / RECIPE)
    with pytest.raises(
        ManifestError, match=f"{RECIPE}: the manifest says sha256 {'0' * 64}, here is {here}. Check"
    ):
        again(released)


@pytest.mark.parametrize("step", ["quantize", "graft", "dress"])
def test_other_modules_of_a_step_that_writes(released, again, step):
    """The module that is another one is named, with the way out."""
    module = f"build/forge/checkpoint/{step}.py"
    here = canonical.sha256_file(checkout.ROOT / module)

    def change(statement):
        record_of(statement, step)["code"] = "0" * 64
        source(statement)[module] = "0" * 64

    edit(released, change)
    with pytest.raises(
        ManifestError,
        match=rf"{module}: .* {'0' * 64}, here is {here}. Check out the commit.* [0-9a-f]{{40}}",
    ):
        again(released)


def test_a_module_of_a_writing_step_that_the_manifest_leaves_out(released, again):
    module = "build/forge/tensors/loops.py"
    edit(released, lambda s: source(s).pop(module))
    with pytest.raises(ManifestError, match=f"{module}: the manifest says sha256 nothing"):
        again(released)


def test_modules_that_were_reached_then_and_are_not_now(released, again):
    edit(released, lambda s: record_of(s, "graft").update(code="0" * 64))
    with pytest.raises(ManifestError, match="step/graft: its modules have the digest 0000.*others"):
        again(released)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"numba": "0.1"}, r"numba: step/quantize ran with version 0\.1, here is \d"),
        ({"ninja": "1.0"}, r"ninja: step/quantize ran with version 1\.0, here is none"),
    ],
)
def test_other_versions_of_what_a_writing_step_imports(released, again, change, told):
    edit(released, lambda s: record_of(s, "quantize")["distributions"].update(change))
    with pytest.raises(ManifestError, match=told):
        again(released)


def test_a_step_that_the_manifest_does_not_record(released, again):
    def change(statement):
        byproducts = statement["predicate"]["runDetails"]["byproducts"]
        byproducts.remove(entry(byproducts, "step/dress"))

    edit(released, change)
    with pytest.raises(ManifestError, match="step/dress: the manifest has no record of it"):
        again(released)


def test_other_code_and_locks_are_told_and_gone_on_with(released, again, said):
    """A report, an engine's lock file, a module that is gone: no byte was written there."""
    card = "build/forge/release/card.py"

    def change(statement):
        source(statement)[card] = "0" * 64
        source(statement)["build/forge/release/gone.py"] = "0" * 64
        dependency(statement, "lockfiles/build.txt").update(digest={"sha256": "0" * 64})
        record_of(statement, "graft")["system"]["python"] = "3.99"

    edit(released, change)
    assert again(released).identical
    (told,) = [line for line in said if "other things differ" in line]
    assert told.startswith(f"4 other things differ, first {card};")


def source(statement):
    return definition(statement)["internalParameters"]["source"]


def record_of(statement, step):
    """The record of a step."""
    return entry(statement["predicate"]["runDetails"]["byproducts"], f"step/{step}")["annotations"]


def test_other_commit_with_the_same_code(released, again, said):
    """A commit that changed documents only: said, and gone on with."""
    edit(released, lambda s: dependency(s, "hallmark").update(digest={"gitCommit": "0" * 40}))
    assert again(released).identical
    assert any(line.startswith(f"built from commit {'0' * 40}, here is ") for line in said)


@pytest.mark.parametrize("name", [record.FILE, names.SUMS, names.TENSORS, names.VERIFICATION])
@pytest.mark.parametrize("change", [poke, Path.unlink])
def test_changed_provenance(released, again, name, change, tmp_path):
    change(released / "provenance" / name)
    with pytest.raises(ManifestError, match=f"provenance/{name}: the manifest says sha256"):
        again(released)
    assert not (tmp_path / "store/fetch").exists()


def test_file_that_the_manifest_does_not_list(released, again):
    edit(released, lambda s: s["subject"].remove(entry(s["subject"], "config.json")))
    with pytest.raises(ManifestError, match=r"config.json in SHA256SUMS: .*says sha256 nothing"):
        again(released)


def test_malformed_sums(released, again):
    (released / "provenance" / names.SUMS).write_text("x  config.json\n", encoding="utf-8")
    admit(released, names.SUMS)
    with pytest.raises(ManifestError, match=r"SHA256SUMS, line 1: 'x  config.json' is not"):
        again(released)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s.update(_type="x"), r"_type: Input should be 'https://in-toto.io"),
        (lambda s: s.update(predicateType="x"), r"predicateType: Input should be"),
        (lambda s: definition(s).update(buildType="x"), r"buildType: .*urn:hallmark:build:v2"),
        (lambda s: definition(s).update(unknown=1), r"unknown: Extra inputs are not permitted"),
        (lambda s: s["predicate"].pop("runDetails"), r"runDetails: Field required"),
        (lambda s: s.update(subject=[]), r"subject: .*at least 1 item"),
        (lambda s: s["subject"].append(s["subject"][0]), r"subject: .*stands twice"),
        (lambda s: s["subject"][0].update(name="../x"), r"name: .*stays inside its folder"),
        (
            lambda s: definition(s)["externalParameters"].update(recipe="build/variants/x.toml"),
            r"is not the recipe of",
        ),
    ],
)
def test_malformed_manifest(released, again, change, said):
    edit(released, change)
    with pytest.raises(ManifestError, match=f"provenance.json: no manifest of Hallmark.*{said}"):
        again(released)


def test_former_build_type(released, again):
    """Refused by name, whatever else is another form in such a manifest."""

    def change(statement):
        statement["subject"] = []
        definition(statement).update(buildType="urn:hallmark:build:v1")

    edit(released, change)
    with pytest.raises(
        ManifestError,
        match=r"provenance.json: its build type is urn:hallmark:build:v1, this version reads "
        r"urn:hallmark:build:v2 alone\. .*: build again with this version\.$",
    ):
        again(released)


@pytest.mark.parametrize("text", ["", "{", '{"_type":1,"_type":1}'])
def test_no_json(released, again, text):
    (released / "provenance" / names.STATEMENT).write_text(text, encoding="utf-8")
    with pytest.raises(ManifestError, match=r"provenance.json: cannot be read"):
        again(released)


def test_no_release(again, tmp_path):
    with pytest.raises(FetchError, match=r"has no provenance/provenance.json"):
        again(tmp_path)


def test_base_with_one_bit_flipped(original, released, again, tmp_path):
    """Refused before anything is rebuilt, by the name of the file."""
    base = shutil.copytree(original / "base", tmp_path / "base")
    poke(base / "model-00002-of-00002.safetensors")
    with pytest.raises(
        ManifestError, match=r"base/model-00002-of-00002.safetensors \(from local:base#.*here is"
    ):
        again(released, base)
    assert not (tmp_path / "store" / "reproduce").exists()


@pytest.mark.parametrize("change", ["more", "fewer"])
def test_base_with_other_files(original, released, again, tmp_path, change):
    base = shutil.copytree(original / "base", tmp_path / "base")
    (base / "vocab.json").write_text("{}", encoding="utf-8")
    if change == "fewer":
        (base / "vocab.json").unlink()
        (base / "tokenizer_config.json").unlink()
    name = {"more": "vocab.json", "fewer": "tokenizer_config.json"}[change]
    with pytest.raises(ManifestError, match=f"base/{name}"):
        again(released, base)


def test_local_base_must_be_given(released, tmp_path):
    with pytest.raises(FetchError, match="was rehearsed on a local base, and none is given"):
        reproduce.run(released, Store(tmp_path / "store"))


def test_base_of_a_real_build_is_pinned(released, again):
    edit(
        released,
        lambda s: s["predicate"]["runDetails"]["builder"].update(id=provenance.BUILDERS["host"]),
    )
    with pytest.raises(ManifestError, match="its base comes from the hub or from a mirror"):
        again(released)


def test_perplexity_text_does_not_matter(released, again, said):
    """A rehearsal scores the published text where it can be had; the checkpoint is the same."""
    extra = {
        "name": "perplexity/test.parquet",
        "digest": {"sha256": "0" * 64},
        "uri": "pkg:huggingface/datasets/a/b@c",
        "annotations": {"bytes": 1},
    }
    edit(released, lambda s: definition(s)["resolvedDependencies"].append(extra))
    assert again(released).identical
    assert any(line.startswith("perplexity was scored on another text (") for line in said)


def test_calibrating_again_needs_the_libraries(released, tmp_path, monkeypatch):
    monkeypatch.setattr(recalibration.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(CalibrationError, match="calibrating again needs modelopt"):
        reproduce.run(released, Store(tmp_path / "store"), recalibrate=True)


def test_table_of_scales(capsys):
    """The ten that are furthest off, how many are equal, and the largest difference."""
    recalibration.show([Scale(module=f"m{n}", released=1.0, here=1 + n / 100) for n in range(20)])
    said = capsys.readouterr().out
    assert said.index("m19 ") < said.index("m10 ")
    assert "m9 " not in said
    assert "1 of 20 input scales equal, the others off by up to 1.90e-01" in said


def command(folder, store, *options):
    return subprocess.run(
        [sys.executable, "-m", "assay", "reproduce", str(folder), "--store", str(store), *options],
        capture_output=True, encoding="utf-8", check=False,
        env={"PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1", "HOME": str(store)},
    )  # fmt: skip


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory):
    """The flagship on the real stand-in, calibrated by modelopt."""
    root = tmp_path_factory.mktemp("rehearsed")
    subprocess.run(
        [
            sys.executable, "-m", "forge", "build", FLAGSHIP, "--rehearse", "--verify", "structure",
            "--store", str(root / "store"), "--out", str(root / "out"),
        ],
        check=True, capture_output=True,
        env={"PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1", "HOME": str(root)},
    )  # fmt: skip
    return root


@pytest.mark.libraries
def test_rehearsal_is_reproduced_and_calibrated_again(rehearsed):
    """In the build's own store, so that nothing but the inputs may come out of it."""
    done = command(rehearsed / "out", rehearsed / "store", "--recalibrate")
    assert done.returncode == 0, done.stderr
    assert "fetch  unchanged" in done.stderr
    for step in ("quantize", "graft", "dress", "calibrate"):
        assert f"{step}  done in" in done.stderr
    scales_line, line = done.stdout.splitlines()
    assert scales_line == "calibrated again: 31 of 31 input scales equal"
    assert line.startswith(f"{rehearsed / 'out'} is reproduced: 14 files, 197 tensors, ")


@pytest.mark.libraries
def test_rehearsal_is_reproduced_in_another_store(rehearsed, tmp_path):
    for folder in (rehearsed / "out", rehearsed / "out" / "provenance"):
        done = command(folder, tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("\n") == 1


@pytest.mark.libraries
def test_tampered_rehearsal(rehearsed, tmp_path):
    """Exit codes: 20 for other files, 21 for a release that does not agree with itself."""
    folder = shutil.copytree(rehearsed / "out", tmp_path / "out")
    poke(folder / BODY)
    done = command(folder, tmp_path / "store")
    assert done.returncode == 20
    assert f"│ {BODY} │ tensors differ │" in done.stdout
    assert "so its files were changed since: 1 of 14 files and 1 of 197 tensors" in done.stderr
    poke(folder / "provenance" / record.FILE)
    done = command(folder, tmp_path / "store")
    assert (done.returncode, done.stdout) == (21, "")
    assert done.stderr.startswith("error: provenance/calibration.safetensors: the manifest says")
