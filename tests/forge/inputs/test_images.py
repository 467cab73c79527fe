"""The corpus' pictures are what their script draws, in the form of the published data set."""

import json
import subprocess
import sys
import tarfile

import pytest

from forge.inputs import standin

IMAGES = standin.ROOT / "corpus" / "images"
SHARD = "media/shard_000000.tar"
SUBSETS = ("plotqa_cot", "sparsetables", "wiki_en")
DRAW = "import pathlib, sys, images; images.write(pathlib.Path(sys.argv[1]))"


def conversations(subset):
    lines = (IMAGES / subset / f"{subset}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def named_pictures(subset):
    """What is said of each picture, by the name that the lines give it."""
    return {
        part["image"]: part["metadata"]
        for conversation in conversations(subset)
        for message in conversation["messages"]
        for part in message["content"]
        if part["type"] == "image"
    }


def drawn_pictures(root, subset):
    """Format, mode, size and pixels of every picture in the shard, by name."""
    from PIL import Image

    pictures = {}
    with tarfile.open(root / subset / SHARD) as shard:
        for name in shard.getnames():
            picture = Image.open(shard.extractfile(name))
            pictures[name] = (picture.format, picture.mode, picture.size, picture.tobytes())
    return pictures


@pytest.mark.parametrize("subset", SUBSETS)
def test_every_picture_is_asked_about_once(subset):
    """The lines name what lies in the shard, in the same order, a picture a line."""
    with tarfile.open(IMAGES / subset / SHARD) as shard:
        assert list(named_pictures(subset)) == shard.getnames()
    assert len(conversations(subset)) == len(named_pictures(subset)) >= 4


@pytest.mark.libraries
@pytest.mark.parametrize("subset", SUBSETS)
def test_the_pictures_are_what_the_lines_say(subset):
    said = {
        name: (data["format"], data["mode"], (data["width"], data["height"]))
        for name, data in named_pictures(subset).items()
    }
    assert said == {name: found[:3] for name, found in drawn_pictures(IMAGES, subset).items()}


@pytest.mark.libraries
def test_the_script_draws_what_is_committed(tmp_path):
    """Pixel for pixel: the compressed bytes may differ where zlib does."""
    subprocess.run([sys.executable, "-c", DRAW, tmp_path], cwd=standin.ROOT, check=True)

    for subset in SUBSETS:
        lines = f"{subset}/{subset}.jsonl"
        assert (IMAGES / lines).read_bytes() == (tmp_path / lines).read_bytes()
        assert drawn_pictures(IMAGES, subset) == drawn_pictures(tmp_path, subset)
