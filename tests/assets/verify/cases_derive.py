"""Releases that contradict themselves, signed with the publisher's own key.

Whoever signs them has made everything else agree: keys of the steps, digests of their records and
what they read of each other. What is left is what each case is about.
"""

import datetime

from assets.verify.bench import (
    BODY,
    byproduct,
    definition,
    dependency,
    details,
    record,
    redigest,
    rekey,
    retell,
)
from assets.verify.table import add, case, edited

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
    ("no_such_day", "dress", lambda m: m.update(started="2026-02-30T00:00:00+00:00"), "is not"),
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


@edited("which is yet to come")
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


def in_image(statement):
    details(statement)["builder"]["id"] = "urn:hallmark:builder:rehearsal:image"


@edited("fetched_from: base is 'local'; a real build takes it from mirror or hub")
def resigned_real_build_of_a_local_base(statement):
    real(statement)


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
    ("base_file_that_no_glob_takes", base_file_of_no_glob, "none of the files that the recipe"),
    ("base_pickle", pickled_base, "base/x.safetensors.bin: is none of the files"),
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
    in_image(statement)


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
