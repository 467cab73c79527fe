"""A stand-in, its template and its corpus are exactly the files that the repository pins."""

import shutil
from hashlib import sha256
from pathlib import Path

import pytest
from conftest import FLAGSHIP

from forge.core import canonical
from forge.core.errors import FetchError
from forge.inputs import standin
from forge.recipes import recipe
from forge.tensors import tensorfile
from forge.tensors.tensorfile import Spec

ARCHITECTURE = "Qwen3_5ForConditionalGeneration"


def holding(data: bytes) -> bytes:
    """A safetensors file with one tensor, `x`, of these bytes."""
    return tensorfile.header_bytes([Spec(name="x", dtype="U8", shape=(len(data),))]) + data


WEIGHTS = holding(b"weights")
CONFIG = f'{{"architectures": ["{ARCHITECTURE}"], "model_type": "qwen3_5"}}'.encode()
CHECKPOINT = {
    "config.json": CONFIG,
    "model.safetensors": WEIGHTS,
    "tokenizer.json": b"{}",
    "README.md": b"not taken",
}


def make_standins(root: Path, articles: int = 3) -> Path:
    """A folder of stand-ins as small as it can be, pinned by the code under test."""
    checkpoint = root / "qwen36-dense" / "checkpoint"
    checkpoint.mkdir(parents=True)
    for name, data in CHECKPOINT.items():
        (checkpoint / name).write_bytes(data)
    lines = [f'"{n}" = "{canonical.sha256_file(checkpoint / n)}"\n' for n in CHECKPOINT]
    (checkpoint.parent / "standin.toml").write_text(
        f'name = "qwen36-dense"\narchitecture = "{ARCHITECTURE}"\n\n'
        f"[training]\nseed = 0\n\n[files]\n{''.join(lines)}",
        encoding="utf-8",
    )
    (root / "chat_template.jinja").write_text("{{ messages }}", encoding="utf-8")
    for part in ("calibration", "evaluation"):
        folder = root / "corpus" / part
        folder.mkdir(parents=True)
        for number in range(articles):
            (folder / f"{number:02}-a.txt").write_text(
                f"Title {number}\n\nBody.\n\nMore.\n", encoding="utf-8"
            )
    standin.pin(root)
    return root


@pytest.fixture
def root(tmp_path):
    return make_standins(tmp_path / "standins")


def checkpoint(root, *globs):
    return standin.checkpoint(recipe.find(FLAGSHIP), globs or ("*.json", "*.safetensors"), root)


def test_the_checkpoint_is_what_the_globs_match(root):
    files = checkpoint(root).take()

    assert sorted(files) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert files["config.json"].sha256 == canonical.sha256_text(CONFIG.decode())


def test_a_byte_changed_is_refused(root):
    """Both digests are named."""
    file = root / "qwen36-dense/checkpoint/model.safetensors"
    file.write_bytes(b"Weights")
    with pytest.raises(FetchError, match=r"model\.safetensors: has sha256") as caught:
        checkpoint(root).take()
    assert sha256(WEIGHTS).hexdigest() in str(caught.value)
    assert canonical.sha256_text("Weights") in str(caught.value)


def test_a_file_missing_is_refused(root):
    (root / "qwen36-dense/checkpoint/README.md").unlink()
    with pytest.raises(FetchError, match=r"README\.md: is pinned, but missing"):
        checkpoint(root)


def test_a_file_too_many_is_refused(root):
    (root / "qwen36-dense/checkpoint/extra.json").write_bytes(b"{}")
    with pytest.raises(FetchError, match=r"extra\.json: is there, but not pinned"):
        checkpoint(root)


@pytest.mark.parametrize(
    ("card", "fault"),
    [
        ("architecture = 1", "malformed"),
        ("architecture =", "malformed"),
        ('architecture = "A"\n[files]\n"../a" = "' + "0" * 64 + '"', "stays inside"),
        ('architecture = "A"\n[files]\n', "the stand-in is a A"),
    ],
)
def test_a_wrong_card_is_refused(root, card, fault):
    (root / "qwen36-dense/standin.toml").write_text(card, encoding="utf-8")
    with pytest.raises(FetchError, match=fault):
        checkpoint(root)


def test_a_standin_that_is_not_there(root):
    shutil.rmtree(root / "qwen36-dense")
    with pytest.raises(FileNotFoundError, match=r"standin\.toml"):
        checkpoint(root)


def test_the_corpus_is_taken_in_the_order_of_its_names(root):
    """As many articles as are asked for, from the first on."""
    files = standin.corpus("calibration", root, 2).take()

    assert list(files) == ["corpus/calibration/00-a.txt", "corpus/calibration/01-a.txt"]
    assert len(standin.corpus("evaluation", root).take()) == 3


def test_the_corpus_is_smaller_than_data_sets_are(root):
    """No article is used twice: asked for more, it gives what there is. A part that is not there
    is an error.
    """
    assert len(standin.corpus("calibration", root, 4).take()) == 3
    with pytest.raises(FetchError, match="the corpus has no such part"):
        standin.corpus("images/plots", root)


@pytest.mark.parametrize("name", ["chat_template.jinja", "corpus/calibration/00-a.txt"])
def test_template_and_corpus_are_pinned(root, name):
    """A change is refused until it is pinned on purpose."""
    (root / name).write_text("Other\n\ntext\n", encoding="utf-8")
    template, corpus = standin.template(root), standin.corpus("calibration", root)
    with pytest.raises(FetchError, match=r"python -m forge\.inputs\.standin"):
        template.take(), corpus.take()

    standin.pin(root)
    assert standin.template(root).take()
    assert standin.corpus("calibration", root).take()


def test_an_article_too_many_is_refused(root):
    (root / "corpus/calibration/99-new.txt").write_text("New\n\ntext\n", encoding="utf-8")
    with pytest.raises(FetchError, match=r"99-new\.txt: is there, but not pinned"):
        standin.corpus("calibration", root)


def test_an_article_becomes_a_conversation(root):
    assert standin.conversation(root / "corpus/calibration/01-a.txt") == [
        {"role": "user", "content": "Write an encyclopedia article about: Title 1"},
        {"role": "assistant", "content": "Body.\n\nMore."},
    ]


@pytest.mark.parametrize("text", ["", "Title\n\n", "Title\nBody\n", "A\nB\n\nBody\n", "\n\nBody"])
def test_an_article_needs_a_title_and_a_body(tmp_path, text):
    article = tmp_path / "article.txt"
    article.write_text(text, encoding="utf-8")
    with pytest.raises(FetchError, match="must be a title, a blank line and paragraphs"):
        standin.conversation(article)


def test_the_real_corpus_is_pinned_and_large_enough():
    """The repository's own files are those of pins.toml, and enough for every recipe."""
    for name in recipe.names():
        for wanted in recipe.find(name).calibration.sets.values():
            assert standin.samples(wanted, standin.ROOT).take()
    articles = standin.corpus("calibration", standin.ROOT).take()
    assert len(articles) >= 20
    assert standin.template(standin.ROOT).take()
    assert standin.corpus("evaluation", standin.ROOT).take()
    assert all(standin.conversation(file.path) for file in articles.values())
