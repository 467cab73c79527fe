"""Every way to spoil a release that is known here, and a part of the reason that must be given.

A case is a function of the bench; what it is called is the name of its folder. Cases of the first
tables lack the key; in those named `resigned_...` the holder of the key is the forger, or careless.
"""

import json
import os
import shutil
import unicodedata

from assets.verify.bench import (
    BODY,
    LIST,
    MANIFEST,
    SIGNED_LIST,
    SIGNED_MANIFEST,
    byproduct,
    definition,
    dependency,
    details,
    encoded,
    envelope,
    record,
    redigest,
)
from assets.verify.table import (
    CASES,
    RECIPE,
    RECORD,
    SUMS,
    TENSORS,
    VERIFICATION,
    case,
    edited,
    reported,
)

from forge.calibration import record as records
from forge.core import canonical
from forge.manifest import names
from forge.manifest.names import CONTENTS
from forge.release import keys
from forge.tensors import tensorfile

ACCENT = "caf\N{LATIN SMALL LETTER E WITH ACUTE}.json"
DECOMPOSED = unicodedata.normalize("NFD", ACCENT)


def flipped(name, file, offset, reason):
    CASES[name] = (lambda bench: bench.flip(file, offset), reason)


# One bit, anywhere.
flipped("bit_in_header", BODY, 20, f"{BODY}: has sha256")
flipped("bit_in_tensor", BODY, -5000, f"{BODY}: has sha256")
flipped("bit_in_tail", BODY, -1, f"{BODY}: has sha256")
flipped("bit_in_mtp_head", "model-mtp.safetensors", -1, "model-mtp.safetensors: has sha256")
flipped("bit_in_config", "config.json", 10, "config.json: has sha256")
flipped("bit_in_card", "README.md", 100, "README.md: has sha256")
flipped("bit_in_report", "report.html", 100, "report.html: has sha256")
flipped("bit_in_manifest", MANIFEST, 200, "the signature is over another provenance.json")
flipped("bit_in_list", LIST, 200, "the signature is over another release.json")
flipped("bit_in_sums", SUMS, 5, f"{SUMS}: has sha256")
flipped("bit_in_tensor_listing", TENSORS, 50, f"{TENSORS}: has sha256")
flipped("bit_in_record", RECORD, -1, f"{RECORD}: has sha256")
flipped("bit_in_signature", SIGNED_LIST, 3060, "release.sigstore.json: ")
flipped("bit_in_payload", SIGNED_MANIFEST, 3000, "signature is not by key")


# Files.
@case("weights.bin: is in the folder, but not in provenance/release.json")
def file_added(bench):
    (bench / "weights.bin").write_bytes(b"pickle")


@case("modeling.py: is in the folder, but not in")
def code_added(bench):
    (bench / "modeling.py").write_text("import os\n", encoding="utf-8")


@case(".hidden: is in the folder, but not in")
def hidden_file_added(bench):
    (bench / ".hidden").write_text("x", encoding="utf-8")


@case("provenance/notes.txt: is in the folder, but not in")
def file_added_to_provenance(bench):
    (bench / "provenance/notes.txt").write_text("x", encoding="utf-8")


@case("config.json: is in provenance/release.json, but not in the folder")
def file_removed(bench):
    (bench / "config.json").unlink()


@case("NOTICE: is in provenance/release.json, but not in the folder")
def document_removed(bench):
    (bench / "NOTICE").unlink()


@case("config.json: is in provenance/release.json, but not in the folder")
def file_renamed(bench):
    (bench / "config.json").rename(bench / "konfig.json")


@case("config.json: has 3 bytes, provenance/release.json says")
def files_swapped(bench):
    one, other = (bench / "config.json"), (bench / "tokenizer_config.json")
    first = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(first)


@case("config.json: has 0 bytes, provenance/release.json says")
def file_emptied(bench):
    (bench / "config.json").write_bytes(b"")


@case(f"{BODY}: has 1000 bytes, provenance/release.json says")
def file_truncated(bench):
    os.truncate(bench / BODY, 1000)


@case("'empty': is an empty folder")
def empty_folder_added(bench):
    (bench / "empty").mkdir()


@case("provenance/provenance.json: is not in the folder")
def manifest_removed(bench):
    (bench / MANIFEST).unlink()


