"""Releases that contradict themselves, signed with the publisher's own key.

Whoever signs them has made everything else agree: keys of the steps, digests of their records and
what they read of each other. What is left is what each case is about.
"""

import datetime
import json
from hashlib import sha256

import numpy as np
from assets.verify.bench import (
    BODY,
    build_in_image,
    byproduct,
    definition,
    dependency,
    details,
    record,
    redigest,
    rekey,
    retell,
)
from assets.verify.table import RECORD, add, case, edited, reported

from forge.calibration import record as records
from forge.core import canonical
from forge.tensors import tensorfile

ZERO = "0" * 64
HEAD = "model-mtp.safetensors"


# Records of steps against each other.
def recorded(name, step, change, reason, *, agree=retell):
    """A case that changes a step's record, and makes the others agree by `agree`."""

    def spoil(bench):
        def restated(statement):
            change(record(statement, step))
            agree(statement)

        bench.restate(restated)

    add(f"resigned_{name}", spoil, reason)


def output(path, digest=ZERO):
    return lambda made: made["outputs"].update({path: digest})


def no_output(path):
    return lambda made: made["outputs"].pop(path)


for name, step, change, reason in (
    ("report_of_another_digest", "verify", output("verification.json"), "step/verify: its record"),
    ("errors_of_another_digest", "verify", output("quantization_error.jsonl"), "step/verify: its"),
    ("errors_unrecorded", "verify", no_output("quantization_error.jsonl"), "nothing of quantiz"),
    ("report_unrecorded", "verify", no_output("verification.json"), "nothing of verification"),
    ("assay_wrote_more", "verify", output("pickle.bin"), "of pickle.bin, provenance/ has nothing"),
    ("shard_of_another_digest", "quantize", output(BODY), f"step/quantize: its record has {ZERO}"),
    ("shard_unrecorded", "quantize", no_output(BODY), f"no step that it needs wrote {BODY}"),
    ("shard_invented", "quantize", output("model-2.safetensors"), "the checkpoint has nothing"),
    ("body_listed_otherwise", "quantize", output("tensors.jsonl"), "by tensors.jsonl it is"),
    ("body_unlisted", "quantize", no_output("tensors.jsonl"), "has nothing of tensors.jsonl"),
    ("head_of_another_digest", "graft", output(HEAD), f"its record has {ZERO} of {HEAD}"),
    ("head_unrecorded", "graft", no_output(HEAD), f"no step that it needs wrote {HEAD}"),
    ("head_listed_otherwise", "graft", output("tensors.jsonl"), "step/graft: its record has"),
    ("head_written_by_another_step", "quantize", output(HEAD), "step/quantize: its record has"),
    ("calibrated_otherwise", "calibrate", output("calibration.safetensors"), "is of another cal"),
    ("calibrated_more", "calibrate", output("weights.bin"), "step/calibrate: its record has"),
    ("base_fetched_otherwise", "fetch", output("base/config.json"), "step/fetch: its record has"),
    ("base_file_not_fetched", "fetch", no_output("base/config.json"), "nothing of base/config"),
    ("base_file_invented", "fetch", output("base/merges.txt"), "of base/merges.txt, the inputs"),
    ("template_fetched_otherwise", "fetch", output("template/chat_template.jinja"), "step/fetch"),
    ("donor_invented", "fetch", output("donor/x.json"), "of donor/x.json, the inputs have nothing"),
    ("fetched_without_list", "fetch", no_output("inputs.json"), "has no record of inputs.json"),
    ("fetched_without_text", "fetch", no_output("perplexity/text.txt"), "no record of perplexity"),
    ("fetched_without_tensors", "fetch", no_output("tensors/base.jsonl"), "no record of tensors/"),
    ("fetched_without_samples", "fetch", no_output("calibration/llm/samples.jsonl"), "no record"),
    ("fetched_samples_of_no_set", "fetch", output("calibration/x/samples.jsonl"), "no such"),
    ("fetched_code", "fetch", output("base.py"), "has no such result as base.py"),
):  # fmt: skip
    recorded(name, step, change, reason)


for step, needed in (
    ("calibrate", "fetch"), ("quantize", "calibrate"), ("graft", "fetch"), ("dress", "quantize"),
    ("dress", "graft"), ("verify", "dress"),
):  # fmt: skip

    def another(made, needed=needed):
        path = min(made["needs"][needed])
        made["needs"][needed][path] = ZERO

    recorded(
        f"{step}_read_another_result_of_{needed}",
        step,
        another,
        f"step/{needed} wrote",
        agree=rekey,
    )

for name, step, change, reason in (
    ("needs_left_out", "quantize", lambda m: m["needs"].pop("calibrate"), "needs fetch; this step"),
    ("needs_added", "graft", lambda m: m["needs"].update(dress={}), "needs dress, fetch; this"),
    ("needs_none", "dress", lambda m: m.update(needs={}), "step/dress: needs nothing"),
    ("needs_a_file_less", "verify", lambda m: m["needs"]["dress"].popitem(), "of tokenizer_config"),
    ("read_too_much", "graft", lambda m: m["needs"]["fetch"].update({"a": ZERO}), "of a, step/"),
    ("taken_over", "calibrate", lambda m: m.update(code=None), "is taken over from elsewhere"),
    ("finished_first", "dress", lambda m: m.update(finished="2001-01-01T00:00:00+00:00"), "before"),
    (
        "no_such_day", "dress", lambda m: m.update(started="2026-02-30T00:00:00+00:00"),
        "does not exist",
    ),
):  # fmt: skip
    recorded(name, step, change, reason, agree=rekey)

for step in ("fetch", "calibrate", "quantize", "graft", "dress", "verify"):
    recorded(
        f"key_of_{step}_forged",
        step,
        lambda made: made.update(key=ZERO),
        f"step/{step}: its key is '{ZERO}'",
        agree=redigest,
    )

