"""Folders that are hostile by their form: work without bound, names, links, spellings."""

import base64
import json
import os
import socket

from assets.verify.bench import (
    BODY,
    LIST,
    MANIFEST,
    SIGNED_LIST,
    SIGNED_MANIFEST,
    dependency,
    encoded,
    envelope,
)
from assets.verify.table import RECORD, TENSORS, VERIFICATION, add, case, edited, reported
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)

from forge.core import canonical
from forge.manifest.names import BUNDLES, PROVENANCE
from forge.release import bundle, keys, signing
from forge.tensors import tensorfile

GIB, TIB = 1 << 30, 1 << 40
DEEP = 100_000
DEEP_JSON = "[" * DEEP + "]" * DEEP
NESTED = "it nests too deeply"
HALF = "holds half of a character"


def sparse(path, size):
    """A file of a size that takes no room."""
    path.touch()
    os.truncate(path, size)


# More than a release has, of anything.
@case(f"{BODY}: has {TIB} bytes, {LIST} says")
def sparse_shard(bench):
    sparse(bench / BODY, TIB)


@case(f"extra.safetensors: is in the folder, but not in {LIST}")
def sparse_shard_added(bench):
    sparse(bench / "extra.safetensors", TIB)


@case(f"config.json: has {8 * GIB} bytes, {LIST} says")
def sparse_config(bench):
    sparse(bench / "config.json", 8 * GIB)