# What is no file of its own.
@case("'config.json': is a symbolic link")
def symlink(bench):
    moved = bench.folder.parent / f"{bench.folder.name}.config.json"
    (bench / "config.json").rename(moved)
    (bench / "config.json").symlink_to(moved)


@case("'more': is a symbolic link")
def symlink_to_folder(bench):
    (bench / "more").symlink_to(bench / "provenance")


@case("'dangling.json': is a symbolic link")
def symlink_to_nothing(bench):
    (bench / "dangling.json").symlink_to("nowhere")


@case("config-2.json: is in the folder, but not in")
def hard_link_within(bench):
    os.link(bench / "config.json", bench / "config-2.json")


@case("'pipe': is a pipe")
def fifo(bench):
    os.mkfifo(bench / "pipe")


@case("'config.json': is a pipe")
def fifo_in_place_of_a_file(bench):
    (bench / "config.json").unlink()
    os.mkfifo(bench / "config.json")


@case("'config.json': is an empty folder")
def folder_in_place_of_a_file(bench):
    (bench / "config.json").unlink()
    (bench / "config.json").mkdir()


# Names in the folder.
@case("this name has a backslash")
def name_with_backslash(bench):
    (bench / "..\\config.json").write_text("{}", encoding="utf-8")


@case("this name has a control character")
def name_with_control_character(bench):
    (bench / "config.json\n").write_text("{}", encoding="utf-8")


@case("or bytes that are no UTF-8")
def name_that_is_no_utf8(bench):
    with open(os.fsencode(bench.folder) + b"/\xff.json", "w", encoding="utf-8") as file:  # noqa: PTH123
        file.write("{}")


@case("only in case, so they are one file")
def name_twin_in_case(bench):
    (bench / "Config.json").write_text("{}", encoding="utf-8")


@case("is not in Unicode's composed form")
def name_decomposed(bench):
    (bench / DECOMPOSED).write_text("{}", encoding="utf-8")


@case("is not in Unicode's composed form")
def name_twin_in_composition(bench):
    for name in (ACCENT, DECOMPOSED):
        (bench / name).write_text("{}", encoding="utf-8")


# Names in a statement that is signed.
def subject_named(name, reason):
    def spoil(bench):
        digest = {"sha256": canonical.sha256_text("")}
        one = {"name": name, "digest": digest, "annotations": {"bytes": 0}}
        bench.resubject(lambda subjects: subjects.append(one))

    return spoil, reason


CASES |= {
    "resigned_name_climbs": subject_named("../config.json", "stays inside its folder"),
    "resigned_name_absolute": subject_named("/etc/passwd", "stays inside its folder"),
    "resigned_name_with_backslash": subject_named("a\\b", "stays inside its folder"),
    "resigned_name_with_nul": subject_named("config.json\0", "without control characters"),
    "resigned_name_dotted": subject_named("./config.json", "is no relative path that stays"),
    "resigned_name_doubled_slash": subject_named("a//b", "is no relative path that stays"),
    "resigned_name_twin_in_case": subject_named("CONFIG.json", "differs from"),
    "resigned_name_decomposed": subject_named(DECOMPOSED, "is not in Unicode's composed form"),
    "resigned_name_twice": subject_named("config.json", "'config.json' stands twice"),
    "resigned_name_empty": subject_named("", "stays inside its folder"),
}


# Signatures.
@case("provenance.sigstore.json: is missing")
def signature_stripped(bench):
    for name in (SIGNED_MANIFEST, SIGNED_LIST):
        (bench / name).unlink()


@case("release.sigstore.json: is missing, so the release is not signed in full")
def signature_partly_stripped(bench):
    (bench / SIGNED_LIST).unlink()


@case("the key given is")
def signature_by_another_key(bench):
    bench.sign(names.STATEMENT, key=bench.other_key)


@case("the signature is not by key")
def signature_by_another_key_with_a_lying_keyid(bench):
    name = keys.signer(bench.key).public_key.keyid
    bench.sign(names.STATEMENT, key=bench.other_key)

    def lie(value):
        envelope(value)["signatures"][0]["keyid"] = name
        value["verificationMaterial"]["publicKey"]["hint"] = name

    bench.rebundle(lie)


