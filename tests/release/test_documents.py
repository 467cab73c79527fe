"""Card, notice and report: from the provenance alone, with what was measured and nothing else."""

import dataclasses
import html.parser
import re
import shutil
import subprocess

import numpy as np
import pytest
import yaml
from assets.verify.bench import without_errors
from assets.verify.cases_report import OWN
from conftest import base_arrays
from huggingface_hub import ModelCard, ModelCardData

from forge.core.errors import RecipeError, ReleaseError
from forge.core.store import Store
from forge.manifest import own_engine, verification
from forge.manifest.probe_figures import Pace, Timed
from forge.manifest.served_figures import EMULATED, Drafts, Health, Perplexity, Seconds, Settings
from forge.release import assemble, card, charts, facts, report
from forge.tensors import quantization_error, tensorfile
from forge.tensors.small_floats import widen_bf16

MEASURED = {
    "perplexity": Perplexity(
        text="some text",
        settings=Settings(window=512, max_windows=None, base={}, result={}),
        windows=581,
        tokens=297053,
        scored=296472,
        base=8.0481,
        result=8.1853,
        ratio=8.1853 / 8.0481,
        seconds=Seconds(base=1.0, result=1.0),
    ),
    "acceptance": Drafts(
        drafts=1000, drafted=3000, accepted=(872, 721, 613), acceptance=(0.872, 0.721, 0.613)
    ),
    "pace": Pace(
        with_mtp=Timed(tokens=320, seconds=3.2),
        without=Timed(tokens=320, seconds=4.0),
        speedup=1.25,
    ),
}


@pytest.fixture(scope="module")
def found(good):
    return facts.read(good.folder)


@pytest.fixture(scope="module")
def measured(found):
    """The same release, had an engine measured it."""
    serve = found.recipe.serve.model_copy(
        update={"speculative_tokens": 3, "acceptance_floor": (0.6, 0.4, 0.3)}
    )
    served = found.recipe.model_copy(update={"serve": serve})
    return dataclasses.replace(found, **MEASURED, recipe=served, level="all")


def test_metadata_are_the_hubs(good):
    data = ModelCard.load(good.folder / "README.md").data
    assert data.base_model == "Qwen/Qwen3.6-27B"
    assert data.to_dict()["base_model_relation"] == "quantized"
    assert data.pipeline_tag == "image-text-to-text"
    assert data.library_name == "vllm"
    assert {"nvfp4", "modelopt", "mtp"} <= set(data.tags)


def test_a_rehearsal_says_so_first(good):
    text = (good.folder / "README.md").read_text(encoding="utf-8")
    assert text.index("**A rehearsal, not a release.**") < text.index("## What is stored")
    assert "this was made from `local:" in text


def test_counts_and_sizes_are_those_of_the_tensors(good, found):
    tensors = tensorfile.read_checkpoint(good.folder).values()
    assert sum(part.tensors for part in found.parts) == len(tensors)
    assert found.nbytes == sum(tensor.nbytes for tensor in tensors)
    base = tensorfile.read_checkpoint(good.key.parent / "base").values()
    assert sum(part.weights for part in found.parts) == sum(np.prod(t.shape) for t in base)
    head = next(part for part in found.parts if part.name == "MTP head")
    assert (head.tensors, head.stored_as, head.bits) == (15, "BF16", 16)
    assert {part.name for part in found.parts if part.stored_as == "NVFP4"} == {
        "mlp", "self_attn", "linear_attn",
    }  # fmt: skip


def test_what_was_not_measured_is_not_there(good):
    """No engine saw this release: neither perplexity nor acceptance, in card or report."""
    for name in ("README.md", "report.html"):
        text = (good.folder / name).read_text(encoding="utf-8")
        assert "| perplexity | windows" not in text
        assert "position 1" not in text
        assert "Accepted drafts" not in text
        assert "ime a token" not in text


