"""The base's perplexity is scored once; what the store has of it is hashed before it is used."""

import os
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from assay.serving import baseline
from assay.serving.perplexity import Perplexity, Text
from forge.core.errors import StoreError
from forge.core.store import Store
from forge.storekeeping import gc

FIGURES = Perplexity(windows=1, tokens=8, scored=7, value=8.5, mean_nll=2.14, seconds=1.0)


def fetch(store, base):
    """What fetch leaves, as far as is asked here, of a base from there."""

    def work(out):
        for name in ("base/config.json", "inputs.json", "tensors/base.jsonl"):
            (out / name).parent.mkdir(exist_ok=True)
            (out / name).write_text("{}", encoding="utf-8")

    return store.make("fetch", "f" * 64, work, {"parameters": {"origins": {"base": [base, "x"]}}})


@pytest.mark.parametrize(("base", "goes"), [("standin", True), ("hub", False)])
def test_the_store_knows_whose_perplexity_it_is(tmp_path, monkeypatch, base, goes):
    """That of a stand-in costs seconds, and goes with it; in place of the engine is none."""

    @contextmanager
    def serve(*_, **__):
        yield SimpleNamespace(ready=lambda: None)

    monkeypatch.setattr(baseline.engine, "serve", serve)
    monkeypatch.setattr(baseline, "score", lambda *_: FIGURES)
    store = Store(tmp_path / "store")
    text = Text(name="text", content="a text", window=8)
    fetched = fetch(store, base)
    baseline.perplexity(fetched, text, {}, {}, store, log=tmp_path / "log")
    del fetched
    assert {one.step for one in gc.gc(store, days=-1).results} == (
        {"fetch", "perplexity"} if goes else set()
    )


def test_a_flipped_digit_is_not_reported(tmp_path, monkeypatch):
    """In place of the engine, which needs a GPU or minutes, is a counter of its starts."""
    starts = []

    @contextmanager
    def serve(*_, **__):
        starts.append(1)
        yield SimpleNamespace(ready=lambda: None)

    monkeypatch.setattr(baseline.engine, "serve", serve)
    monkeypatch.setattr(baseline, "score", lambda *_: FIGURES)
    store = Store(tmp_path / "store")
    fetched = fetch(store, "standin")

    def scored():
        text = Text(name="text", content="a text", window=8)
        return baseline.perplexity(fetched, text, {}, {}, store, log=tmp_path / "log")

    assert [scored(), scored()] == [FIGURES, FIGURES]
    assert len(starts) == 1
    (file,) = store.root.glob(f"perplexity/*/files/{baseline.FILE}")
    stat, text = file.stat(), file.read_text(encoding="utf-8")
    file.write_text(text.replace('"value":8.5', '"value":8.4'), encoding="utf-8")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(StoreError, match=r"perplexity\.json: has sha256 .*store: perplexity "):
        scored()
    assert scored() == FIGURES
    assert len(starts) == 2