@case("the key given is")
def keyid_lying(bench):
    bench.rebundle(lambda value: envelope(value)["signatures"][0].update(keyid="0" * 64))


@case("names key " + "0" * 64)
def hint_lying(bench):
    bench.rebundle(lambda value: value["verificationMaterial"]["publicKey"].update(hint="0" * 64))


@case("names key None")
def keyid_missing(bench):
    bench.rebundle(lambda value: envelope(value)["signatures"][0].pop("keyid"))


@case("the signature is over another provenance.json than the one here")
def signature_over_another_payload(bench):
    """It is a good one, of this key, and over a statement that is not the one in the folder."""
    before = (bench / MANIFEST).read_bytes()
    bench.edit(MANIFEST, lambda s: s["predicate"]["runDetails"]["metadata"].update(finishedOn=""))
    bench.sign(names.STATEMENT)
    (bench / MANIFEST).write_bytes(before)


@case("the signature is not by key")
def payload_replaced(bench):
    data = (bench / MANIFEST).read_bytes().replace(b"standin", b"hacked!")
    (bench / MANIFEST).write_bytes(data)
    bench.rebundle(lambda value: envelope(value).update(payload=encoded(data)))


@case("the signature is over another provenance.json")
def bundles_swapped(bench):
    one, other = bench / SIGNED_MANIFEST, bench / SIGNED_LIST
    first = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(first)


@case("has 2 signatures, expected one")
def signatures_two(bench):
    bench.rebundle(lambda value: envelope(value)["signatures"].append({"keyid": "", "sig": "AA=="}))


@case("has 0 signatures, expected one")
def signatures_none(bench):
    bench.rebundle(lambda value: envelope(value).update(signatures=[]))


@case("the signature is not by key")
def signature_empty(bench):
    bench.rebundle(lambda value: envelope(value)["signatures"][0].update(sig=""))


@case("a payload of 'text/plain'")
def payload_type_wrong(bench):
    bench.rebundle(lambda value: envelope(value).update(payloadType="text/plain"))


@case("is a bundle of type application/vnd.dev.sigstore.bundle+json;version=0.1")
def bundle_of_another_version(bench):
    kind = "application/vnd.dev.sigstore.bundle+json;version=0.1"
    bench.rebundle(lambda value: value.update(mediaType=kind))


@case("is no Sigstore bundle: extra")
def bundle_with_an_unknown_key(bench):
    bench.rebundle(lambda value: value.update(extra=1))


@case("is not in canonical JSON")
def bundle_with_a_key_twice(bench):
    data = (bench / SIGNED_MANIFEST).read_bytes()
    (bench / SIGNED_MANIFEST).write_bytes(data.replace(b"{", b'{"mediaType":"x",', 1))


@case("is not in canonical JSON")
def bundle_with_loose_base64(bench):
    data = (bench / SIGNED_MANIFEST).read_bytes()
    (bench / SIGNED_MANIFEST).write_bytes(data.replace(b'"payload":"', b'"payload":"\\n'))


@case("is no Sigstore bundle: the whole file: Invalid JSON")
def bundle_emptied(bench):
    (bench / SIGNED_MANIFEST).write_bytes(b"")


@case("was not signed with a key")
def bundle_with_a_certificate(bench):
    def change(value):
        value["verificationMaterial"].pop("publicKey")
        value["verificationMaterial"]["certificate"] = {"rawBytes": encoded(b"certificate")}

    bench.rebundle(change)


@case("model.sig: names key")
def model_signature_forged(bench):
    shutil.copy(bench / SIGNED_LIST, bench / "provenance/model.sig")


# Statements, signed anew.
@edited("predicateType: Input should be 'https://slsa.dev/provenance/v1'")
def resigned_predicate_type_wrong(statement):
    statement["predicateType"] = "https://slsa.dev/provenance/v0.2"


@edited("_type: Input should be 'https://in-toto.io/Statement/v1'")
def resigned_statement_type_wrong(statement):
    statement["_type"] = "https://in-toto.io/Statement/v0.1"


@edited("subject.0.digest.sha256: Field required")
def resigned_digest_md5_only(statement):
    statement["subject"][0]["digest"] = {"md5": "d41d8cd98f00b204e9800998ecf8427e"}