def test_times_of_a_cpu_are_none_of_a_gpu(measured):
    health = Health(startup_seconds=1.0, args={}, env={}, adaptations=(f"{EMULATED}W4A4.",))
    made = verification.check("smoke.health", measured.recipe, lambda: health)
    emulated = dataclasses.replace(measured, checks=(*measured.checks, made))
    for text in (card.card(emulated), report.report(emulated)):
        assert "a CPU that emulates NVFP4" in text


def test_what_was_measured_is_there(measured):
    text = card.card(measured)
    assert "| some text | 581 | 296,472 | 8.0481 | 8.1853 | 1.0170 | 1.1 |" in text
    assert "| position 3 | 61.3 % | 30 % |" in text
    assert "10.0 ms | 12.5 ms | 1.25 times |" in text
    page = report.report(measured)
    assert "8.185" in page
    assert '<td class="number">10.0 ms</td><td class="number">12.5 ms</td>' in page
    assert "emulates" not in text + page
    assert page.count('class="limit"') == 4


def test_unverified_build_says_so(found):
    text = card.card(dataclasses.replace(found, checks=(), level="none", passed=False))
    assert "Nothing: this was built without verification." in text


@pytest.mark.parametrize("licence", [None, "apache-2.0"])
def test_metadata_is_what_the_hubs_library_writes(found, licence):
    written = card.metadata(dataclasses.replace(found, licence=licence))
    assert written == ModelCardData(**yaml.safe_load(written)).to_yaml()


def test_serving_commands_are_the_recipes(found):
    (command,) = card.commands(found).values()
    words = command.replace("\\\n", "").split()
    assert words[:2] == ["vllm", "serve"]
    for flag, value in found.recipe.serve.args.items():
        assert f"--{flag}" in words
        assert value is True or str(value) in words
    assert command.endswith("""'{"method": "mtp", "num_speculative_tokens": 1}'""")


def test_profiles_have_commands_of_their_own():
    from forge.recipes import recipe

    variant = recipe.find("qwen36-27b-vlm-cascade-mtp")
    command = card._command(variant.serve, variant.serve.speculative_tokens)
    assert command.startswith("VLLM_NVFP4_GEMM_BACKEND=cutlass TORCH_CUDA_ARCH_LIST=12.1 vllm ")
    assert """--compilation-config '{"cudagraph_mode": "PIECEWISE"}'""" in command


def test_notice_names_what_it_is_made_from(good):
    text = (good.folder / "NOTICE").read_text(encoding="utf-8")
    assert "Base model: local:" in text
    assert "Chat template: standin:template" in text
    assert "calibration.sets.llm: standin:corpus" in text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Apache License\n                        Version 2.0, January 2004", "apache-2.0"),
        ("is under the Apache License, Version 2.0 (https", "apache-2.0"),
        ("MIT License\n\nCopyright", "mit"),
        ("All rights reserved", None),
        (None, None),
    ],
)
def test_licence_is_read_from_the_file(good, found, tmp_path, text, expected):
    folder = shutil.copytree(good.folder, tmp_path / "folder")
    if text is not None:
        (folder / "LICENSE").write_text(text, encoding="utf-8")
    licence = facts.read(folder).licence
    assert expected == licence
    metadata = card.metadata(dataclasses.replace(found, licence=licence))
    assert f"license: {expected or 'other'}" in metadata


def test_errors_are_those_of_the_weights(good, found):
    """Against the base's values and the stored codes, computed the long way."""
    assert len(found.errors) == 15
    stored = tensorfile.read_checkpoint(good.folder)
    arrays = base_arrays()
    grid = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    for error in found.errors[::4]:
        exact = widen_bf16(arrays[f"{error.module}.weight"]).astype(np.float64)
        packed = np.frombuffer(stored[f"{error.module}.weight"].read(), np.uint8)
        codes = np.stack([packed & 15, packed >> 4], axis=-1).reshape(exact.shape)
        scale = np.frombuffer(stored[f"{error.module}.weight_scale"].read(), np.uint8)
        exponent, mantissa = scale >> 3, scale & 7
        values = np.where(
            exponent == 0, mantissa * 2.0**-9, (8 + mantissa) * 2.0 ** (exponent - 10.0)
        )
        tensor = np.frombuffer(stored[f"{error.module}.weight_scale_2"].read(), "<f4")[0]
        steps = np.repeat(values, 16).reshape(exact.shape) * float(tensor)
        got = np.where(codes > 7, -1, 1) * grid[codes & 7] * steps
        expected = np.linalg.norm(got - exact) / np.linalg.norm(exact)
        assert error.relative == pytest.approx(expected, rel=1e-9)
        assert 0.05 < error.relative < 0.15