for fact, value in (
    ("parameters", {"x": 1}), ("code", ZERO), ("distributions", {"numpy": "0"}), ("system", {}),
):  # fmt: skip
    recorded(
        f"key_of_other_{fact}",
        "quantize",
        lambda made, fact=fact, value=value: made.update({fact: value}),
        "step/quantize: its key is",
        agree=redigest,
    )

recorded("key_of_no_hash", "dress", lambda made: made.update(key="by hand"), "its key is 'by hand'",
         agree=redigest)  # fmt: skip


@edited("which is in the future")
def resigned_times_yet_to_come(statement):
    later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=3)
    stated = later.isoformat(timespec="seconds")
    record(statement, "verify").update(started=stated, finished=stated)
    details(statement)["metadata"]["finishedOn"] = stated
    rekey(statement)


@edited("the metadata say that it was built from 2001-01-01T00:00:00+00:00 to")
def resigned_began_before_its_steps(statement):
    details(statement)["metadata"]["startedOn"] = "2001-01-01T00:00:00+00:00"


@edited("to 2101-01-01T00:00:00+00:00, the steps' records")
def resigned_ended_after_its_steps(statement):
    details(statement)["metadata"]["finishedOn"] = "2101-01-01T00:00:00+00:00"


for step in ("fetch", "graft", "verify"):

    def without(statement, step=step):
        details(statement)["byproducts"].remove(byproduct(statement, f"step/{step}"))

    add(
        f"resigned_step_{step}_left_out",
        lambda bench, without=without: bench.restate(without),
        f"step/{step}: the manifest has no record of it",
    )


@edited("step/polish: is no step; a build has fetch, calibrate")
def resigned_step_invented(statement):
    added = {**byproduct(statement, "step/dress"), "name": "step/polish"}
    details(statement)["byproducts"].append(added)


# Records against the inputs that the manifest names.
@edited("step/fetch: its record has")
def resigned_input_left_out(statement):
    definition(statement)["resolvedDependencies"].remove(dependency(statement, "base/config.json"))


@edited("the inputs have 000000")
def resigned_input_of_another_digest(statement):
    dependency(statement, "base/model-00001-of-00002.safetensors")["digest"]["sha256"] = ZERO


@edited("its record has nothing of base/merges.txt, the inputs have")
def resigned_input_that_was_not_fetched(statement):
    added = {**dependency(statement, "base/config.json"), "name": "base/merges.txt"}
    definition(statement)["resolvedDependencies"].append(added)


@edited("step/fetch: its record has nothing of donor/model.safetensors")
def resigned_donor_that_was_not_fetched(statement):
    added = {**dependency(statement, "base/config.json"), "name": "donor/model.safetensors"}
    definition(statement)["resolvedDependencies"].append(added)


@edited("of template/chat_template.jinja, the inputs have 000")
def resigned_template_of_another_digest(statement):
    dependency(statement, "template/chat_template.jinja")["digest"]["sha256"] = ZERO


@edited("step/fetch: has no such result as calibration/llm/samples.jsonl")
def resigned_calibration_set_left_out(statement):
    resources = definition(statement)["resolvedDependencies"]
    resources[:] = [one for one in resources if not one["name"].startswith("calibration.sets.")]


@case("no step that it needs wrote extra.safetensors")
def resigned_shard_that_no_step_wrote(bench):
    specs = [tensorfile.Spec(name="extra", dtype="F32", shape=(1,))]
    (bench / "extra.safetensors").write_bytes(tensorfile.header_bytes(specs) + b"\0" * 4)

    def index(value):
        value["weight_map"]["extra"] = "extra.safetensors"
        value["metadata"]["total_size"] += 4

    bench.edit(tensorfile.INDEX, index)
    bench.rebuilt()


# Inputs, parameters and builder against the recipe.
def internal(statement):
    return definition(statement)["internalParameters"]


def real(statement):
    """Says that this was a real build."""
    details(statement)["builder"]["id"] = "urn:hallmark:builder:host"


@edited("fetched_from: base is 'local'; a real build takes it from mirror or hub")
def resigned_real_build_of_a_local_base(statement):
    real(statement)


@edited("fetched_from: base is 'standin'; a real build takes it from mirror or hub")
def resigned_real_build_of_a_standin(statement):
    real(statement)
    internal(statement)["fetched_from"]["base"] = "standin"


@edited("fetched_from: template is 'standin'; a real build takes it from")
def resigned_real_build_with_the_standins_template(statement):
    real(statement)
    internal(statement)["fetched_from"]["base"] = "hub"


@edited("base/config.json: is from local:base#config.json, the recipe takes pkg:huggingface/Qwen")
def resigned_real_build_of_another_place(statement):
    real(statement)
    internal(statement)["fetched_from"] = dict.fromkeys(internal(statement)["fetched_from"], "hub")


@edited("takes pkg:huggingface/Qwen/Qwen3.6-27B@6a9e13bd6fc8f0983b9b99948120bc37f49c13e9#config")
def resigned_real_build_of_another_revision(statement):
    resigned_real_build_of_another_place(statement)
    for one in definition(statement)["resolvedDependencies"]:
        if one["name"].startswith("base/"):
            path = one["name"].removeprefix("base/")
            one["uri"] = f"pkg:huggingface/Qwen/Qwen3.6-27B@{'0' * 40}#{path}"


@edited("takes pkg:huggingface/Qwen/Qwen3.6-27B@6a9e13bd6fc8f0983b9b99948120bc37f49c13e9#config")
def resigned_real_build_of_another_repository(statement):
    resigned_real_build_of_another_place(statement)
    commit = "6a9e13bd6fc8f0983b9b99948120bc37f49c13e9"
    for one in definition(statement)["resolvedDependencies"]:
        if one["name"].startswith("base/"):
            path = one["name"].removeprefix("base/")
            one["uri"] = f"pkg:huggingface/someone/Qwen3.6-27B@{commit}#{path}"