@edited("subject.0.digest.sha256: Field required")
def resigned_digest_sha1_only(statement):
    statement["subject"][0]["digest"] = {"sha1": "da39a3ee5e6b4b0d3255bfef95601890afd80709"}


@edited("externalParameters.debug: Extra inputs are not permitted")
def resigned_external_parameter_unknown(statement):
    statement["predicate"]["buildDefinition"]["externalParameters"]["debug"] = True


@edited("buildType: Input should be 'urn:hallmark:build:v2'")
def resigned_build_type_unknown(statement):
    statement["predicate"]["buildDefinition"]["buildType"] = "urn:other"


@edited("its build type is urn:hallmark:build:v1, this version reads urn:hallmark:build:v2 alone")
def resigned_build_type_former(statement):
    statement["predicate"]["buildDefinition"]["buildType"] = "urn:hallmark:build:v1"


@edited("subject: Tuple should have at least 1 item")
def resigned_subjects_none(statement):
    statement["subject"] = []


@edited("config.json: is in the folder, but not in provenance/provenance.json")
def resigned_subject_left_out(statement):
    statement["subject"] = [one for one in statement["subject"] if one["name"] != "config.json"]


@edited("is not the recipe of 'qwen36-27b-nvfp4'")
def resigned_variant_renamed(statement):
    asked = statement["predicate"]["buildDefinition"]["externalParameters"]
    asked["target"] = "qwen36-27b-nvfp4"


@edited("template/chat_template.jinja: is an input, and the recipe takes no template")
def resigned_manifest_of_another_variant(statement):
    definition = statement["predicate"]["buildDefinition"]
    recipe = "build/variants/qwen36-27b-nvfp4.toml"
    definition["externalParameters"] |= {"target": "qwen36-27b-nvfp4", "recipe": recipe}
    from forge.core import checkout

    digest = canonical.sha256_file(checkout.ROOT / recipe)
    dependency(statement, RECIPE).update(name=recipe, digest={"sha256": digest})


@edited(f"{RECIPE}: the manifest says sha256 000")
def resigned_recipe_of_another_digest(statement):
    dependency(statement, RECIPE)["digest"] = {"sha256": "0" * 64}


@edited("lockfiles/build.txt: the manifest says sha256 000")
def resigned_lock_file_of_another_digest(statement):
    dependency(statement, "lockfiles/build.txt")["digest"] = {"sha256": "0" * 64}


@edited("build/forge/pipeline.py: the manifest says sha256 000")
def resigned_module_of_another_digest(statement):
    internal = statement["predicate"]["buildDefinition"]["internalParameters"]
    internal["source"]["build/forge/pipeline.py"] = "0" * 64


@edited("build/forge/pipeline.py: the manifest says sha256 nothing")
def resigned_module_left_out(statement):
    internal = statement["predicate"]["buildDefinition"]["internalParameters"]
    del internal["source"]["build/forge/pipeline.py"]


@edited("build/forge/extra.py: the manifest says sha256 000")
def resigned_module_that_is_not_there(statement):
    internal = statement["predicate"]["buildDefinition"]["internalParameters"]
    internal["source"]["build/forge/extra.py"] = "0" * 64


@edited("is not in this clone")
def resigned_commit_unknown(statement):
    commit = dependency(statement, "hallmark")
    commit |= {
        "digest": {"gitCommit": "0" * 40},
        "annotations": {"uncommitted_changes": False},
    }


@edited("gitCommit: String should match pattern")
def resigned_commit_that_is_an_option(statement):
    dependency(statement, "hallmark")["digest"] = {"gitCommit": "--help"}


@edited("the manifest names no commit")
def resigned_commit_missing(statement):
    definition = statement["predicate"]["buildDefinition"]
    definition["resolvedDependencies"].remove(dependency(statement, "hallmark"))


@edited("'urn:hallmark:builder:mine' is not one of")
def resigned_builder_unknown(statement):
    statement["predicate"]["runDetails"]["builder"]["id"] = "urn:hallmark:builder:mine"


@edited("step/quantize: its record was changed")
def resigned_step_record_edited(statement):
    record(statement, "quantize")["finished"] = "2001-01-01T00:00:00+00:00"


