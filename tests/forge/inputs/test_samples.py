"""Calibration samples with pictures: out of a JSONL file and tar files, into one form."""

import io
import json
import tarfile
from hashlib import sha256

import pytest

from forge.core.errors import FetchError
from forge.inputs import sample_files, samples, standin

SUBSET = standin.ROOT / "corpus" / "images" / "plotqa_cot"
PNG = b"\x89PNG\r\n\x1a\n"


def sample(picture="0.png", **extra):
    parts = [{"type": "image", "image": picture, "metadata": {"width": 3}}]
    parts.append({"type": "text", "text": "How many?"} | extra)
    answer = {"role": "assistant", "content": [{"type": "text", "text": "Three."}]}
    return {"id": "x", "messages": [{"role": "user", "content": parts}, answer]}


@pytest.fixture
def make(tmp_path):
    """Writes a subset of these lines and tar members, and reads so many samples of it."""

    def run(lines, members, count=9):
        path = tmp_path / "plots.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        archive = tmp_path / "shard_000000.tar"
        with tarfile.open(archive, "w") as tar:
            for name, data in members:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                if data == b"link":
                    info.type, info.linkname, info.size = tarfile.SYMTYPE, "/etc/passwd", 0
                tar.addfile(info, io.BytesIO(data))
        return samples.read_pictures(path, [archive], count, tmp_path / "out")

    return run


def test_the_corpus_has_the_form_of_the_data_set(tmp_path):
    """The first samples with their pictures, and no others, named by their bytes."""
    media = sorted(SUBSET.glob("media/*.tar"))
    found = samples.read_pictures(SUBSET / "plotqa_cot.jsonl", media, 3, tmp_path)
    sample_files.write(found, tmp_path / sample_files.FILE)
    lines = (tmp_path / sample_files.FILE).read_text(encoding="utf-8").splitlines()
    named = [
        part["image"]
        for line in lines
        for message in json.loads(line)["messages"]
        for part in message["content"]
        if part["type"] == "image"
    ]
    assert len(lines) == len(named) == len(list((tmp_path / "images").iterdir())) == 3
    for path in named:
        data = (tmp_path / path).read_bytes()
        assert path == f"images/{sha256(data).hexdigest()}.png"
        assert data.startswith(PNG)


def test_only_what_calibration_needs_is_kept(make):
    """Roles, text and pictures; a picture that two samples share is stored once."""
    data = PNG + b"a"
    path = f"images/{sha256(data).hexdigest()}.png"
    found = make([sample(), sample()], [("other.png", PNG), ("0.png", data)])
    first = [{"type": "image", "image": path}, {"type": "text", "text": "How many?"}]
    assert found[0] == found[1]
    assert found[0][0] == {"role": "user", "content": first}


@pytest.mark.parametrize(
    ("lines", "members", "fault"),
    [
        ([sample()], [], r"line 1: names the picture '0\.png', which none of 1 tar file"),
        ([sample()], [("0.png", b"link")], "names the picture"),
        ([sample()], [("../0.png", PNG)], "names the picture"),
        ([sample("a.svg")], [("a.svg", PNG)], r"'a\.svg' of 8 bytes is no picture"),
        ([sample(), {"id": "x"}], [("0.png", PNG)], "line 2: is no JSON object with messages"),
        ([sample(type="audio")], [("0.png", PNG)], "line 1: has a content that is neither"),
        ([{"messages": [{"role": "user", "content": "a"}]}], [], "line 1: the sample has no pic"),
    ],
)
def test_what_is_no_sample_names_file_and_line(make, lines, members, fault):
    with pytest.raises(FetchError, match=fault):
        make(lines, members)


def test_a_damaged_tar_file_is_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps(sample()) + "\n", encoding="utf-8")
    (tmp_path / "a.tar").write_bytes(b"no tar file at all" * 100)
    with pytest.raises(FetchError, match=r"a\.tar: no readable tar file"):
        samples.read_pictures(tmp_path / "a.jsonl", [tmp_path / "a.tar"], 1, tmp_path / "out")