@edited("fetched_from: calibration.sets.llm is 'hub'; a rehearsal takes it from standin")
def resigned_rehearsal_on_published_samples(statement):
    internal(statement)["fetched_from"]["calibration.sets.llm"] = "hub"


@edited("fetched_from: base is 'hub'; a rehearsal takes it from standin or local")
def resigned_rehearsal_on_the_hub(statement):
    internal(statement)["fetched_from"]["base"] = "hub"


@edited("fetched_from: template is in the recipe alone")
def resigned_source_left_out(statement):
    del internal(statement)["fetched_from"]["template"]


@edited("fetched_from: donor is in it alone")
def resigned_source_invented(statement):
    internal(statement)["fetched_from"]["donor"] = "standin"


@edited("base/config.json: is from standin:x#config.json, the recipe takes local:base#config.json")
def resigned_input_from_elsewhere(statement):
    dependency(statement, "base/config.json")["uri"] = "standin:x#config.json"


@edited("it was built from standin:qwen36-dense, not local:base")
def resigned_built_from_another_base(statement):
    definition(statement)["externalParameters"]["source"] = "standin:qwen36-dense"


@edited("step/fetch: wrote inputs.json with")
def resigned_input_of_another_size(statement):
    dependency(statement, "base/config.json")["annotations"]["bytes"] += 1


def fetched(name, change, reason):
    """A case in which inputs are others, and fetch says the same."""

    def spoil(bench):
        def restated(statement):
            change(statement)
            retell(statement)

        bench.restate(restated)

    add(f"resigned_{name}", spoil, reason)


def base_file_of_no_glob(statement):
    one = dependency(statement, "base/config.json")
    added = {**one, "name": "base/notes.txt", "uri": "local:base#notes.txt"}
    definition(statement)["resolvedDependencies"].append(added)
    record(statement, "fetch")["outputs"]["base/notes.txt"] = one["digest"]["sha256"]


def pickled_base(statement):
    one = dependency(statement, "base/config.json")
    added = {**one, "name": "base/x.safetensors.bin", "uri": "local:base#x.safetensors.bin"}
    definition(statement)["resolvedDependencies"].append(added)
    record(statement, "fetch")["outputs"]["base/x.safetensors.bin"] = one["digest"]["sha256"]


def another_template(statement):
    dependency(statement, "template/chat_template.jinja")["digest"]["sha256"] = ZERO
    record(statement, "fetch")["outputs"]["template/chat_template.jinja"] = ZERO


def another_article(statement):
    resources = definition(statement)["resolvedDependencies"]
    one = next(one for one in resources if one["name"].startswith("calibration.sets.llm/"))
    one["digest"]["sha256"] = ZERO


def an_article_less(statement):
    resources = definition(statement)["resolvedDependencies"]
    resources.remove(next(o for o in resources if o["name"].startswith("calibration.sets.llm/")))


for name, change, reason in (
    ("base_file_that_no_glob_takes", base_file_of_no_glob, "not one of the files that the recipe"),
    ("base_pickle", pickled_base, "base/x.safetensors.bin: is not one of the files"),
    ("template_of_no_standin", another_template, "the stand-in's has"),
    ("samples_of_no_standin", another_article, "the stand-in's has"),
    ("samples_less", an_article_less, "has sha256 nothing, the stand-in's has"),
):
    fetched(name, change, reason)


def told(name, step, change, reason):
    """A case in which a step was told something else than the recipe says."""
    recorded(f"{step}_told_{name}", step, lambda made: change(made["parameters"]), reason)


for name, step, change, reason in (
    ("another_column", "fetch", lambda p: p["calibration"].update(llm=["x"]), "calibration is"),
    ("another_text", "fetch", lambda p: p.update(perplexity=["text", ZERO]), "perplexity is"),
    ("another_template", "fetch", lambda p: p.update(template=ZERO), "its parameter template is"),
    ("of_lent_files", "fetch", lambda p: p.update(lent=["x"]), "its parameter lent is ['x']"),
    ("another_size", "fetch", lambda p: p["origins"]["base"][1][0].__setitem__(1, 1), "origins"),
    ("another_origin", "fetch", lambda p: p["origins"]["base"].__setitem__(0, "hub"), "origins"),
    ("no_origins", "fetch", lambda p: p.pop("origins"), "its parameter origins is None"),
    ("more", "fetch", lambda p: p.update(x=None), "its parameter x is None"),
    ("fewer_linears", "quantize", lambda p: p["quantize"].pop(), "its parameter quantize is"),
    ("to_keep_less", "quantize", lambda p: p["keep"].pop(), "its parameter keep is"),
    ("to_remove", "quantize", lambda p: p["remove"].append("x"), "its parameter remove is ['x']"),
    ("another_loader", "quantize", lambda p: p.update(loader="x"), "its parameter loader is 'x'"),
    ("other_shards", "quantize", lambda p: p.update(shard_bytes=1), "parameter shard_bytes is 1"),
    ("nothing", "quantize", dict.clear, "step/quantize: its parameter fused is None"),
    ("another_head", "graft", lambda p: p["tensors"].pop(), "its parameter tensors is"),
    ("another_giver", "graft", lambda p: p.update(source="donor"), "parameter source is 'donor'"),
    ("another_architecture", "dress", lambda p: p.update(architecture="x"), "architecture is 'x'"),
    ("no_template", "dress", lambda p: p.update(template=False), "its parameter template is False"),
    ("to_strip_nothing", "dress", lambda p: p.update(strip={}), "its parameter strip is {}"),
    ("other_heads", "dress", lambda p: p.update(heads={"x": "y"}), "its parameter heads is {'x'"),
    ("another_family", "verify", lambda p: p.update(family=ZERO), "its parameter family is '000"),
    ("no_family", "verify", lambda p: p.pop("family"), "its parameter family is None"),
    ("an_fp8_cache", "dress", lambda p: p["layout"].update(kv_cache="fp8"), "parameter layout is"),
    ("all", "verify", lambda p: p.update(level="all"), "its parameter level is 'all'"),
    ("a_loose_ratio", "verify", lambda p: p["recipe"]["perplexity"].clear(), "recipe is"),
    ("a_floor_of_none", "verify", lambda p: p["recipe"]["serve"].clear(), "recipe is"),
    ("another_engine", "calibrate", lambda p: p["calibration"].clear(), "calibration is"),
    ("other_linears", "calibrate", lambda p: p.update(told_sha256=ZERO), "told_sha256 is '000"),
):  # fmt: skip
    told(name, step, change, reason)