@edited("step/dress: its record is of another checkpoint")
def resigned_step_record_of_another_checkpoint(statement):
    record(statement, "dress")["outputs"]["config.json"] = "0" * 64
    redigest(statement)


@edited(f"{VERIFICATION}: provenance/provenance.json says sha256 nothing")
def resigned_verification_unlisted(statement):
    byproducts = statement["predicate"]["runDetails"]["byproducts"]
    byproducts.remove(byproduct(statement, VERIFICATION))


# A key more, at every depth of every document: it may mean something, and nobody here knows what.
UNKNOWN = "Extra inputs are not permitted"


def with_unknown_key(name, where, find):
    """A case whose manifest has a key more in the object that `find` gives."""

    def spoil(bench):
        bench.restate(lambda statement: find(statement).update(unknown=1))

    CASES[f"resigned_unknown_key_in_{name}"] = (spoil, f"{where}unknown: {UNKNOWN}")


DEFINITION, DETAILS = "predicate.buildDefinition.", "predicate.runDetails."
with_unknown_key("statement", "first ", lambda s: s)
with_unknown_key("subject", "first subject.0.", lambda s: s["subject"][0])
with_unknown_key("digest", "first subject.0.digest.", lambda s: s["subject"][0]["digest"])
with_unknown_key("predicate", "first predicate.", lambda s: s["predicate"])
with_unknown_key("definition", DEFINITION, definition)
with_unknown_key(
    "internal", f"{DEFINITION}internalParameters.", lambda s: definition(s)["internalParameters"]
)
with_unknown_key(
    "machine",
    "internalParameters.machine.",
    lambda s: definition(s)["internalParameters"]["machine"],
)
with_unknown_key("input", ".input.", lambda s: dependency(s, "base/config.json"))
with_unknown_key(
    "input_annotations",
    ".input.annotations.",
    lambda s: dependency(s, "base/config.json")["annotations"],
)
with_unknown_key("recipe", ".file.", lambda s: dependency(s, RECIPE))
with_unknown_key(
    "tree", ".hallmark.annotations.", lambda s: dependency(s, "hallmark")["annotations"]
)
with_unknown_key("details", DETAILS, details)
with_unknown_key("builder", f"{DETAILS}builder.", lambda s: details(s)["builder"])
with_unknown_key("metadata", f"{DETAILS}metadata.", lambda s: details(s)["metadata"])
with_unknown_key("byproduct", ".file.", lambda s: byproduct(s, VERIFICATION))
with_unknown_key("step_record", ".step.annotations.", lambda s: record(s, "dress"))


@case(f"first unknown: {UNKNOWN}")
def resigned_unknown_key_in_list(bench):
    bench.edit(LIST, lambda statement: statement.update(unknown=1))
    bench.sign(CONTENTS)


@case(f"first predicate.unknown: {UNKNOWN}")
def resigned_unknown_key_in_list_predicate(bench):
    bench.edit(LIST, lambda statement: statement["predicate"].update(unknown=1))
    bench.sign(CONTENTS)


@edited("started: String should match pattern")
def resigned_step_record_of_no_time(statement):
    record(statement, "dress")["started"] = "yesterday"
    redigest(statement)


@edited("build_definition: Extra inputs are not permitted")
def resigned_key_in_another_spelling(statement):
    """The name that Python code has for it is no name of the document."""
    statement["predicate"]["build_definition"] = definition(statement)


@case("lists the release pkg:generic/other@1")
def resigned_list_of_another_release(bench):
    bench.edit(LIST, lambda statement: statement["predicate"].update(purl="pkg:generic/other@1"))
    bench.sign(CONTENTS)


def rewritten(name, old, new, reason):
    """A case that replaces a part of a signed statement's text, for what no JSON writer writes."""

    def spoil(bench):
        path = bench / MANIFEST
        data = path.read_bytes()
        assert old in data
        path.write_bytes(data.replace(old, new, 1))
        bench.relist_manifest()

    CASES[name] = (spoil, reason)


