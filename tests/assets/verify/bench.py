"""The forger's bench: a signed release, and what can be done to it with and without its key."""

import base64
import json
import shutil
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import reports
from conftest import FLAGSHIP, write_list

from assay.release import asked
from forge import pipeline
from forge.core import canonical, checkout, files, image_labels
from forge.core.errors import HallmarkError, RecipeError
from forge.manifest import names, release_list, summaries, sums, verification
from forge.manifest.names import BUNDLES, CONTENTS, DOCUMENTS, PROVENANCE, SIGNATURES
from forge.manifest.provenance import Manifest
from forge.manifest.verification import Report
from forge.recipes import recipe
from forge.release import bundle, documents, facts, keys
from forge.tensors import tensor_list, tensorfile

BODY = "model-00001-of-00001.safetensors"
MANIFEST = f"{PROVENANCE}/{names.STATEMENT}"
LIST = f"{PROVENANCE}/{CONTENTS}"
VERIFICATION = f"{PROVENANCE}/{names.VERIFICATION}"
SIGNED_MANIFEST = f"{PROVENANCE}/{BUNDLES[names.STATEMENT]}"
SIGNED_LIST = f"{PROVENANCE}/{BUNDLES[CONTENTS]}"


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A release that is to be spoiled, the key that signed it, and another key."""

    folder: Path
    key: Path
    other_key: Path

    def __truediv__(self, name):
        return self.folder / name

    def flip(self, name, offset):
        """Flips a bit of the byte at an offset, from the end if it is negative."""
        data = bytearray((self / name).read_bytes())
        data[offset] ^= 1
        (self / name).write_bytes(data)

    def edit(self, name, change):
        """Changes a JSON file, in canonical JSON, without signing."""
        value = json.loads((self / name).read_bytes())
        change(value)
        canonical.write(self / name, value)

    def reheader(self, name, change):
        """Changes the header of a file of tensors, of which the data stay as they are."""
        data = (self / name).read_bytes()
        end = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(data[8:end])
        header = change(header) or header
        raw = json.dumps(header, separators=(",", ":")).encode()
        raw += b" " * (-len(raw) % 8)
        (self / name).write_bytes(len(raw).to_bytes(8, "little") + raw + data[end:])

    def overwrite(self, name, values):
        """Writes bytes in the place of a stored tensor's first ones."""
        tensor = tensorfile.read_checkpoint(self.folder)[name]
        with tensor.file.open("r+b") as file:
            file.seek(tensor.offset)
            file.write(values)

    def sign(self, name, *, key=None):
        """Signs a statement as it lies there."""
        signer = keys.signer(key or self.key)
        payload = (self / f"{PROVENANCE}/{name}").read_bytes()
        (self / f"{PROVENANCE}/{BUNDLES[name]}").write_bytes(bundle.by_key(payload, signer))

    def restate(self, change):
        """Changes the manifest and makes all else agree, as only the holder of the key can."""
        self.edit(MANIFEST, change)
        self.relist()

    def relist(self, *, tell=True):
        """Makes what follows from the others, and lists all files as they are now."""
        if tell:
            self._tell()
        self.summarize()
        self.list_files()

    def list_files(self):
        """Lists the files as they are now, whatever they say, and signs the statements."""
        apart = {LIST, *SIGNATURES}
        paths = {name: self / name for name in files.names_in(self.folder) if name not in apart}
        digests = {name: canonical.sha256_file(path) for name, path in paths.items()}
        statement = json.loads((self / MANIFEST).read_bytes())
        target = statement["predicate"]["buildDefinition"]["externalParameters"]["target"]
        named = release_list.purl(target, digests[MANIFEST])
        found = {
            name: release_list.Content(digest, paths[name].stat().st_size)
            for name, digest in digests.items()
        }
        (self / LIST).write_bytes(release_list.release(found, named).encoded())
        for name in BUNDLES:
            if (self / f"{PROVENANCE}/{name}").exists():
                self.sign(name)

    def summarize(self):
        """Makes what follows from manifest and report, if these can be read at all."""
        try:
            manifest = Manifest.parse((self / MANIFEST).read_bytes())
            report = Report.parse((self / VERIFICATION).read_bytes())
            made = summaries.documents(
                manifest,
                canonical.sha256_file(self / MANIFEST),
                recipe.find(manifest.asked.target),
                report,
                None,
            )
        except (OSError, ValueError, KeyError, RecipeError):
            return
        for name, data in made.items():
            (self / name).write_bytes(data)

    def _tell(self):
        """Makes the documents again, where what they are made from can still be read."""
        with suppress(HallmarkError, OSError, ValueError, LookupError, TypeError):
            for name, data in documents.documents(facts.read(self.folder)).items():
                (self / name).write_bytes(data)

    def relist_manifest(self):
        """Lists a manifest that no JSON reader takes, and signs both statements."""
        digest = canonical.sha256_file(self / MANIFEST)

        def change(statement):
            purl = statement["predicate"]["purl"].partition("@")[0]
            statement["predicate"]["purl"] = f"{purl}@{digest}"
            self._admit(statement, MANIFEST)

        self.edit(LIST, change)
        for name in BUNDLES:
            self.sign(name)

    def resubject(self, change):
        """Changes the subjects of the list of the release, and signs it."""
        self.edit(LIST, lambda statement: change(statement["subject"]))
        self.sign(CONTENTS)

    def admit(self, *changed):
        """Makes manifest, listings and list agree with files that were changed, and signs."""
        for name in changed:
            self.edit(MANIFEST, lambda s, name=name: self._admit(s, name))
        self.edit(MANIFEST, retell)
        self.relist()

    def assayed(self, change):
        """Adds what an engine would have found, lets `change` spoil the report, and signs."""
        variant = recipe.find(FLAGSHIP)
        wanted = verification.expected(variant, "all")
        asked = [name for name in wanted if name not in verification.STRUCTURE]
        served = json.dumps([one.as_json() for one in reports.checks(variant, asked)])

        stop = json.loads((self / "generation_config.json").read_bytes())["eos_token_id"]

        def further(report):
            report["level"] = "all"
            report["checks"] += json.loads(served)
            (ends,) = (one for one in report["checks"] if one["name"] == "smoke.stop")
            ends["measured"]["ended"] = [{"token": stop, "finish_reason": "stop", "tokens": 1}]
            ends["measured"]["turn_end"] = stop
            change(report)

        def restated(statement):
            definition(statement)["internalParameters"]["verified"] = "all"
            record(statement, "verify")["parameters"]["level"] = "all"

        self.edit(VERIFICATION, further)
        self.edit(MANIFEST, restated)
        self.admit(VERIFICATION)

    def _admit(self, statement, name):
        digest = {"sha256": canonical.sha256_file(self / name)}
        details = statement["predicate"].get("runDetails", {"byproducts": []})
        for one in [*statement["subject"], *details["byproducts"]]:
            if one["name"] == name:
                one["digest"] = digest
                if "annotations" in one:
                    one["annotations"] = {"bytes": (self / name).stat().st_size}
        path = name.removeprefix(f"{PROVENANCE}/")
        if path.endswith(f".{names.TENSORS}"):
            path = tensor_list.of_input(path.partition(".")[0])
        for step in ("fetch", "calibrate", "verify"):
            for one in details["byproducts"]:
                if one["name"] == f"step/{step}" and path in one["annotations"]["outputs"]:
                    one["annotations"]["outputs"][path] = digest["sha256"]

    def rebuilt(self, *, tensors=True):
        """Makes everything agree with changed files of the checkpoint, as a dishonest builder."""
        provenance = self / PROVENANCE
        built = {
            name: canonical.sha256_file(self / name)
            for name in files.names_in(self.folder)
            if name.partition("/")[0] not in {PROVENANCE, *DOCUMENTS}
        }
        sums.write(provenance / names.SUMS, built)
        if tensors:
            write_list(provenance / names.TENSORS, tensorfile.read_checkpoint(self.folder))

        def change(statement):
            listed = [f"{PROVENANCE}/{name}" for name in (names.SUMS, names.TENSORS)]
            digests = built | {name: canonical.sha256_file(self / name) for name in listed}
            statement["subject"] = [
                {"name": name, "digest": {"sha256": digest}}
                for name, digest in sorted(digests.items())
            ]
            record(statement, "dress")["outputs"] = built
            self._rewrite(statement, built)
            retell(statement)

        self.restate(change)

    def refetched(self, name, change):
        """Has the base have another JSON file; what is made of it is the caller's to change.

        Returns:
            The value that the file has now.
        """
        kept = self / PROVENANCE / names.original_of(f"base/{name}")
        path = kept if kept.exists() else self / name
        self.edit(path.relative_to(self.folder), change)
        size, digest = path.stat().st_size, canonical.sha256_file(path)

        def restated(statement):
            if kept.exists():
                byproduct(statement, f"{PROVENANCE}/{kept.name}")["digest"]["sha256"] = digest
            one = dependency(statement, f"base/{name}")
            one["digest"]["sha256"], one["annotations"]["bytes"] = digest, size
            fetched = record(statement, "fetch")
            fetched["outputs"][f"base/{name}"] = digest
            for stamp in fetched["parameters"]["origins"]["base"][1]:
                if stamp[0] == name:
                    stamp[1] = size
            manifest = Manifest.parse(canonical.dumps(statement).encode())
            listed = asked.inputs_of(manifest, recipe.find(manifest.asked.target))
            fetched["outputs"][names.INPUTS] = sha256(listed).hexdigest()

        self.edit(MANIFEST, restated)
        return json.loads(path.read_bytes())

    def _rewrite(self, statement, built):
        """Lets quantize and graft have written the shards and tensors that are there."""
        lines = tensor_list.read(self / PROVENANCE / names.TENSORS).values()
        for step in ("quantize", "graft"):
            outputs = record(statement, step)["outputs"]
            outputs |= {name: built[name] for name in outputs.keys() & built.keys()}
            own = [line for line in lines if line.file in outputs]
            outputs[tensor_list.FILE] = canonical.sha256_text(tensor_list.text(own))

    def rebundle(self, change, name=SIGNED_MANIFEST):
        """Changes a bundle, in its own spelling."""
        value = json.loads((self / name).read_bytes())
        change(value)
        (self / name).write_bytes(bundle.spell(value))

    def copy(self, to):
        """The same bench with a folder of its own."""
        shutil.copytree(self.folder, to)
        return Bench(folder=to, key=self.key, other_key=self.other_key)