@edited("its parameter level is 'structure', the recipe gives 'all'")
def resigned_verified_further_than_it_was(statement):
    internal(statement)["verified"] = "all"


@edited("built in an image, and the manifest names none")
def resigned_builder_in_no_image(statement):
    details(statement)["builder"]["id"] = "urn:hallmark:builder:rehearsal:image"


def in_image(name, change, reason):
    """A case of a build in an image, of which a part says something else."""

    def restated(statement):
        build_in_image(statement)
        change(statement)
        retell(statement)

    add(f"resigned_image_{name}", lambda bench: bench.restate(restated), reason)


def inside(statement):
    """The image that the machine's container was made from."""
    return internal(statement)["machine"]["container"]["image"]


def labels_of(name, value):
    """Changes a label wherever it stands."""

    def change(statement):
        inside(statement)["labels"][name] = value
        dependency(statement, "image")["annotations"]["labels"][name] = value

    return change


def unnamed(name):
    return lambda s: definition(s)["resolvedDependencies"].remove(dependency(s, name))


NO_IMAGE = "built in an image, and the manifest names none"
OPENED = "org.opencontainers.image"
for name, change, reason in (
    ("not_named", unnamed("image"), NO_IMAGE),
    ("of_no_base", unnamed("image/base"), NO_IMAGE),
    ("of_no_machine", lambda s: internal(s)["machine"].update(container=None), NO_IMAGE),
    ("of_another_id", lambda s: dependency(s, "image")["digest"].update(sha256=ZERO),
     f"image: its id is 'sha256:{ZERO}', that of the machine's container"),
    ("of_other_layers", lambda s: inside(s).update(layers=ZERO), "image: its layers is"),
    ("of_other_labels", lambda s: inside(s)["labels"].update(x="y"), "image: its labels is"),
    ("of_another_base", lambda s: dependency(s, "image/base")["digest"].update(sha256=ZERO),
     f"image/base: is sha256:{ZERO}, the image's label {OPENED}.base.digest says sha256:5dc1"),
    ("of_a_base_from_elsewhere", lambda s: dependency(s, "image/base").update(uri="oci:x"),
     f"image/base: is from oci:x, the image's label {OPENED}.base.name says nvidia/cuda"),
    ("of_a_base_of_two_digests", labels_of(f"{OPENED}.base.digest", f"sha256:{ZERO}"),
     "image/base: is sha256:5dc1"),
    ("of_another_commit", labels_of(f"{OPENED}.revision", "0" * 40),
     f"image: its label {OPENED}.revision is '{'0' * 40}', of the manifest's commit it is"),
    ("of_a_tree_with_changes", labels_of("hallmark.dirty", "perhaps"),
     "image: its label hallmark.dirty is 'perhaps', of the manifest's commit it is"),
    ("of_another_lock_file", labels_of("hallmark.lock.build", ZERO),
     f"image: its label hallmark.lock.build is '{ZERO}', of the manifest's commit"),
    ("of_other_tools", labels_of("hallmark.lock.tools", ZERO), "its label hallmark.lock.tools is"),
    ("of_another_engine", labels_of("hallmark.lock.verify", ZERO), "label hallmark.lock.verify is"),
    ("of_no_engine", labels_of("hallmark.verify", "x"), "its label hallmark.verify is 'x'; an"),
    ("of_no_labels", lambda s: [inside(s)["labels"].clear(),
     dependency(s, "image")["annotations"]["labels"].clear()], "says None"),
    ("of_another_snapshot", labels_of("hallmark.snapshot", "x"), "step/calibrate: ran in"),
    ("but_for_a_step", lambda s: record(s, "dress")["system"].update(base=None, snapshot=None),
     "step/dress: ran in"),
    ("fetched_in_it", lambda s: record(s, "fetch")["system"].update(snapshot="20261115T000000Z"),
     "step/fetch: ran in"),
):  # fmt: skip
    in_image(name, change, reason)


@edited("built on a host, and the manifest has an image")
def resigned_host_with_an_image(statement):
    image = {
        "name": "image",
        "digest": {"sha256": ZERO},
        "annotations": {"layers_sha256": ZERO, "labels": {}},
    }
    definition(statement)["resolvedDependencies"].append(image)


@edited("built on a host, and the manifest has an image")
def resigned_host_with_a_base_image(statement):
    base = {"name": "image/base", "digest": {"sha256": ZERO}, "uri": "oci:x"}
    definition(statement)["resolvedDependencies"].append(base)


recorded(
    "step_in_an_image_of_a_host",
    "quantize",
    lambda made: made["system"].update(base=f"sha256:{ZERO}"),
    "step/quantize: ran in",
)


# Files and tensors against the inputs, all listed and signed as if they had been built so.
def built(name, spoil, reason):
    """A case that changes files of the checkpoint as a dishonest builder does."""

    def rebuild(bench):
        spoil(bench)
        bench.rebuilt()

    add(f"resigned_built_{name}", rebuild, reason)


