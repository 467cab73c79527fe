"""Draws the corpus' pictures and their questions, in the form of nvidia/Nemotron-VLM-Dataset-v2.

    python build/standins/images.py

leaves `<subset>/<subset>.jsonl`, a conversation a line, and `<subset>/media/shard_000000.tar`, the
pictures that they name, under `corpus/images`: tables with gaps, bar charts with reasoning, and
articles of the corpus as pages. Every draw comes from a subset's name and a sample's number; the
letters are Pillow's own bitmap font. Needs the build environment; then run `python -m
forge.inputs.standin`, which pins what is there.
"""

import io
import itertools
import json
import random
import tarfile
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

CORPUS = Path(__file__).with_name("corpus")
SAMPLES = 8
SHARD = "media/shard_000000.tar"
FONT = ImageFont.load_default_imagefont()
LETTER, LINE = 6, 14  # of the font, in pixels: its advance, and a comfortable line
INK, RULE, PAPER = (25, 25, 30), (150, 150, 160), (252, 252, 248)
FILLS = ((196, 60, 50), (50, 120, 190), (60, 150, 80), (220, 160, 40), (130, 80, 160))
PLACES = ("Aldmoor", "Bruneck", "Calder", "Dunmore", "Estvik", "Fenwick", "Galtby", "Horsens")
GOODS = ("wool", "grain", "timber", "salt", "copper", "cloth", "herring", "glass")


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A picture, what is asked about it, and the answer."""

    picture: Image.Image
    question: str
    answer: str


def table(number: int, rng: random.Random) -> Sample:
    """Figures of towns and goods, half of them missing, and the same as Markdown."""
    places, goods = rng.sample(PLACES, 4 + number % 3), rng.sample(GOODS, 3 + number % 2)
    header = ["town", *goods]
    rows = [
        [place, *(str(rng.randint(10, 990)) if rng.random() < 0.5 else "" for _ in goods)]
        for place in places
    ]
    width, height = 10 * LETTER, 2 * LINE
    picture, draw = canvas(width * len(header) + 33, height * (len(rows) + 1) + 33)
    for line, cells in enumerate([header, *rows]):
        for column, text in enumerate(cells):
            left, top = 16 + column * width, 16 + line * height
            fill = (226, 232, 240) if line == 0 else None
            draw.rectangle((left, top, left + width, top + height), outline=RULE, fill=fill)
            draw.text((left + LETTER, top + LINE // 2), text, INK, FONT)
    lines = [header, ["---"] * len(header), *rows]
    return Sample(
        picture=picture,
        question="Write this table as Markdown. Leave empty cells empty.",
        answer="\n".join(f"| {' | '.join(cells)} |" for cells in lines),
    )


def chart(number: int, rng: random.Random) -> Sample:
    """A bar a year, and the reasoning that finds the largest rise."""
    good, place, first = rng.choice(GOODS), rng.choice(PLACES), 1850 + 10 * number
    values = rng.sample(range(10, 100), 4 + number % 4)
    years = [first + offset for offset in range(len(values))]
    floor, pitch = 200, 48
    picture, draw = canvas(64 + pitch * len(values), floor + 48)
    draw.text((48, 10), f"{good.capitalize()} sold in {place}, tons", INK, FONT)
    for mark in range(0, 101, 25):
        height = floor - mark * 3 // 2
        draw.line((40, height, picture.width - 16, height), RULE)
        draw.text((12, height - 6), f"{mark:>3}", INK, FONT)
    for column, (year, value) in enumerate(zip(years, values, strict=True)):
        left = 52 + pitch * column
        box = (left, floor - value * 3 // 2, left + pitch - 18, floor)
        draw.rectangle(box, FILLS[number % len(FILLS)], INK)
        draw.text((left + 3, floor + 8), str(year), INK, FONT)
    rises = [after - before for before, after in itertools.pairwise(values)]
    best = rises.index(max(rises))
    read = ", ".join(f"{value} in {year}" for year, value in zip(years, values, strict=True))
    steps = ", ".join(f"{rise:+d}" for rise in rises)
    return Sample(
        picture=picture,
        question=f"Between which two years did the sale of {good} rise most?",
        answer=f"The bars stand at {read}. From each year to the next that is {steps}. "
        f"The largest rise, {rises[best]:+d}, is from {years[best]} to {years[best + 1]}.",
    )


def page(number: int, rng: random.Random) -> Sample:
    """The first paragraph of an article as a page, to be read aloud."""
    article = sorted((CORPUS / "calibration").iterdir())[number]
    title, _, body = article.read_text(encoding="utf-8").partition("\n\n")
    text = body.partition("\n")[0]
    lines = textwrap.wrap(text, 48 + rng.randrange(24))
    picture, draw = canvas(LETTER * max(map(len, lines)) + 40, LINE * (len(lines) + 3) + 32)
    draw.text((20, 16), title.upper(), FILLS[1], FONT)
    draw.line((20, 16 + LINE, picture.width - 20, 16 + LINE), RULE)
    for row, line in enumerate(lines, start=2):
        draw.text((20, 16 + LINE * row), line, INK, FONT)
    return Sample(picture=picture, question="Read this page to me.", answer=f"{title}\n\n{text}")


SUBSETS: dict[str, Callable[[int, random.Random], Sample]] = {
    "sparsetables": table,
    "plotqa_cot": chart,
    "wiki_en": page,
}


def canvas(width: int, height: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """An empty sheet to draw on."""
    picture = Image.new("RGB", (width, height), PAPER)
    return picture, ImageDraw.Draw(picture)


def write(root: Path) -> None:
    """Draw every subset into a folder of its own below `root`."""
    for subset, draw in SUBSETS.items():
        samples = {
            f"{subset}_{number:06d}": draw(number, random.Random(f"{subset} {number}"))  # noqa: S311
            for number in range(SAMPLES)
        }
        (root / subset / SHARD).parent.mkdir(parents=True, exist_ok=True)
        write_shard({name: sample.picture for name, sample in samples.items()}, root / subset)
        lines = [json.dumps(entry(name, sample)) + "\n" for name, sample in samples.items()]
        (root / subset / f"{subset}.jsonl").write_text("".join(lines), encoding="utf-8")


def write_shard(pictures: dict[str, Image.Image], folder: Path) -> None:
    """Write the pictures as a tar of PNG files whose headers tell of no machine and no time."""
    with tarfile.open(folder / SHARD, "w", format=tarfile.USTAR_FORMAT) as shard:
        for name, picture in pictures.items():
            data = io.BytesIO()
            picture.save(data, "PNG", optimize=True)
            header = tarfile.TarInfo(f"{name}.png")
            header.size = data.tell()
            data.seek(0)
            shard.addfile(header, data)


def entry(name: str, sample: Sample) -> dict[str, Any]:
    """A line of the published data set: fragments of text, and pictures by their name."""
    picture = {
        "type": "image",
        "image": f"{name}.png",
        "metadata": {
            "width": sample.picture.width,
            "height": sample.picture.height,
            "format": "PNG",
            "mode": sample.picture.mode,
        },
    }
    question, answer = ({"type": "text", "text": text} for text in (sample.question, sample.answer))
    return {
        "id": name,
        "messages": [
            {"role": "user", "content": [picture, question]},
            {"role": "assistant", "content": [answer]},
        ],
    }


if __name__ == "__main__":
    write(CORPUS / "images")
