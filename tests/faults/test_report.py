"""What `make faults` prints for the pages is what the pages have."""

import re
from collections import Counter

from faults import commands, pieces, report
from faults.report import Row

from forge.core import checkout


def test_the_table_is_that_of_the_page():
    """Row by row, with the numbers that a run counts; a cell without a number is empty."""
    rows = [
        Row(
            part="faults",
            name="build",
            title="build, in place of a signed release",
            counts=Counter(operations=562, reads=698, unreadable=120, trials=5830, lost=3),
        ),
        Row(
            part="faults",
            name="publish",
            title="publish, over another release",
            counts=Counter(operations=12, reads=1254, requests=23, trials=695),
        ),
    ]
    assert report.table(rows).splitlines() == [
        "| command | calls that change a file | that read one | unreadable files | requests "
        "| trials |",
        "|---|---|---|---|---|---|",
        "| build, in place of a signed release | 562 | 698 | 120 | | 5,830 |",
        "| publish, over another release | 12 | 1,254 | | 23 | 695 |",
    ]


def test_the_page_has_every_command_and_piece():
    page = (checkout.ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
    (table,) = re.findall(r"^\| command \|.*?(?=\n\n|\Z)", page, re.MULTILINE | re.DOTALL)
    header, rule, *lines = table.strip().splitlines()
    assert report.table([]).splitlines() == [header, rule]
    titles = [command.title for command in (*commands.COMMANDS, *pieces.PIECES)]
    assert titles == [line.split("|")[1].strip() for line in lines]


def test_the_sentence_about_rounds_is_that_of_the_page():
    page = (checkout.ROOT / "docs" / "store.md").read_text(encoding="utf-8")
    (stated,) = re.findall(r"\d[\d,]* rounds took .*? with anything else\.", page)
    total, minutes, same, refused = (
        int(n.replace(",", "")) for n in re.findall(r"[\d,]*\d", stated)
    )
    half = Row(part="neighbours", name="one", seconds=minutes * 30.0)
    half.counts.update(trials=total - 1, same=same, refused=refused - 1)
    rest = Row(part="neighbours", name="other", seconds=minutes * 30.0)
    rest.counts.update(trials=1, refused=1)
    assert report.rounds([half, rest]) == stated