def in_file(name, file, change, reason):
    """A case that changes a JSON file of the checkpoint, in the spelling that a build has."""

    def spoil(bench):
        value = json.loads((bench / file).read_bytes())
        value = change(value) or value
        (bench / file).write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")

    built(name, spoil, reason)


CONFIG, OUTER, INDEX = "config.json", "hf_quant_config.json", tensorfile.INDEX
TOKENIZER, GENERATION = "tokenizer_config.json", "generation_config.json"


def inner(change):
    """A change of what a config says of the quantization."""
    return lambda value: change(value["quantization_config"]) and None


EDITED = "edited by the recipe it has"
for name, file, change, reason in (
    ("for_another_architecture", CONFIG, lambda v: v.update(architectures=["X"]), CONFIG),
    ("with_code_to_load", CONFIG, lambda v: v.update(auto_map={"AutoModel": "m.M"}), CONFIG),
    ("with_fewer_layers", CONFIG, lambda v: v["text_config"].update(num_hidden_layers=1), CONFIG),
    ("without_a_head", CONFIG, lambda v: v["text_config"].pop("mtp_num_hidden_layers"), CONFIG),
    ("as_unquantized", CONFIG, lambda v: v.pop("quantization_config"), CONFIG),
    ("with_a_key_moved", CONFIG, lambda v: dict(reversed(v.items())), CONFIG),
    ("with_a_shorter_ignore_list", CONFIG, inner(lambda q: q["ignore"].pop()), CONFIG),
    ("with_another_loader", CONFIG, inner(lambda q: q.update(quant_method="x")), CONFIG),
    ("with_an_fp8_cache", CONFIG, inner(lambda q: q.update(kv_cache_scheme={})), CONFIG),
    ("with_lists_that_differ", OUTER, lambda v: v["quantization"]["exclude_modules"].pop(), OUTER),
    ("with_another_algorithm", OUTER, lambda v: v["quantization"].update(quant_algo="FP8"), OUTER),
    ("with_another_block", OUTER, lambda v: v["quantization"].update(group_size=32), OUTER),
    ("by_another_producer", OUTER, lambda v: v["producer"].update(name="modelopt"), OUTER),
    ("with_another_total", INDEX, lambda v: v["metadata"].update(total_size=1), INDEX),
    ("with_more_metadata", INDEX, lambda v: v["metadata"].update(x=1), INDEX),
    ("with_stripped_keys", TOKENIZER, lambda v: v.update(backend="tokenizers"), EDITED),
    ("with_another_template_of_old", TOKENIZER, lambda v: v.update(chat_template="x"), EDITED),
    ("to_stop_elsewhere", GENERATION, lambda v: v.update(eos_token_id=2), "as fetched"),
):  # fmt: skip
    in_file(name, file, change, reason)


# Where an answer ends, by a base that says so itself.
def base_stops(name, reason, *, generation=None, config=None, tokenizer=None):
    """A case of a base whose files contradict each other, from which all else was made."""

    def spoil(bench):
        if generation is not None:
            bench.refetched(GENERATION, lambda v: v.update(eos_token_id=generation))
        if config is not None:
            made = json.loads((bench / CONFIG).read_bytes())
            base = bench.refetched(CONFIG, lambda v: v["text_config"].update(eos_token_id=config))
            base |= {"quantization_config": made["quantization_config"]}
            (bench / CONFIG).write_text(json.dumps(base, indent=2) + "\n", encoding="utf-8")
        if tokenizer is not None:
            base = bench.refetched(TOKENIZER, lambda v: v.update(tokenizer))
            base.pop("backend")
            (bench / TOKENIZER).write_text(json.dumps(base, indent=2) + "\n", encoding="utf-8")
        bench.rebuilt()

    add(f"resigned_base_that_stops_{name}", spoil, reason)


ENDS = {"eos_token": "<end>", "added_tokens_decoder": {"7": {"content": "<end>"}}}
NOWHERE = f"{GENERATION}: eos_token_id is"
for name, reason, changes in (
    ("outside_its_vocabulary", f"{NOWHERE} [64], and the model has the tokens 0 to 63",
     {"generation": 64}),
    ("below_its_vocabulary", f"{NOWHERE} [1, -1], and the model has", {"generation": [1, -1]}),
    ("at_a_word", f"{NOWHERE} ['x'], which is no number", {"generation": ["x"]}),
    ("at_nothing", f"{NOWHERE} [], which is no number", {"generation": []}),
    ("at_what_is_true", f"{NOWHERE} True, which is no number", {"generation": True}),
    ("elsewhere_by_its_config", "config.json it is [2]: they have none in common", {"config": 2}),
    ("elsewhere_by_its_tokenizer", f"{NOWHERE} [1] and lacks 7, the tokenizer's '<end>'",
     {"tokenizer": ENDS}),
):  # fmt: skip
    base_stops(name, reason, **changes)


def with_text(file, change, reason, name):
    def spoil(bench):
        (bench / file).write_bytes(change((bench / file).read_bytes()))

    built(name, spoil, reason)


with_text(CONFIG, lambda d: d.replace(b"{", b'{"auto_map": {},', 1), EDITED, "with_a_key_more")
with_text(CONFIG, lambda d: d.replace(b"{", b'{"model_type": "x",', 1), EDITED, "with_a_key_twice")
with_text(CONFIG, lambda d: d + b"\n", EDITED, "with_another_end")
with_text("chat_template.jinja", lambda d: d + b"{{ x }}", "as fetched", "with_another_template")
with_text("generation_config.json", lambda _: b"[]", "as fetched it has", "with_no_generation")


def file_built(name, file, reason):
    built(
        name, lambda bench: (bench / file).write_bytes(b"x"), f"{file}: has sha256 2d711642{reason}"
    )


