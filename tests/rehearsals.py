"""Rehearsals by command line, every step in its own environment; each variant at most once."""

import json
import os
import subprocess
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from assay.serving.perplexity import Perplexity
from forge.core import checkout


@dataclass(eq=False)
class Rehearsal:
    """One variant on its stand-in, in a store that others share."""

    variant: str
    root: Path
    options: list[str]
    level: str

    @cached_property
    def said(self):
        """What the first run prints."""
        return self.again()

    def again(self):
        """Runs it, or runs it once more."""
        done = subprocess.run(
            [
                checkout.python_of("host"), "-m", "forge", "build", self.variant, "--rehearse",
                "--verify", self.level, *self.options,
                "--store", self.root / "store", "--out", self.out,
            ],
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
            capture_output=True, encoding="utf-8", check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stderr + done.stdout

    @property
    def out(self):
        return self.root / self.variant

    def checks(self):
        """Every check by name; all of them passed."""
        report = json.loads((self.out / "provenance/verification.json").read_text(encoding="utf-8"))
        assert report["passed"]
        return {check["name"]: check for check in report["checks"]}

    def text(self):
        """The perplexity text."""
        texts = (self.root / "store/fetch").glob("*/files/perplexity/text.txt")
        return next(texts).read_text(encoding="utf-8")

    def base(self):
        """The base's perplexity as this rehearsal measured it."""
        value = self.checks()["perplexity"]["measured"]["base"]
        stored = (self.root / "store/perplexity").glob("*/files/perplexity.json")
        found = [Perplexity(**json.loads(path.read_text(encoding="utf-8"))) for path in stored]
        return next(one for one in found if one.value == value)
