"""The engine itself: servers that fail, and checkpoints whose damage only running them shows."""

import shutil
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from assay.serving import engine, perplexity, probes, smoke, speculation, tools
from assay.serving.client import Sample, parse_metrics
from assay.serving.perplexity import Text
from assay.serving.speculation import Handover
from assay.serving.texts import Writer
from forge.core import checkout
from forge.core.errors import EngineError
from forge.manifest import verification
from forge.recipes import recipe
from forge.tensors import tensorfile

pytestmark = pytest.mark.engine

STANDIN = checkout.ROOT / "build/standins/qwen36-dense/checkpoint"
CORPUS = checkout.ROOT / "build/standins/corpus/evaluation"
RECIPE = recipe.find("qwen36-27b-vlm-mtp")
FLAGSHIP = RECIPE.serve
BF16 = FLAGSHIP.model_copy(
    update={
        "args": {name: value for name, value in FLAGSHIP.args.items() if name != "quantization"},
        "speculative_tokens": 3,
        "acceptance_floor": (0.6, 0.3, 0.1),
    }
)
WINDOW = 128
VARIANT = RECIPE.model_copy(
    update={
        "serve": BF16,
        "perplexity": RECIPE.perplexity.model_copy(update={"window": WINDOW}),
    }
)


def check(name, probe, *asked, **options):
    """The check of what a probe measures."""
    return verification.check(name, VARIANT, partial(probe, *asked, **options))


def command_lines():
    """The command lines of every process there is."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            yield path.read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue


def overwrite(tensor, data):
    with tensor.file.open("r+b") as file:
        file.seek(tensor.offset)
        file.write(data)


def headless(folder):
    """The stand-in with an MTP head of zeros."""
    broken = shutil.copytree(STANDIN, folder)
    for name, tensor in tensorfile.read_checkpoint(broken).items():
        if name.startswith("mtp."):
            overwrite(tensor, bytes(tensor.nbytes))
    return broken


def shuffled(folder):
    """The stand-in with the rows of one linear reversed, which no check of structure can see."""
    broken = shutil.copytree(STANDIN, folder)
    name = "model.language_model.layers.1.mlp.down_proj.weight"
    tensor = tensorfile.read_checkpoint(broken)[name]
    data, row = tensor.read(), tensor.nbytes // tensor.shape[0]
    overwrite(tensor, b"".join(data[at : at + row] for at in reversed(range(0, len(data), row))))
    return broken


@pytest.fixture(scope="module")
def clients(tmp_path_factory):
    """Both at once: one without a usable head, asked to draft; one shuffled, without vision."""
    root = tmp_path_factory.mktemp("engine")
    fitted = smoke.fit(STANDIN, BF16)
    start = partial(engine.serve, env=fitted.env)
    with ExitStack() as stack:
        servers = [
            stack.enter_context(start(folder, args, speculative_tokens=drafts, log=root / log))
            for folder, args, drafts, log in (
                (headless(root / "headless"), fitted.args, 3, "headless.log"),
                (
                    shuffled(root / "shuffled"),
                    {**fitted.args, "language-model-only": True},
                    None,
                    "shuffled.log",
                ),
            )
        ]
        yield [server.ready() for server in servers]
    assert not any(str(root).encode() in line for line in command_lines())


@pytest.fixture
def drafting(clients):
    return clients[0]


@pytest.fixture
def blind(clients):
    return clients[1]


def test_a_head_of_zeros_fails_where_all_else_passes(drafting):
    """The text stays right without a head, so only its acceptance can tell."""
    for one in (
        check("smoke.chat.thinking_on", probes.chat, drafting, thinking=True),
        check("smoke.chat.thinking_off", probes.chat, drafting, thinking=False),
        check("smoke.image", probes.image, drafting),
    ):
        assert one.passed, one
    left, writer = Handover(), partial(Writer, prompts=smoke.PROMPTS)
    mtp = check(
        "smoke.mtp", speculation.mtp, drafting, writer=writer, left=left, prompts=smoke.PROMPTS,
        together=True,
    )  # fmt: skip
    assert len(left.texts()) == len(smoke.PROMPTS)
    assert not mtp.passed
    assert mtp.measured.drafted >= RECIPE.gates.mtp.min_drafted
    assert len(mtp.measured.acceptance) == 3
    assert mtp.measured.acceptance[0] < 0.3


def test_a_shuffled_layer_fails(drafting, blind):
    content = "\n".join(path.read_text(encoding="utf-8") for path in sorted(CORPUS.glob("*.txt")))
    text = Text(name="corpus", content=content, window=WINDOW, max_windows=16)
    base = perplexity.score(drafting, text)
    args = {"base": {}, "result": {}}
    made = check("perplexity", perplexity.compare, blind, base=base, text=text, args=args)
    assert not made.passed, made
    assert made.problem.endswith("times the base's, above 1.1")
    assert made.measured.ratio > 1.1
    assert (made.measured.tokens, made.measured.scored) == (16 * 128, 16 * 127)
    assert made.measured.settings.max_windows == 16


def test_a_picture_is_refused_without_a_vision_tower(drafting, blind):
    assert check("smoke.image_refused", probes.image_refused, blind).passed
    assert not check("smoke.image_refused", probes.image_refused, drafting).passed


def test_a_tool_is_called(blind):
    assert check("smoke.tool_call", tools.tool_call, blind).passed


def test_a_refused_request_is_an_engine_error(blind):
    with pytest.raises(EngineError, match="answered 400"):
        blind.chat([{"role": "user", "content": "?"}], max_tokens=-1)


def test_metrics_are_read_as_prometheus_writes_them():
    lines = (
        "# HELP vllm:spec_decode_num_drafts_total Number of drafts.",
        "# TYPE vllm:spec_decode_num_drafts_total counter",
        'vllm:spec_decode_num_drafts_total{engine="0",model_name="a \\"b\\""} 355.0',
    )
    (sample,) = parse_metrics("\n".join(lines) + "\n")
    assert sample == Sample(
        "vllm:spec_decode_num_drafts_total", {"engine": "0", "model_name": 'a "b"'}, 355.0
    )


def test_a_checkpoint_that_cannot_be_served(tmp_path):
    """No config.json: the error has the server's last words, and no process is left."""
    broken = shutil.copytree(STANDIN, tmp_path / "broken")
    (broken / "config.json").unlink()
    log = tmp_path / "log"
    serve = engine.serve(broken, {}, env={}, speculative_tokens=None, log=log)
    message = r"ended with exit code \d+(.|\n)*config.json"
    with serve as server, pytest.raises(EngineError, match=message):
        server.ready()
    assert not any(str(broken).encode() in line for line in command_lines())


def test_a_start_that_takes_too_long(tmp_path):
    log = tmp_path / "log"
    serve = engine.serve(STANDIN, {}, env={}, speculative_tokens=None, log=log)
    with serve as server, pytest.raises(EngineError, match="not healthy within 1 s"):
        server.ready(timeout_s=1)
