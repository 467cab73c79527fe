"""Reports whose probes contradict the release, the recipe or themselves; signed."""

from assets.verify.cases_report import figures, structure, without

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
