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