def definition(statement):
    return statement["predicate"]["buildDefinition"]


def details(statement):
    return statement["predicate"]["runDetails"]


def dependency(statement, name):
    resources = statement["predicate"]["buildDefinition"]["resolvedDependencies"]
    return next(one for one in resources if one["name"] == name)


def byproduct(statement, name):
    byproducts = statement["predicate"]["runDetails"]["byproducts"]
    return next(one for one in byproducts if one["name"] == name)


def record(statement, step):
    return byproduct(statement, f"step/{step}")["annotations"]


def build_in_image(statement):
    """Says of a rehearsal that it was built in the image of its commit, wherever that is said."""
    base = "sha256:5dc1bca23d05bd37b011be68ec470c03b403a5da07ec3a86e41af9470e9d0cc6"
    snapshot = "20261115T000000Z"
    tree = dependency(statement, "hallmark")
    labels = {
        **image_labels.of_source(
            tree["digest"]["gitCommit"],
            dirty=tree["annotations"]["uncommitted_changes"],
            verify="verify",
            digests={
                lock: canonical.sha256_file(checkout.LOCKFILES / f"{lock}.txt")
                for lock in image_labels.locks("verify")
            },
        ),
        image_labels.BASE_NAME: f"nvidia/cuda:13.0.2-devel-ubuntu24.04@{base}",
        image_labels.BASE_DIGEST: base,
        image_labels.SNAPSHOT: snapshot,
        image_labels.TREE: "0" * 64,
    }
    details(statement)["builder"]["id"] = "urn:hallmark:builder:rehearsal:image"
    definition(statement)["internalParameters"]["machine"]["container"] = {
        "image": {"id": f"sha256:{'1' * 64}", "layers": "2" * 64, "labels": labels},
        "engine": {"name": "docker", "version": "29.0"},
        "graphics": None,
    }
    definition(statement)["resolvedDependencies"] += [
        {
            "name": "image",
            "digest": {"sha256": "1" * 64},
            "annotations": {"layers_sha256": "2" * 64, "labels": dict(labels)},
        },
        {
            "name": "image/base",
            "digest": {"sha256": base.removeprefix("sha256:")},
            "uri": f"oci:{labels[image_labels.BASE_NAME]}",
        },
    ]
    for step in pipeline.STEPS:
        if step.name not in {"fetch", "attest"}:
            record(statement, step.name)["system"].update(base=base, snapshot=snapshot)
    retell(statement)