@case("'provenance/notes-0.json': has 268435456 bytes, too many to be read")
def sparse_files_in_provenance(bench):
    for number in range(16):
        sparse(bench / f"provenance/notes-{number}.json", GIB // 4)


@case("provenance: its files have 603979776 bytes, too many to be read: at most 536870912")
def sparse_files_in_provenance_that_are_too_large_together(bench):
    for number in range(36):
        sparse(bench / f"provenance/{number}.json", GIB // 64)
    for name in (MANIFEST, LIST, SIGNED_LIST, VERIFICATION, RECORD, TENSORS):
        sparse(bench / name, 0)
    for path in (bench / "provenance").iterdir():
        if path.suffix not in {".json"} or not path.stem.isdigit():
            sparse(path, 0)


for target in (MANIFEST, LIST, SIGNED_LIST, VERIFICATION, RECORD, TENSORS):
    add(
        f"sparse_{target.partition('/')[2].replace('.', '_')}",
        lambda bench, target=target: sparse(bench / target, 8 * GIB),
        f"'{target}': has {8 * GIB} bytes, too many to be read",
    )


@case("provenance/release.json: is not in the folder")
def list_removed(bench):
    (bench / LIST).unlink()


@case("lies more than 8 folders deep")
def folders_in_folders(bench):
    here = os.getcwd()  # noqa: PTH109 - paths of this depth are refused as such
    os.chdir(bench.folder)
    for _ in range(100):
        os.mkdir("d")  # noqa: PTH102
        os.chdir("d")
    with open("config.json", "w", encoding="utf-8"):  # noqa: PTH123
        pass
    os.chdir(here)


@case("this name has more than 255 bytes in a part, or 1000 characters")
def path_beyond_what_a_system_takes(bench):
    here = os.getcwd()  # noqa: PTH109
    os.chdir(bench.folder)
    for _ in range(20):
        os.mkdir("d" * 250)  # noqa: PTH102
        os.chdir("d" * 250)
    with open("config.json", "w", encoding="utf-8"):  # noqa: PTH123
        pass
    os.chdir(here)


@case("has more than 2000 files, too many for a release")
def files_without_end(bench):
    for number in range(2001):
        os.close(os.open(bench / str(number), os.O_CREAT | os.O_WRONLY))


# What is no file of its own.
@case("'socket': is a socket")
def socket_added(bench):
    here = os.getcwd()  # noqa: PTH109 - the name of a socket is short
    os.chdir(bench.folder)
    with socket.socket(socket.AF_UNIX) as one:
        one.bind("socket")
    os.chdir(here)


def linked(name, target, at="more.json"):
    def spoil(bench):
        (bench / at).unlink(missing_ok=True)
        (bench / at).symlink_to(target)

    add(name, spoil, f"'{at}': is a symbolic link")


linked("symlink_to_a_file_of_the_system", "/etc/passwd")
linked("symlink_to_an_endless_device", "/dev/zero", BODY)
linked("symlink_to_itself", "more.json")
linked("symlink_to_a_folder_of_the_system", "/usr/lib", "more")
linked("symlink_like_that_of_a_hub", f"../../blobs/{'a' * 64}")
linked("symlink_in_place_of_the_card", "/etc/passwd", "README.md")
linked("symlink_in_place_of_a_bundle", "/etc/passwd", SIGNED_LIST)
linked("symlink_in_place_of_the_record", "/etc/passwd", RECORD)


@case("'provenance': is a symbolic link")
def symlink_in_place_of_the_provenance(bench):
    moved = bench.folder.parent / f"{bench.folder.name}.provenance"
    (bench / "provenance").rename(moved)
    (bench / "provenance").symlink_to(moved)


@case("'provenance/verification.json': is a pipe")
def fifo_in_the_provenance(bench):
    (bench / VERIFICATION).unlink()
    os.mkfifo(bench / VERIFICATION)


for target in (MANIFEST, LIST, SIGNED_LIST, RECORD, "README.md", BODY):

    def piped(bench, target=target):
        (bench / target).unlink()
        os.mkfifo(bench / target)

    short = target.rpartition("/")[2].replace(".", "_").replace("-", "_").lower()
    add(f"fifo_in_place_of_{short}", piped, f"'{target}': is a pipe")


@case("'.git': is a pipe")
def fifo_in_place_of_git(bench):
    os.mkfifo(bench / ".git")


@case("'.git': is a symbolic link")
def symlink_in_place_of_git(bench):
    (bench / ".git").symlink_to("/etc")


@case(".git: is in the folder, but not in")
def file_in_place_of_git(bench):
    (bench / ".git").write_text("gitdir: ../other\n", encoding="utf-8")


@case("sub/.git/config: is in the folder, but not in")
def git_in_a_folder_within(bench):
    (bench / "sub/.git").mkdir(parents=True)
    (bench / "sub/.git/config").write_text("[core]\n", encoding="utf-8")


@case(".cache/other: is in the folder, but not in")
def cache_of_another_tool(bench):
    (bench / ".cache/huggingface").mkdir(parents=True)
    (bench / ".cache/other").write_text("x", encoding="utf-8")


# Names, in the folder and in the signed list.
NAMES = {
    "with_a_dot_at_its_end": ("config.json.", "or ends with one or with a dot"),
    "with_a_space_at_its_end": ("config.json ", "or ends with one or with a dot"),
    "with_a_space_at_its_beginning": (" config.json", "has a part that begins with a space"),
    "with_a_colon": ("config.json:stream", "has ':', which Windows takes for something else"),
    "with_a_quote": ('config".json', "which Windows takes for something else"),
    "with_an_asterisk": ("*.json", "which Windows takes for something else"),
    "with_a_question_mark": ("config?.json", "which Windows takes for something else"),
    "with_a_bar": ("a|b", "which Windows takes for something else"),
    "with_a_bracket": ("<a>", "which Windows takes for something else"),
    "of_a_device": ("CON", "is that of a device on Windows"),
    "of_a_device_with_a_suffix": ("nul.json", "is that of a device on Windows"),
    "of_a_port": ("com1.txt", "is that of a device on Windows"),
    "of_a_folder_of_a_device": ("aux/config.json", "is that of a device on Windows"),
    "with_zero_width": ("config\u200b.json", "has U+200B, which nobody sees"),
    "with_a_joiner": ("config\u2060.json", "has U+2060, which nobody sees"),
    "with_a_byte_order_mark": ("\ufeffconfig.json", "has U+FEFF, which nobody sees"),
    "that_runs_to_the_left": ("config\u202enosj.json", "has U+202E, which nobody sees"),
    "with_an_isolate": ("\u2066config.json", "has U+2066, which nobody sees"),
    "with_a_hard_space": ("config\u00a0.json", "has U+00A0, which nobody sees"),
    "with_a_line_separator": ("config\u2028.json", "has U+2028, which nobody sees"),
    "with_a_filler": ("config\u3164.json", "has U+3164, which nobody sees"),
    "with_a_variation": ("config\ufe0f.json", "has U+FE0F, which nobody sees"),
    "with_a_private_character": ("config\ue000.json", "has U+E000, which nobody sees"),
    "with_a_tag": ("config\U000e0041.json", "has U+E0041, which nobody sees"),
    "with_its_suffix_in_capitals": ("EXTRA.SAFETENSORS", "some loaders take for 'safetensors'"),
    "with_code_in_capitals": ("modeling.Py", "some loaders take for 'py'"),
    "that_folds_to_another": ("config.j\u017fon", "only in case, so they are one file"),
    "in_full_width": ("\uff43onfig.json", "only in case, so they are one file"),
}


def in_the_folder(name):
    def spoil(bench):
        (bench / name).parent.mkdir(exist_ok=True)
        (bench / name).write_text("{}", encoding="utf-8")

    return spoil


def in_the_list(name):
    def spoil(bench):
        digest = {"sha256": canonical.sha256_text("")}
        one = {"name": name, "digest": digest, "annotations": {"bytes": 0}}
        bench.resubject(lambda subjects: subjects.append(one))

    return spoil


for what, (name, reason) in NAMES.items():
    add(f"name_{what}", in_the_folder(name), reason)
    add(f"resigned_name_{what}", in_the_list(name), reason)


@case("has a control character, or bytes that are no UTF-8")
def name_with_escape(bench):
    (bench / "\x1b[2Jconfig.json").write_text("{}", encoding="utf-8")


@case("has a control character, or bytes that are no UTF-8")
def name_with_a_control_of_c1(bench):
    (bench / "\x9b2Jconfig.json").write_text("{}", encoding="utf-8")


add(
    "resigned_name_of_300_characters",
    in_the_list("n" * 300),
    "must have at most 1000 characters, 255 in a part",
)
add(
    "resigned_name_of_200_000_characters",
    in_the_list("n/" * 100_000),
    "must have at most 1000 characters, 255 in a part",
)


# Documents that no reader can take, by the holder of the key.
def raw(bench, name, text):
    """Puts a text in the place of a document, and signs."""
    (bench / name).write_text(text, encoding="utf-8")
    if name == MANIFEST:
        bench.relist_manifest()
    elif name == LIST:
        bench.sign("release.json")
    else:
        bench.admit(name)


for target in (MANIFEST, LIST, VERIFICATION):
    short = target.partition("/")[2].partition(".")[0]
    add(
        f"resigned_{short}_nested",
        lambda bench, target=target: raw(bench, target, DEEP_JSON),
        NESTED,
    )
    add(
        f"resigned_{short}_with_half_a_character",
        lambda bench, target=target: raw(bench, target, '{"a": "\\ud800"}'),
        HALF,
    )
    add(
        f"resigned_{short}_with_a_number_of_5000_digits",
        lambda bench, target=target: raw(bench, target, '{"a": 1' + "0" * 5000 + "}"),
        "Exceeds the limit (4300 digits)",
    )
    add(
        f"resigned_{short}_with_an_infinite_number",
        lambda bench, target=target: raw(bench, target, '{"a": 1e999}'),
        "is no number that JSON has",
    )
    add(
        f"resigned_{short}_with_a_byte_order_mark",
        lambda bench, target=target: raw(bench, target, "\ufeff{}"),
        "cannot be read",
    )
    add(
        f"resigned_{short}_that_is_no_object",
        lambda bench, target=target: raw(bench, target, "[]"),
        "no ",
    )


LONG = "must have at most 1000 characters, 255 in a part"


@edited("must be a path without control characters")
def resigned_dependency_with_nul(statement):
    dependency(statement, "lockfiles/build.txt")["name"] = "lockfiles/\0"


@edited("Input should be a valid string; the value is []")
def resigned_dependency_named_by_a_list(statement):
    dependency(statement, "lockfiles/build.txt")["name"] = []


@edited("Input should be a valid string; the value is {}")
def resigned_byproduct_named_by_an_object(statement):
    statement["predicate"]["runDetails"]["byproducts"][0]["name"] = {}


# Text that a terminal would act on, wherever a statement has a word of its own.
STRANGE = "\x1b[2J\x07\x08\x9b2J\u202e\u2066"


def strange(name, change, reason):
    def spoil(bench):
        bench.restate(change)

    add(f"resigned_strange_{name}", spoil, reason)


def predicate(statement):
    return statement["predicate"]


for name, change, reason in (
    ("builder", lambda s: predicate(s)["runDetails"]["builder"].update(id=STRANGE),
     "is not one of"),
    ("variant", lambda s: predicate(s)["buildDefinition"]["externalParameters"].update(
        target=STRANGE), "the value is {"),
    ("source", lambda s: predicate(s)["buildDefinition"]["externalParameters"].update(
        source=STRANGE), "it was built from"),
    ("type", lambda s: s.update(predicateType=STRANGE), "predicateType: Input should be"),
    ("key", lambda s: s.update({STRANGE: 1}), "Extra inputs are not permitted"),
    ("input", lambda s: dependency(s, "base/config.json").update(uri=STRANGE), "is from"),
    ("commit", lambda s: dependency(s, "hallmark")["digest"].update(gitCommit=STRANGE),
     "gitCommit: String should match pattern"),
    ("subject", lambda s: s["subject"][0].update(name="x" + STRANGE), "without control characters"),
    ("byproduct", lambda s: predicate(s)["runDetails"]["byproducts"][0].update(
        name=f"provenance/{STRANGE}"), "without control characters"),
    ("step", lambda s: predicate(s)["runDetails"]["byproducts"][-1].update(
        name=f"step/{STRANGE}"), ""),
    ("parameter", lambda s: predicate(s)["runDetails"]["byproducts"][-1]["annotations"][
        "parameters"].update({STRANGE: STRANGE}), "its record was changed"),
    ("system", lambda s: predicate(s)["runDetails"]["byproducts"][-1]["annotations"][
        "system"].update(python=STRANGE), "its record was changed"),
):  # fmt: skip
    strange(name, change, reason)


@reported("any of the expected tags")
def resigned_check_of_control_characters(report):
    report["checks"][0]["name"] = STRANGE


@reported("verification.json: is of variant")
def resigned_report_of_a_variant_of_control_characters(report):
    report["variant"] = STRANGE


@case("provenance.sigstore.json: names key")
def hint_of_control_characters(bench):
    bench.rebundle(lambda value: value["verificationMaterial"]["publicKey"].update(hint=STRANGE))


@case("a payload of")
def payload_type_of_control_characters(bench):
    bench.rebundle(lambda value: envelope(value).update(payloadType=STRANGE))


@edited(LONG)
def resigned_dependency_of_300_characters(statement):
    dependency(statement, "lockfiles/build.txt")["name"] = "lockfiles/" + "n" * 300


@edited(LONG)
def resigned_dependency_of_200_000_characters(statement):
    dependency(statement, "lockfiles/build.txt")["name"] = "lockfiles/" + "n" * 200_000


@edited(LONG)
def resigned_module_of_200_000_characters(statement):
    internal = statement["predicate"]["buildDefinition"]["internalParameters"]
    internal["source"]["build/" + "n" * 200_000] = "0" * 64


@edited(LONG)
def resigned_variant_of_200_000_characters(statement):
    asked = statement["predicate"]["buildDefinition"]["externalParameters"]
    asked["target"] = "n" * 200_000
    asked["recipe"] = f"build/variants/{asked['target']}.toml"


@reported("the value is '\\x1b[2J\\x07\\x08'")
def resigned_level_of_control_characters(report):
    report["level"] = "\x1b[2J\x07\x08"


# Tensors.
def headed(name, change, reason):
    """A case that changes the header of the body, as a dishonest builder."""

    def spoil(bench):
        data = (bench / BODY).read_bytes()
        length = int.from_bytes(data[:8], "little")
        header = change(data[8 : 8 + length])
        start = len(header).to_bytes(8, "little")
        (bench / BODY).write_bytes(start + header + data[8 + length :])
        bench.rebuilt(tensors=False)

    add(f"resigned_header_{name}", spoil, reason)


def entry(**values):
    """Gives the first tensor other values."""

    def change(header):
        value = json.loads(header)
        value[next(name for name in value if name != "__metadata__")] |= values
        return json.dumps(value).encode()

    return change


def metadata(text):
    return lambda header: b'{"__metadata__":' + text.encode() + b"," + header[1:]


headed("longer_than_16_mib", lambda h: h + b" " * (1 << 24), "bytes, more than 16777216")
headed("nested", lambda _: b'{"a":' + DEEP_JSON.encode() + b"}", NESTED)
headed("with_half_a_character", lambda h: h.replace(b'{"', b'{"\\ud800', 1), HALF)
headed("with_a_tensor_twice", lambda h: h[:-1].rstrip()[:-1] + b"," + h[1:], "stands twice")
headed("with_a_tensor_of_control_characters", lambda h: h.replace(b'{"', b'{"\\u001b[2J', 1), "")
headed("of_a_list", lambda _: b"[]", "is no JSON object: it begins with b'['")
headed("of_bytes_that_are_no_text", lambda _: b'{"\xff": 1}', "the header is not valid JSON")
headed("that_begins_with_a_space", lambda h: b" " + h, "is no JSON object: it begins with b' '")
headed("with_metadata_null", metadata("null"), "__metadata__ must map names to text")
headed("with_a_number_in_its_metadata", metadata('{"a": 1}'), "__metadata__ must map names to")
headed("with_metadata_twice", metadata('{},"__metadata__":{}'), "'__metadata__' stands twice")
headed("with_a_shape_of_bits", entry(shape=[True]), "has a shape or offset that is no size")
headed("with_a_fraction", entry(shape=[1.5]), "has a shape or offset that is no size")
headed("with_a_huge_shape", entry(shape=[10**4000] * 900), "has a shape or offset that is no size")
headed("with_many_dimensions", entry(shape=[1] * 100), "has a shape or offset that is no size")
headed("with_an_offset_below_zero", entry(data_offsets=[-4, 0]), "that is no size")
headed("with_an_unknown_dtype", entry(dtype="F4"), "has the unknown dtype 'F4'")


@case("which is not a file of this folder")
def resigned_index_that_names_a_file_of_300_characters(bench):
    name = "n" * 300 + ".safetensors"
    bench.edit(tensorfile.INDEX, lambda index: index["weight_map"].update({"x": name}))
    bench.rebuilt(tensors=False)


@case("which is not a file of this folder")
def resigned_index_that_names_a_file_with_nul(bench):
    bench.edit(tensorfile.INDEX, lambda index: index["weight_map"].update({"x": "\0"}))
    bench.rebuilt(tensors=False)


@case(NESTED)
def resigned_index_nested(bench):
    (bench / tensorfile.INDEX).write_text(DEEP_JSON, encoding="utf-8")
    bench.rebuilt(tensors=False)


@case("weight_map must map tensor names to file names")
def resigned_index_of_lists(bench):
    bench.edit(tensorfile.INDEX, lambda index: index.update(weight_map=[[]]))
    bench.rebuilt(tensors=False)


@case("extra.safetensors is not in the index")
def resigned_shard_that_no_index_names(bench):
    (bench / "extra.safetensors").write_bytes((8).to_bytes(8, "little") + b"{}      ")
    bench.rebuilt(tensors=False)


@case("sub/extra.safetensors: lies in a folder, where no index and no loader finds it")
def resigned_shard_in_a_folder(bench):
    (bench / "sub").mkdir()
    (bench / "sub/extra.safetensors").write_bytes((8).to_bytes(8, "little") + b"{}      ")
    bench.rebuilt(tensors=False)


# Spellings of signatures.
MODEL = "provenance/model.sig"


def other_form(signature):
    """The second signature that whoever has a first one can make of it."""
    r, s = decode_dss_signature(base64.b64decode(signature))
    return encoded(encode_dss_signature(r, keys.ORDER - s))


def second_form(value):
    (signature,) = envelope(value)["signatures"]
    signature["sig"] = other_form(signature["sig"])


def padded(value):
    """The same two numbers, the first with a zero before it, which is no DER."""
    (signature,) = envelope(value)["signatures"]
    data = base64.b64decode(signature["sig"])
    data = data[:1] + bytes([data[1] + 1]) + data[2:3] + bytes([data[3] + 1, 0]) + data[4:]
    signature["sig"] = encoded(data)


for bundled in (SIGNED_MANIFEST, SIGNED_LIST):
    short = bundled.partition("/")[2].partition(".")[0]
    add(
        f"signature_of_{short}_in_its_second_form",
        lambda bench, bundled=bundled: bench.rebundle(second_form, bundled),
        "the signature is a second form of the one that was made",
    )
    add(
        f"signature_of_{short}_that_is_no_der",
        lambda bench, bundled=bundled: bench.rebundle(padded, bundled),
        "the signature is not by key",
    )


def modelled(reason):
    """A case of a release with a model signature, which `change` is given."""

    def register(change):
        def spoil(bench):
            signing.sign(bench.folder, bench.key, model_signature=True)
            change(bench)

        add(change.__name__, spoil, reason)
        return change

    return register


def reversed_keys(value):
    return json.dumps(dict(reversed(value.items())), separators=(",", ":")).encode() + b"\n"


def respelled(name, change):
    def spoil(bench):
        signing.sign(bench.folder, bench.key, model_signature=True)
        (bench / MODEL).write_bytes(change((bench / MODEL).read_bytes()))

    add(f"model_signature_{name}", spoil, "model.sig: is not in canonical JSON")


respelled("with_a_blank", lambda data: data.replace(b":", b": ", 1))
respelled("with_a_blank_at_its_end", lambda data: data + b" ")
respelled("without_its_last_byte", lambda data: data[:-1])
respelled("indented", lambda data: json.dumps(json.loads(data), indent=2).encode())
respelled("with_a_media_type_twice", lambda data: data.replace(b"{", b'{"mediaType":"x",', 1))
respelled("in_another_order", lambda data: reversed_keys(json.loads(data)))
respelled("with_an_escape", lambda data: data.replace(b'"sig"', b'"\\u0073ig"', 1))


@modelled("model.sig: is no Sigstore bundle")
def model_signature_of_control_bytes(bench):
    (bench / MODEL).write_bytes(b"\x1b[2J\x07" * 20)


@modelled("model.sig: the signature is a second form of the one that was made")
def model_signature_in_its_second_form(bench):
    bench.rebundle(second_form, MODEL)


@modelled("model.sig: is a bundle of type application/vnd.dev.sigstore.bundle+json;version=0.3")
def model_signature_of_another_type(bench):
    kind = "application/vnd.dev.sigstore.bundle+json;version=0.3"
    bench.rebundle(lambda value: value.update(mediaType=kind), MODEL)


@modelled("model.sig: names key x, the key given is")
def model_signature_with_another_hint(bench):
    bench.rebundle(lambda v: v["verificationMaterial"]["publicKey"].update(hint="x"), MODEL)


@modelled("model.sig: names key x, the key given is")
def model_signature_with_a_keyid(bench):
    bench.rebundle(lambda value: envelope(value)["signatures"][0].update(keyid="x"), MODEL)


@modelled("model.sig: the signature is not by key")
def model_signature_of_another_payload(bench):
    bench.rebundle(lambda value: envelope(value).update(payload=encoded(b"{}")), MODEL)


BUNDLED = [f"{PROVENANCE}/{name}" for name in BUNDLES.values()]


@modelled("model.sig: names key")
def model_signature_by_another_key(bench):
    before = {name: (bench / name).read_bytes() for name in BUNDLED}
    signing.sign(bench.folder, bench.other_key, model_signature=True)
    for name, data in before.items():
        (bench / name).write_bytes(data)


@modelled("README.md: model.sig is over sha256")
def resigned_model_signature_of_before(bench):
    bench.flip("README.md", 100)
    bench.relist(tell=False)


@modelled("config-2.json: model.sig is over sha256 nothing")
def resigned_model_signature_without_a_file(bench):
    (bench / "config-2.json").write_text("{}", encoding="utf-8")
    bench.rebuilt()


def resigned_model(name, change, reason):
    def spoil(bench):
        signing.sign(bench.folder, bench.key, model_signature=True)
        value = json.loads((bench / MODEL).read_bytes())
        payload = change(json.loads(base64.b64decode(envelope(value)["payload"])))
        made = json.loads(bundle.by_key(payload.encode(), keys.signer(bench.key)))
        (signature,) = envelope(made)["signatures"]
        envelope(value).update(payload=envelope(made)["payload"])
        envelope(value)["signatures"][0].update(sig=signature["sig"])
        (bench / MODEL).write_bytes(bundle.spell(value))

    add(f"resigned_model_signature_{name}", spoil, reason)


def first_resource(**values):
    def change(statement):
        statement["predicate"]["resources"][0] |= values
        return json.dumps(statement)

    return change


def doubled(statement):
    statement["predicate"]["resources"] *= 2
    return json.dumps(statement)


resigned_model("of_nothing", lambda _: "{}", "model.sig: no modelsignature of Hallmark")
resigned_model("of_a_list", lambda _: "[]", "model.sig: no modelsignature of Hallmark")
resigned_model("nested", lambda _: DEEP_JSON, NESTED)
resigned_model("of_another_statement", lambda s: json.dumps(s | {"predicateType": "x"}), "is 'x'")
resigned_model("by_blake2", first_resource(algorithm="x"), "algorithm: Input should be")
resigned_model("of_a_file_twice", doubled, "'NOTICE' stands twice")
resigned_model("of_lists", first_resource(name=[]), "model.sig: no modelsignature of Hallmark")
resigned_model("of_another_digest", first_resource(digest="0" * 64), "model.sig is over sha256 000")