rewritten(
    "resigned_key_twice", b'{"_type":', b'{"_type":"x","_type":', "the key '_type' stands twice"
)
rewritten("resigned_nan", b'"bytes":', b'"extra":NaN,"bytes":', "NaN is not JSON")
rewritten("resigned_infinity", b'"bytes":', b'"extra":-Infinity,"bytes":', "-Infinity is not JSON")
rewritten("resigned_no_utf8", b"standin", b"stand\xff\xfe", "cannot be read: 'utf-8' codec")
rewritten(
    "resigned_nested_deeply", b'"bytes":', b'"extra":' + b"[" * 100_000 + b',"bytes":', "nests too"
)


# What was built, signed anew with all that belongs to it.
@case("the header claims 4503599627381160 bytes")
def resigned_header_longer_than_file(bench):
    data = bytearray((bench / BODY).read_bytes())
    data[6] = 0x10
    (bench / BODY).write_bytes(data)
    bench.rebuilt(tensors=False)


@case("has trailing bytes")
def resigned_bytes_after_the_tensors(bench):
    with (bench / BODY).open("ab") as file:
        file.write(b"\0" * 8)
    bench.rebuilt(tensors=False)


@case(f"{TENSORS}, line ")
def resigned_tensor_that_is_not_listed_so(bench):
    bench.flip(BODY, -1)
    bench.rebuilt(tensors=False)


@case("which is not a file of this folder")
def resigned_index_that_climbs(bench):
    bench.edit(tensorfile.INDEX, lambda v: v["weight_map"].update({"x": "../x.safetensors"}))
    bench.rebuilt(tensors=False)


@case("is not the scale of the calibration record")
def resigned_scale_that_was_not_calibrated(bench):
    stored = tensorfile.read_checkpoint(bench.folder)
    name = next(name for name in stored if name.endswith(".input_scale"))
    bench.flip(stored[name].file.name, stored[name].offset)
    bench.rebuilt()


@case("is not the scale of the calibration record")
def resigned_record_of_another_build(bench):
    maxima = {tensor.name: 9.0 for tensor in tensorfile.read_header(bench / RECORD)}
    records.write(bench / RECORD, maxima, {"device": "another"})
    bench.admit(RECORD)


@case(f"{RECORD}: has 1612 bytes")
def record_of_another_build(bench):
    maxima = {tensor.name: 9.0 for tensor in tensorfile.read_header(bench / RECORD)}
    records.write(bench / RECORD, maxima, {"device": "another"})


@case(f"{SUMS}, line ")
def resigned_sums_with_a_line_less(bench):
    lines = (bench / SUMS).read_text(encoding="utf-8").splitlines(keepends=True)
    (bench / SUMS).write_text("".join(lines[1:]), encoding="utf-8")
    bench.admit(SUMS)


@case("'other line ends'")
def resigned_sums_with_other_line_ends(bench):
    (bench / SUMS).write_bytes((bench / SUMS).read_bytes().replace(b"\n", b"\r\n"))
    bench.admit(SUMS)


# The assay's report.
@case(f"{VERIFICATION}: has ")
def verification_edited(bench):
    bench.edit(VERIFICATION, lambda report: report.update(level="all"))


@reported("is of the level 'none', the manifest says 'structure'")
def resigned_verification_of_nothing(report):
    report |= {"level": "none", "checks": [], "passed": True}


@reported(f"first unknown: {UNKNOWN}")
def resigned_unknown_key_in_verification(report):
    report["unknown"] = 1


@reported(f"first checks.0.structure.index.unknown: {UNKNOWN}")
def resigned_unknown_key_in_check(report):
    report["checks"][0]["unknown"] = 1


@case("NaN is not JSON")
def resigned_verification_with_nan(bench):
    data = json.loads((bench / VERIFICATION).read_bytes())
    data["checks"][0]["measured"] = {"bytes": float("nan")}
    (bench / VERIFICATION).write_text(json.dumps(data), encoding="utf-8")
    bench.admit(VERIFICATION)


@case("it is not there")
def resigned_verification_removed(bench):
    (bench / VERIFICATION).unlink()
    bench.relist()


def reencoded(bench):
    """A good bundle that was merely indented."""
    path = bench / SIGNED_LIST
    path.write_text(json.dumps(json.loads(path.read_bytes()), indent=2), encoding="utf-8")


CASES["bundle_indented"] = (reencoded, "is not in canonical JSON")