def without_errors(statement):
    """Takes the errors of the quantization out, as in a build that was not verified."""
    details = statement["predicate"]["runDetails"]
    name = f"{PROVENANCE}/{names.ERRORS}"
    details["byproducts"] = [one for one in details["byproducts"] if one["name"] != name]


def retell(statement):
    """Makes needs, keys and digests of the steps' records agree with their outputs."""
    byproducts = statement["predicate"]["runDetails"]["byproducts"]
    records = {
        one["name"].removeprefix("step/"): one["annotations"]
        for one in byproducts
        if one["name"].startswith("step/")
    }
    outputs = {name: made["outputs"] for name, made in records.items()}
    for step in pipeline.STEPS:
        if step.name in records:
            records[step.name]["needs"] = step.reads_of(outputs)
    rekey(statement)


def rekey(statement):
    """Makes keys and digests of the steps' records agree with what is in them."""
    for one in statement["predicate"]["runDetails"]["byproducts"]:
        if one["name"].startswith("step/"):
            made = one["annotations"]
            facts = ("parameters", "needs", "code", "distributions", "system")
            name = one["name"].removeprefix("step/")
            made["key"] = pipeline.key_of(name, {fact: made[fact] for fact in facts})
    redigest(statement)


def redigest(statement):
    """Makes the digests of the steps' records agree with them."""
    for one in statement["predicate"]["runDetails"]["byproducts"]:
        if one["name"].startswith("step/"):
            one["digest"] = {"sha256": canonical.sha256_text(canonical.dumps(one["annotations"]))}


def envelope(value):
    return value["dsseEnvelope"]


def encoded(data):
    return base64.b64encode(data).decode()
