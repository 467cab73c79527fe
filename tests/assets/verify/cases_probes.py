"""Reports whose probes contradict the release, the recipe or themselves; signed."""

from assets.verify.cases_report import checked, figures, served, structure, without

NONE = {"layers": 0}
for name, change, reason in (
    (
        "readers_that_can_read_it",
        figures("structure.ignore", readers={"sglang": NONE, "transformers": NONE}),
        'structure.ignore: readers.sglang.first is null, the release gives "',
    ),
    (
        "a_reader_too_few",
        figures("structure.ignore", readers={"sglang": {"layers": 5, "first": "a"}}),
        'structure.ignore: readers.sglang.first is "a", the release gives "',
    ),
    ("readers_none", figures("structure.ignore", readers={}), "at least 1 item"),
    ("without_readers", without("structure.ignore", "readers"), "readers: Field required"),
    (
        "misread_and_not_named",
        figures("structure.ignore", readers={"sglang": {"layers": 5}}),
        "the first one is named exactly if there are any",
    ),
):
    structure(name, change, reason)


def said(script, **answers):
    return lambda report: checked(report, "smoke.scripts")["measured"]["said"][script].update(
        answers
    )


def streamed(**answer):
    def change(report):
        for one in checked(report, "smoke.streaming")["measured"]["answers"]:
            one.update(answer)

    return change