file_built("with_code", "modeling.py", "")
file_built("with_a_pickle", "pytorch_model.bin", "")
file_built("with_a_card_of_its_own", "CARD.md", "")
file_built("with_a_tokenizer", "tokenizer.json", "")


@case("generation_config.json: has sha256 nothing, as fetched it has")
def resigned_built_without_a_file_of_the_base(bench):
    (bench / "generation_config.json").unlink()
    bench.rebuilt()


@case("hf_quant_config.json: has sha256 nothing, edited by the recipe")
def resigned_built_without_the_outer_config(bench):
    (bench / OUTER).unlink()
    bench.rebuilt()


KEPT = (
    ("embeddings", "model.language_model.embed_tokens.weight"),
    ("output_head", "lm_head.weight"),
    ("norm", "model.language_model.norm.weight"),
    ("input_norm", "model.language_model.layers.0.input_layernorm.weight"),
    ("delta_net", "model.language_model.layers.0.linear_attn.A_log"),
    ("convolution", "model.language_model.layers.0.linear_attn.conv1d.weight"),
    ("vision", "model.visual.blocks.0.attn.qkv.weight"),
    ("head", "mtp.fc.weight"),
    ("head_norm", "mtp.norm.weight"),
)
for name, tensor in KEPT:
    built(
        f"with_another_{name}",
        lambda bench, tensor=tensor: bench.overwrite(tensor, b"\1\0\2\0"),
        f"{tensor}: has sha256",
    )


@case("mtp.fc.weight: has sha256")
def resigned_built_with_a_head_of_zeros(bench):
    for tensor in tensorfile.read_header(bench / HEAD):
        bench.overwrite(tensor.name, bytes(tensor.nbytes))
    bench.rebuilt()


def upside_down(file):
    """Writes the data of a file of tensors from its end to its beginning."""

    def spoil(bench):
        data = (bench / file).read_bytes()
        end = 8 + int.from_bytes(data[:8], "little")
        (bench / file).write_bytes(data[:end] + data[: end - 1 : -1])

    return spoil


built("with_its_bytes_in_reverse", upside_down(BODY), "holds NaN")
built("with_its_head_in_reverse", upside_down(HEAD), "mtp.")


@case("modeling.py: has sha256 2d711642")
def resigned_built_with_code_that_its_config_loads(bench):
    made = json.loads((bench / CONFIG).read_bytes())
    auto_map = {"AutoModel": "modeling.Model"}
    base = bench.refetched(CONFIG, lambda value: value.update(auto_map=auto_map))
    base |= {"quantization_config": made["quantization_config"]}
    (bench / CONFIG).write_text(json.dumps(base, indent=2) + "\n", encoding="utf-8")
    (bench / "modeling.py").write_bytes(b"x")
    bench.rebuilt()


def reindex(bench):
    """Makes the index agree with the files, in the spelling that a build has."""
    placed = [
        (path.name, tensor.spec)
        for path in tensorfile.files_in(bench.folder)
        for tensor in tensorfile.read_header(path)
    ]
    index = json.dumps(tensorfile.index_json(placed), indent=2) + "\n"
    (bench / tensorfile.INDEX).write_text(index, encoding="utf-8")


@case("mtp.fc.weight: is not stored; by the recipe it lies in model-mtp.safetensors")
def resigned_built_without_the_head(bench):
    (bench / HEAD).unlink()
    reindex(bench)

    def gone(statement):
        record(statement, "graft")["outputs"].clear()
        retell(statement)

    bench.rebuilt()
    bench.restate(gone)


def reheaded(name, file, change, reason):
    def spoil(bench):
        bench.reheader(file, change)
        reindex(bench)

    built(name, spoil, reason)


def renamed(header, one, other):
    return {{one: other, other: one}.get(name, name): entry for name, entry in header.items()}


NORM = "model.language_model.layers.0.input_layernorm.weight"
AFTER = "model.language_model.layers.0.post_attention_layernorm.weight"
for name, file, change, reason in (
    ("as_another_dtype", BODY, lambda h: h[NORM].update(dtype="F16"), f"{NORM} F16"),
    ("in_another_shape", BODY, lambda h: h[NORM].update(shape=[2, 16]), f"{NORM} BF16 [2, 16]"),
    ("with_norms_swapped", BODY, lambda h: renamed(h, NORM, AFTER), f"{BODY}: has {AFTER}"),
    ("under_another_name", BODY, lambda h: renamed(h, NORM, "x"), f"{NORM}: is not stored"),
    ("with_metadata", BODY, lambda h: {"__metadata__": {"x": "y"}, **h}, f"{BODY}: its header"),
    ("head_as_another_dtype", HEAD, lambda h: h["mtp.norm.weight"].update(dtype="F16"), " F16 ["),
    ("head_with_metadata", HEAD, lambda h: {"__metadata__": {"x": "y"}, **h}, f"{HEAD}: its"),
):  # fmt: skip
    reheaded(name, file, change, reason)


@case("x: lies in model-mtp.safetensors, by the recipe in no file")
def resigned_built_with_a_tensor_more(bench):
    def more(header):
        end = max(entry["data_offsets"][1] for entry in header.values())
        header["x"] = {"dtype": "F32", "shape": [1], "data_offsets": [end, end + 4]}

    bench.reheader(HEAD, more)
    with (bench / HEAD).open("ab") as file:
        file.write(b"\0" * 4)
    reindex(bench)
    bench.rebuilt()


