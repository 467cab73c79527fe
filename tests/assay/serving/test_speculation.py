"""What is counted of MTP, what passes, and which differences between two texts are ties."""

import json
import threading

import pytest
from conftest import of_few

from assay.serving.client import Sample
from assay.serving.speculation import Handover, Speculation, speculation
from assay.serving.texts import Completion, Writer, compare
from forge.manifest import verification
from forge.manifest.probe_figures import Timed
from forge.manifest.served_figures import Greedy
from forge.manifest.verification import UnmeasuredError
from forge.recipes import recipe

THREE = recipe.find("qwen36-27b-text-mtp")


def with_floor(*floor):
    """A recipe that demands these rates of as many positions."""
    serve = THREE.serve.model_copy(
        update={"speculative_tokens": len(floor), "acceptance_floor": floor}
    )
    return THREE.model_copy(update={"serve": serve})


def test_counters_are_summed_over_engines_and_differ_from_before():
    def samples(drafts, first, second):
        prefix = "vllm:spec_decode_num_"
        position = "accepted_tokens_per_pos_total"
        return [
            Sample(prefix + "drafts_total", {"engine": "0"}, drafts - 1.0),
            Sample(prefix + "drafts_total", {"engine": "1"}, 1.0),
            Sample(prefix + "draft_tokens_total", {"engine": "0"}, 2.0 * drafts),
            Sample(prefix + position, {"position": "1"}, second),
            Sample(prefix + position, {"position": "0"}, first),
            Sample(prefix + "drafts_created", {"engine": "0"}, 1.7e9),
            Sample("vllm:num_requests_running", {}, 3.0),
        ]

    before, after = speculation(samples(10, 9, 5)), speculation(samples(210, 159, 85))
    assert after.since(before) == Speculation(drafts=200, drafted=400, accepted=(150, 80))


@pytest.mark.parametrize(
    ("counted", "passed"),
    [
        (Speculation(drafts=200, drafted=400, accepted=(120, 80)), True),
        (Speculation(drafts=200, drafted=400, accepted=(119, 80)), False),
        (Speculation(drafts=200, drafted=400, accepted=(120, 79)), False),
        (Speculation(drafts=400, drafted=400, accepted=(390,)), False),
        (Speculation(drafts=200, drafted=400, accepted=(120, 130)), False),  # after what was not
        (Speculation(drafts=200, drafted=400, accepted=(201, 80)), False),
        (Speculation(drafts=200, drafted=100, accepted=(120, 80)), False),
        (Speculation(drafts=200, drafted=401, accepted=(120, 80)), False),
        (Speculation(drafts=99, drafted=198, accepted=(99, 99)), False),
        (Speculation(drafts=0, drafted=0, accepted=(0, 0)), False),
        (Speculation(drafts=0, drafted=0, accepted=()), False),
    ],
)
def test_each_position_has_its_floor(counted, passed):
    check = verification.check("smoke.mtp", with_floor(0.6, 0.4), lambda: counted.figures)
    assert check.passed is passed


def text(*tokens, gap=0.1):
    """A greedy text; at every position token 9 is `gap` behind, all others are out of sight."""
    return Completion(
        prompt=(1,), tokens=tokens, logprobs=tuple({t: -1.0, 9: -1 - gap} for t in tokens)
    )


def compared(drafted, plain, noise):
    return verification.check(
        "smoke.greedy_identical",
        of_few(THREE),
        lambda: compare(Greedy, drafted, plain, noise=noise),
    )


@pytest.mark.parametrize(
    ("drafted", "plain", "noise", "passed"),
    [
        ([text(1, 2, 3)], [text(1, 2, 3)], 0.0, True),
        ([text(1, 9, 5)], [text(1, 2, 3, gap=0.2)], 0.0, True),  # two steps of BF16
        ([text(1, 9, 5)], [text(1, 2, 3, gap=0.4)], 0.0, False),
        ([text(1, 9, 5)], [text(1, 2, 3, gap=0.4)], 0.2, True),  # the engine is that noisy
        ([text(1, 9, 5)], [text(1, 2, 3, gap=0.4)], 0.19, False),
        ([text(1, 9, 5)], [text(1, 2, 3, gap=1.5)], 2.0, False),  # no noise excuses this
        ([text(1, 7, 5)], [text(1, 2, 3)], 0.0, False),  # not among the likeliest
        ([text(1, 2)], [text(1, 2, 3)], 0.0, False),
        ([text()], [text()], 0.0, False),
    ],
)
def test_texts_differ_only_at_ties(drafted, plain, noise, passed):
    check = compared(drafted, plain, noise)
    assert check.passed is passed
    json.dumps(check.as_json(), allow_nan=False)


def test_the_first_difference_is_where_the_gap_is_taken():
    found = compare(Greedy, [text(1, 9, 5)], [text(1, 2, 3, gap=0.2)], noise=0.0)
    assert found.as_json()["differences"] == ({"prompt": 0, "position": 1, "gap": 0.2},)
    assert found.identical == 0
    assert found.tokens_before_difference == 1


def test_the_server_with_mtp_is_timed_when_it_is_idle():
    """Texts are there at once, the time when it has answered all else."""
    left, busy = Handover(), threading.Event()
    left.leave([text(1)], lambda: Timed(tokens=1, seconds=1.0 if busy.is_set() else 9.0))
    assert left.texts() == [text(1)]
    threading.Timer(0.1, lambda: (busy.set(), left.end())).start()
    assert left.timed() == Timed(tokens=1, seconds=1.0)


def test_what_was_not_left_does_not_come():
    left = Handover()
    left.end()
    for take in (left.texts, left.timed):
        with pytest.raises(UnmeasuredError, match="there is no text with MTP"):
            take()


class Reads:
    """A server that writes token 1 for ever, and reads it as less likely by so much."""

    def __init__(self, far):
        self.far = far

    def tokenize(self, _):
        return [5, 6, 7]

    def completion(self, prompt, *, max_tokens, prompt_logprobs=None, **_):
        prompt = prompt if isinstance(prompt, list) else [5]
        top = [{"token_id:1": -1.0}] * max_tokens
        row = {"1": {"logprob": -1.0 - self.far(len(prompt))}, "2": {"logprob": -1.0}}
        choice = {
            "prompt_token_ids": prompt,
            "token_ids": [1] * max_tokens,
            "logprobs": {"top_logprobs": top},
            "prompt_logprobs": prompt_logprobs and [row] * len(prompt),
        }
        return {"choices": [choice]}


@pytest.mark.parametrize(
    ("far", "problem"),
    [
        (lambda _: 0.2, None),
        (lambda read: 0.2 if read <= 100 else 0.4, None),  # within twice the noise
        (lambda read: 0.2 if read <= 100 else 0.5, "by 0.5000 on average, more than 0.4000"),
        (lambda read: 0.9 if read <= 100 else 1.1, "more than 1.0000, noise 0.9000"),
    ],
)
def test_a_state_that_is_lost_between_chunks(far, problem):
    """What a chunk after the first is read as if nothing were before it."""
    writer = Writer(Reads(far), ("Once",))
    one = verification.check(
        "smoke.long_prompt", THREE, lambda: writer.long_prompt(chunk=100, longest=999)
    )
    assert one.passed is (problem is None)
    assert problem is None or problem in one.problem
    assert (one.measured.prompt, one.measured.written) == (36, 128)


def test_no_prompt_of_two_chunks():
    writer = Writer(Reads(lambda _: 0.0), ("Once",))
    with pytest.raises(UnmeasuredError, match="no prompt of 128 tokens has chunks of 100"):
        writer.long_prompt(chunk=100, longest=128)