ENDED = {"token": 1, "finish_reason": "stop", "tokens": 1}
for name, change, reason in (
    (
        "scripts_with_replacement_characters",
        said("Hangul", forced="\ufffd\ufffd"),
        "smoke.scripts did not pass: Hangul:",
    ),
    ("scripts_too_few", lambda r: checked(r, "smoke.scripts")["measured"]["said"].pop("Arabic"),
     "the scripts are Devanagari, Han, Hangul, emoji, kana, not"),
    ("scripts_of_its_own", figures("smoke.scripts", said={"Latin": {"forced": "a", "free": "a"}}),
     "the scripts are Latin, not"),
    ("scripts_not_said", figures("smoke.scripts", said={}), "the scripts are , not"),
    ("scripts_without_an_answer", lambda r: checked(r, "smoke.scripts")["measured"]["said"].update(
        Han={"forced": "a"}), "free: Field required"),
    ("stop_at_an_ordinary_token", figures("smoke.stop", ordinary=[1]), "token 1 ends texts and"),
    ("stop_without_the_end_of_a_turn", figures("smoke.stop", turn_end=66), "lacks token 66"),
    ("stop_that_goes_on",
     figures("smoke.stop", ended=[{**ENDED, "finish_reason": "length", "tokens": 8}]),
     "token 1 of generation_config.json did not end a text"),
    ("stop_at_other_tokens",
     figures("smoke.stop", ended=[{**ENDED, "token": 65}], turn_end=65),
     "smoke.stop: ended texts with the tokens [65], generation_config.json has [1]"),
    ("stop_at_more_tokens", figures("smoke.stop", ended=[ENDED, {**ENDED, "token": 65}]),
     "ended texts with the tokens [1, 65], generation_config.json has [1]"),
    ("of_one_greedy_text",
     figures("smoke.greedy_identical", prompts=1, identical=1, tokens_before_difference=640,
             differences=[]),
     "smoke.greedy_identical did not pass: 1 texts, 10 needed to judge"),
    ("of_short_greedy_texts",
     figures("smoke.greedy_identical", identical=10, tokens=10, tokens_before_difference=10,
             differences=[]),
     "10 tokens in all texts, 320 needed to judge"),
    ("of_two_texts_at_once", figures("smoke.concurrent", prompts=2, identical=2),
     "smoke.concurrent did not pass: 2 texts, 10 needed to judge"),
    ("of_one_position", figures("smoke.logprobs", positions=1, finite=1),
     "smoke.logprobs did not pass: 1 positions, 100 needed to judge"),
    ("of_a_prompt_of_one_token", figures("smoke.long_prompt", chunk=1, prompt=1, written=1),
     "smoke.long_prompt did not pass: 1 positions, 100 needed to judge"),
    ("of_one_token_timed",
     figures("smoke.mtp_speed", with_mtp={"tokens": 1, "seconds": 0.0125}, speedup=1.0),
     "smoke.mtp_speed did not pass: 1 tokens timed, 160 needed to judge"),
    ("of_one_window", figures("perplexity", windows=1, tokens=512, scored=511),
     "perplexity did not pass: 1 windows, 16 needed to judge"),
    ("stop_after_more", figures("smoke.stop", ended=[{**ENDED, "tokens": 3}]), "after 3 tokens"),
    ("stop_at_nothing", figures("smoke.stop", ended=[]), "at least 1 item"),
    ("stop_at_a_negative_token", figures("smoke.stop", turn_end=-1), "greater than or equal to 0"),
    ("stream_that_is_garbled", streamed(streamed="\ufffd"), "streamed, 'Hi.' came as"),
    ("stream_in_one_piece", streamed(pieces=1), "no answer was streamed"),
    ("stream_of_other_tokens", streamed(same_tokens=False), "no answer was streamed"),
    ("stream_of_nothing", figures("smoke.streaming", answers=[]), "at least 1 item"),
    ("nested_of_another_tool",
     figures("smoke.tool_nested", chosen=[{"name": "a", "arguments": "{}"}]),
     "no call of place_order that can be read"),
    ("nested_cut",
     figures("smoke.tool_nested", demanded=[{"name": "place_order", "arguments": '{"city": '}]),
     "no call of place_order that can be read"),
    ("nested_read_as_text",
     lambda r: checked(r, "smoke.tool_parser")["measured"]["read"][1]["arguments"].update(
         items="[]"),
     "from the template's own spelling"),
    ("picture_of_one_size", figures("smoke.image", image_tokens=[64, 64]), "a larger one 64"),
    ("picture_without_a_size", figures("smoke.image", image_tokens=64), "valid array"),
    ("logprobs_not_finite", figures("smoke.logprobs", finite=1), "positions are not finite"),
    ("logprobs_of_a_zero_head", figures("smoke.logprobs", flat=150), "all tokens are equally"),
    ("logprobs_more_than_there_are", figures("smoke.logprobs", finite=999), "more positions than"),
    ("logprobs_of_nothing", figures("smoke.logprobs", positions=0, finite=0), "or equal to 1"),
    ("logprobs_above_zero", figures("smoke.logprobs", lowest=1.0), "less than or equal to 0"),
    ("long_prompt_beyond_noise", figures("smoke.long_prompt", shift=0.9), "more than 0.6000"),
    ("long_prompt_beyond_any_noise", figures("smoke.long_prompt", shift=3.0, noise=9.0), "1.0000"),
    ("long_prompt_of_one_chunk", figures("smoke.long_prompt", chunk=9999), "the border of a chunk"),
    ("long_prompt_with_a_tolerance", figures("smoke.long_prompt", tolerance=9.0), "Extra inputs"),
    ("at_once_beyond_ties",
     figures("smoke.concurrent", identical=9, tokens_before_difference=9,
             differences=[{"prompt": 1, "position": 2, "gap": None}]),
     "1 part at a gap wider than 0.2500"),
    ("at_once_alone", figures("smoke.concurrent", prompts=1, identical=1), "not at once"),
    ("at_once_of_fewer", figures("smoke.concurrent", identical=3), "are not all"),
    ("speed_of_its_own", figures("smoke.mtp_speed", speedup=9.0), "the speedup is not that"),
    ("speed_in_no_time", figures("smoke.mtp_speed", with_mtp={"tokens": 9, "seconds": 0.0}),
     "greater than 0"),
    ("speed_of_no_tokens", figures("smoke.mtp_speed", with_mtp={"tokens": 0, "seconds": 1.0}),
     "greater than or equal to 1"),
    ("speed_infinite", figures("smoke.mtp_speed", speedup=10**400), "speedup"),
    *(
        (f"without_{name}", lambda r, check=check: r["checks"].remove(checked(r, check)),
         f"{check} is missing, a check of the level 'all'")
        for name, check in (
            ("scripts", "smoke.scripts"), ("stop", "smoke.stop"), ("streaming", "smoke.streaming"),
            ("nested", "smoke.tool_nested"), ("logprobs", "smoke.logprobs"),
            ("long_prompt", "smoke.long_prompt"), ("at_once", "smoke.concurrent"),
            ("speed", "smoke.mtp_speed"),
        )
    ),
):  # fmt: skip
    served(name, change, reason)