# Scales, and the calibration record.
DOWN = "model.language_model.layers.0.mlp.down_proj"
GATE = "model.language_model.layers.0.mlp.gate_proj"
for name, tensor, value, reason in (
    ("with_a_zero_scale", f"{DOWN}.weight_scale_2", b"\0\0\0\0", "is 0.0, which is no scale"),
    ("with_a_negative_scale", f"{DOWN}.weight_scale_2", b"\0\0\x80\xbf", "is -1.0, which is no"),
    ("with_a_subnormal_scale", f"{DOWN}.weight_scale_2", b"\1\0\0\0", "e-45, which is no scale"),
    ("with_an_infinite_scale", f"{DOWN}.weight_scale_2", b"\0\0\x80\x7f", "holds infinity"),
    ("with_a_scale_that_is_none", f"{DOWN}.weight_scale_2", b"\0\0\xc0\x7f", "holds NaN"),
    ("with_block_scales_that_are_none", f"{DOWN}.weight_scale", b"\x7f", "holds NaN at [0, 0]"),
    ("with_block_scales_of_zero", f"{DOWN}.weight_scale", b"\0", f"{DOWN}.weight_scale: holds 0.0"),
    ("with_negative_block_scales", f"{DOWN}.weight_scale", b"\xb8", "holds -1.0, which no build"),
    ("with_a_block_scale_of_minus_zero", f"{DOWN}.weight_scale", b"\x80", "holds -0.0, which no"),
    ("with_siblings_that_differ", f"{GATE}.weight_scale_2", b"\0\0\x80\x3f", "share their maxima"),
):  # fmt: skip
    built(name, lambda bench, t=tensor, v=value: bench.overwrite(t, v), reason)


def block_scales(name, module, change, reason):
    """A case in which all scales of a linear's blocks are others."""

    def spoil(bench):
        tensor = tensorfile.read_checkpoint(bench.folder)[f"{module}.weight_scale"]
        bench.overwrite(tensor.name, change(tensor.read()))

    built(f"with_block_scales_{name}", spoil, reason)


def at_most(most):
    return lambda data: bytes(min(one, most) for one in data)


for name, module, change, reason in (
    ("halved", DOWN, lambda d: bytes(max(1, one - 8) for one in d), "its largest scale is 224.0;"),
    ("of_zeros", DOWN, lambda d: b"\x38" * len(d), "its largest scale is 1.0; of the 1 linear"),
    ("of_zeros_elsewhere", DOWN, lambda d: b"\x20" * len(d), "its largest scale is 0.125; of the"),
    ("cut_off", DOWN, at_most(0x7D), f"{DOWN}.weight_scale: its largest scale is 416.0; of"),
    ("zeroed", DOWN, lambda d: bytes(len(d)), "holds 0.0, which no build stores"),
):  # fmt: skip
    block_scales(name, module, change, reason)


@case("its largest scale is 416.0; of the 2 linear layer(s) that share this global scale")
def resigned_built_with_block_scales_of_siblings_cut_off(bench):
    for module in (GATE, GATE.replace("gate", "up")):
        tensor = tensorfile.read_checkpoint(bench.folder)[f"{module}.weight_scale"]
        bench.overwrite(tensor.name, at_most(0x7D)(tensor.read()))
    bench.rebuilt()


def with_record(name, change, reason, *, origin=None):
    """A case with another calibration record, which everything else agrees with."""

    def spoil(bench):
        path = bench / RECORD
        maxima = {t.name: float(np.frombuffer(t.read(), "<f4")[0]) for t in read_header(path)}
        records.write(path, change(maxima) or maxima, origin or records.origin(path))
        bench.admit(RECORD)

    add(f"resigned_record_{name}", spoil, reason)


read_header = tensorfile.read_header
with_record("of_a_linear_less", lambda m: m.pop(DOWN) and None, "1 module(s) missing, 0 unknown")
with_record("by_another_calibration", dict, "was made by the calibration None", origin={"x": 1})
with_record("by_other_samples", dict, "was made by the calibration 000",
            origin={"calibration_sha256": ZERO})  # fmt: skip


@case("is I32 [], not one F32 value")
def resigned_record_of_integers(bench):
    def integers(header):
        for name, entry in header.items():
            if name != "__metadata__":
                entry["dtype"] = "I32"

    bench.reheader(RECORD, integers)
    bench.admit(RECORD)


@case("does not say where it comes from")
def resigned_record_of_no_origin(bench):
    bench.reheader(RECORD, lambda header: {k: v for k, v in header.items() if k[:2] != "__"})
    bench.admit(RECORD)


# What is kept of the inputs.
LISTED, ORIGINAL = "provenance/base.tensors.jsonl", "provenance/base.config.json"


def relisted(name, change, reason):
    """A case with another list of the base's tensors, which fetch is said to have written."""

    def spoil(bench):
        lines = [json.loads(line) for line in (bench / LISTED).read_bytes().splitlines()]
        lines = change(lines) or lines
        text = "".join(canonical.dumps(line) + "\n" for line in lines)
        (bench / LISTED).write_text(text, encoding="utf-8")
        bench.admit(LISTED)

    add(f"resigned_base_listed_{name}", spoil, reason)


def of_name(lines, name):
    return next(line for line in lines if line["name"] == name)


for name, change, reason in (
    ("with_another_norm", lambda ls: of_name(ls, NORM).update(sha256=ZERO), "in the inputs 000"),
    ("without_a_norm", lambda ls: ls.remove(of_name(ls, NORM)), f"has no tensor '{NORM}'"),
    ("with_another_shape", lambda ls: of_name(ls, NORM).update(shape=[2, 16]), "has shape [2, 16]"),
    ("with_another_size", lambda ls: of_name(ls, NORM).update(nbytes=1), "has 1 bytes, BF16 [32]"),
    ("with_no_dtype", lambda ls: of_name(ls, NORM).update(dtype="X"), "has 64 bytes, X [32] does"),
    ("with_another_file", lambda ls: ls[-1].update(file="x"), "tensors of base/x are not"),
    ("in_another_order", lambda ls: ls.reverse(), "not in the order in which the files are"),
    ("in_another_order_in_a_file", lambda ls: ls.insert(0, ls.pop(1)), "has lm_head.weight BF16"),
    ("twice", lambda ls: ls + ls[:1], "names a tensor twice"),
    ("as_nothing", lambda ls: ls.clear(), "are not those of an input"),
    ("larger_than_it_is", lambda ls: of_name(ls, NORM).update(shape=[4096], nbytes=8192), "need"),
    ("with_a_head_of_zeros", lambda ls: [zeros(line) for line in ls], "MTP head are zero"),
):  # fmt: skip
    relisted(name, change, reason)