def test_linears_that_are_zero_are_listed(found):
    """A whole layer of zeros, of which no relative error can be given."""
    assert "Zero throughout" not in report.report(found)
    zero = [
        dataclasses.replace(error, squared_error=0.0, squared_norm=0.0)
        if ".layers.0." in error.module
        else error
        for error in found.errors
    ]
    text = report.report(dataclasses.replace(found, errors=tuple(zero)))
    listed = text.partition("Zero throughout")[2].partition("</p>")[0]
    assert re.findall(r"<code>(.*?)</code>", listed) == [
        error.module for error in zero if error.squared_norm == 0
    ]


@pytest.mark.parametrize(
    ("loader", "name"), [("compressed-tensors", "nvfp4"), ("compressed-tensors", "fp8")]
)
def test_errors_of_the_other_formats(loader, name):
    """What a format packs is read back with an error that fits its bits, and no scale missed."""
    from forge.tensors import encodings, formats
    from forge.tensors.plan import Linear, Place

    weight = base_arrays()["lm_head.weight"]
    kind = formats.find(loader, name)
    maximum = np.float32(np.abs(widen_bf16(weight)).max())
    parts = [
        *encodings.pack(kind, weight, maximum),
        *kind.scalars("m", maximum, {"m": np.float32(3)}),
    ]
    codes, *scales = (np.asarray(part).tobytes() if not isinstance(part, bytes) else part
                      for part in parts)  # fmt: skip
    place = Place(tensor="m.weight", start=0, shape=weight.shape)
    linear = Linear(module="m", format=kind, place=place)
    names = [spec.name.removeprefix("m.") for spec in kind.specs("m", weight.shape)[1:]]
    squares = quantization_error.squares(
        linear,
        loader,
        range(weight.shape[0]),
        codes,
        dict(zip(names, scales, strict=True)),
        weight.tobytes(),
        "BF16",
    )
    error = quantization_error.total(linear, [squares])
    low, high = {"nvfp4": (0.05, 0.15), "fp8": (0.01, 0.04)}[name]
    assert low < error.relative < high


def test_without_verification_there_are_no_errors(good, bench):
    """With VERIFY=none nothing was measured: the chart is absent, and nothing takes its place."""
    (bench / "provenance/quantization_error.jsonl").unlink()
    bench.restate(without_errors)
    assemble.assemble(bench.folder, replace=True)
    assert not (bench / "provenance/quantization_error.jsonl").exists()
    assert "Quantization error" not in (bench / "report.html").read_text(encoding="utf-8")
    assert "Quantization error" in (good.folder / "report.html").read_text(encoding="utf-8")


def test_a_report_of_another_engine_makes_no_release(bench):
    """It says itself that the engine was not the locked one, whatever the manifest says of it."""
    bench.assayed(lambda report: report.update(own_engine=OWN))
    with pytest.raises(ReleaseError, match=f"verification.json: {own_engine.NOT_LOCKED}"):
        assemble.assemble(bench.folder, replace=True)


def test_another_recipe_is_refused(bench):
    def change(statement):
        resources = statement["predicate"]["buildDefinition"]["resolvedDependencies"]
        one = next(r for r in resources if r["name"].startswith("build/variants/"))
        one["digest"]["sha256"] = "0" * 64

    bench.restate(change)
    with pytest.raises(RecipeError, match="was changed since this was built"):
        facts.read(bench.folder)