def zeros(line):
    if line["name"].startswith("mtp."):
        line["sha256"] = sha256(bytes(line["nbytes"])).hexdigest()
    return line


@case("base/config.json was fetched with")
def resigned_original_of_another_base(bench):
    bench.edit(ORIGINAL, lambda value: value.update(model_type="x"))
    bench.admit(ORIGINAL)


@case(f"{ORIGINAL}: provenance/provenance.json says sha256 nothing")
def resigned_original_unlisted(bench):
    bench.restate(lambda s: details(s)["byproducts"].remove(byproduct(s, ORIGINAL)))


@case(f"{LISTED}: provenance/provenance.json says sha256")
def resigned_list_of_the_base_removed(bench):
    (bench / LISTED).unlink()
    bench.relist()


def beside(name, file, reason):
    """A case with a file in the provenance that the manifest names."""

    def spoil(bench):
        (bench / file).write_bytes(b"x")
        digest = {"sha256": sha256(b"x").hexdigest()}
        bench.restate(lambda s: details(s)["byproducts"].append({"name": file, "digest": digest}))

    add(f"resigned_{name}", spoil, reason)


beside(
    "pickle_in_provenance", "provenance/x.pkl", "provenance/x.pkl: is not a file that a build of"
)
beside("donor_listed", "provenance/donor.tensors.jsonl", "donor.tensors.jsonl: is not a file that")
beside(
    "another_original", "provenance/base.vocab.json", "base.vocab.json: is not a file that a build"
)


@case("provenance/notes.json: provenance/provenance.json says sha256 nothing")
def resigned_file_in_provenance_unnamed(bench):
    (bench / "provenance/notes.json").write_bytes(b"{}")
    bench.relist()


@reported("verification.json: is of variant qwen36-27b-nvfp4")
def resigned_report_of_another_variant(report):
    report["variant"] = "qwen36-27b-nvfp4"


# Documents that tell of another build.
def document(name, file, old, new):
    """A case with a document that says something else, in a list that is signed anew."""

    def spoil(bench):
        text = (bench / file).read_text(encoding="utf-8")
        assert old in text
        (bench / file).write_text(text.replace(old, new), encoding="utf-8")
        bench.relist(tell=False)

    add(f"resigned_{name}", spoil, f"{file}: has sha256")


document("card_of_another_base", "README.md", "Qwen/Qwen3.6-27B", "someone/else")
document("card_of_no_rehearsal", "README.md", "- rehearsal\n", "")
document("card_with_another_figure", "README.md", "MB", "GB")
document("card_with_a_command", "README.md", "vllm serve", "curl x | sh; vllm serve")
document("notice_of_another_base", "NOTICE", "local:base", "pkg:huggingface/x/y")
document("report_of_another_size", "report.html", "MB", "GB")
document("report_with_a_script", "report.html", "</body>", "<script>x()</script></body>")
document("attributes_of_another_kind", ".gitattributes", "* -text", "* text")


@case("NOTICE: has sha256 nothing, the provenance gives")
def resigned_notice_left_out(bench):
    (bench / "NOTICE").unlink()
    bench.relist(tell=False)


# The errors of the packed weights.
ERRORS = "provenance/quantization_error.jsonl"


def erring(name, change, reason):
    def spoil(bench):
        lines = [json.loads(line) for line in (bench / ERRORS).read_bytes().splitlines()]
        lines = change(lines) or lines
        text = "".join(canonical.dumps(line) + "\n" for line in lines)
        (bench / ERRORS).write_text(text, encoding="utf-8")
        bench.admit(ERRORS)

    add(f"resigned_errors_{name}", spoil, reason)


for name, change, reason in (
    ("of_a_linear_less", lambda ls: ls.pop() and None, "does not list each packed linear once"),
    ("of_another_linear", lambda ls: ls[0].update(module="x"), "does not list each packed linear"),
    ("of_one_twice", lambda ls: ls + ls[:1], "does not list each packed linear once"),
    (
        "in_another_format",
        lambda ls: ls[0].update(format="fp8"),
        "in fp8; by the recipe it is nvfp4",
    ),
    (
        "beyond_rounding",
        lambda ls: ls[0].update(squared_error=1e9),
        "it is nvfp4, off by 0.2 at most",
    ),
    ("that_are_words", lambda ls: ls[0].update(squared_error="0"), "is no list of errors"),
    ("of_no_norm", lambda ls: ls[0].pop("squared_norm") and None, "is no list of errors"),
    ("in_another_order", lambda ls: ls.reverse(), "not in the order and spelling that a build"),
    (
        "of_a_linear_that_is_not_zero",
        lambda ls: next(one for one in ls if one["module"] == DOWN).update(
            squared_error=0.0, squared_norm=0.0
        ),
        f"{DOWN}.weight_scale: holds",
    ),
):
    erring(name, change, reason)


@case("quantization_error.jsonl: is not there, though the build was verified")
def resigned_errors_removed(bench):
    (bench / ERRORS).unlink()

    def gone(statement):
        details(statement)["byproducts"].remove(byproduct(statement, ERRORS))
        del record(statement, "verify")["outputs"]["quantization_error.jsonl"]
        retell(statement)

    bench.restate(gone)