def test_document_that_is_a_file_of_the_checkpoint(bench):
    with (bench / "provenance/SHA256SUMS").open("a", encoding="utf-8") as file:
        file.write(f"{'0' * 64}  NOTICE\n")
    with pytest.raises(ReleaseError, match="NOTICE: is a file of the checkpoint"):
        assemble.assemble(bench.folder)


def test_files_of_a_release_are_its_own(good):
    """The store's bytes cannot be changed by way of a release, nor a release by way of them."""
    assert all(path.stat().st_nlink == 1 for path in good.folder.rglob("*") if path.is_file())


def test_release_is_still_reproduced(good, tmp_path):
    """What a release adds is beside the checkpoint: SHA256SUMS and a rebuild are as before."""
    from assay.rebuild import reproduce

    found = reproduce.run(good.folder, Store(tmp_path), base=good.key.parent / "base")
    assert found.identical
    assert found.files is not None


class Links(html.parser.HTMLParser):
    """Collects whatever a page would fetch or run."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        self.found += [value for name, value in attrs if name in {"src", "href", "data", "action"}]
        self.found += [name for name, _ in attrs if name.startswith("on")]
        self.found += [tag] if tag in {"script", "iframe", "object", "embed", "link"} else []


def test_report_is_one_file(measured):
    page = report.report(measured)
    links = Links()
    links.feed(page)
    assert links.found == []
    assert not re.search(r"url\(|@import|https?://", page.partition("<body>")[0])


def test_report_escapes_what_it_is_told(found):
    hostile = MEASURED["perplexity"].model_copy(update={"text": "<script>alert(1)</script>"})
    page = report.report(dataclasses.replace(found, perplexity=hostile))
    assert "<script" not in page
    assert "&lt;script&gt;" in page


@pytest.mark.parametrize(
    "values", [[9.2, 9.85], [0.0, 100.0], [5.0], [1e-6, 2e-6], [0.0, 0.0], [99.9, 100.1]]
)
def test_axis_holds_every_point(values):
    low, high, step = charts._scale(values)
    assert low <= min(values) <= max(values) <= high
    assert 1 <= round((high - low) / step) <= 8


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium; .ci/run installs it")
def test_report_in_a_browser(measured, tmp_path):
    """Headless Chromium lays it out without a word of complaint, charts inside their boxes."""
    page = report.report(measured)
    probe = """<script>
      const boxes = [...document.querySelectorAll("svg")].map(svg => {
        const outer = svg.getBoundingClientRect();
        const inside = [...svg.querySelectorAll("text,rect,circle,line")].every(one => {
          const box = one.getBoundingClientRect();
          return box.left >= outer.left - 1 && box.right <= outer.right + 1
            && box.top >= outer.top - 1 && box.bottom <= outer.bottom + 1;
        });
        return outer.width > 500 && outer.height > 20 && inside;
      });
      document.title = JSON.stringify([boxes, document.documentElement.scrollWidth <= innerWidth]);
    </script></body>"""
    # The probe is ours; the page's own policy would not run it.
    probed = page.replace("default-src 'none'", "script-src 'unsafe-inline'")
    (tmp_path / "report.html").write_text(probed.replace("</body>", probe), encoding="utf-8")
    done = subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=900,1200",
            f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", tmp_path / "report.html",
        ],
        capture_output=True, encoding="utf-8", check=True, timeout=120,
    )  # fmt: skip
    # The first title is the page's; the charts have titles as well.
    title = re.search(r"<title>(.*?)</title>", done.stdout)
    assert title[1] == "[[true,true,true,true],true]"


def test_card_escapes_what_it_is_told():
    """Neither Markdown nor HTML, and no character that hides, in what others named."""
    environment = card.environment()
    environment.autoescape = False  # as for README.md
    made = environment.from_string("| {{ name | cell }} | {{ other }} |")
    told = made.render(name="a|b\n<script>`*_[x](y)\u202e", other="\x1b[2J\n")
    assert told == "| a\\|b\\\\n\\<script\\>\\`\\*\\_\\[x\\](y)\\\\u202e | \\x1b[2J\n |"
