"""A release whose base has no MTP head: head and the count of its layers are the donor's."""

import json
import re
import shutil

import pytest
from assets.verify.bench import Bench
from conftest import without_head
from released import build

from assay.release import steps, verify
from forge.core import canonical
from forge.core.errors import ReleaseError
from forge.inputs import fetch
from forge.manifest.policy import KNOWN_BUILDERS, Policy
from forge.release import assemble, keys

TUNED = "carnice-v2-27b-text-mtp"
COUNT = "mtp_num_hidden_layers"


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def headless(folder):
    """The stand-in without its head and without a word of it."""
    without_head(fetch.STANDINS / "qwen36-dense/checkpoint", folder)
    config = read(folder / "config.json")
    del config["text_config"][COUNT]
    canonical.write(folder / "config.json", config)
    return folder


@pytest.fixture(scope="module")
def donated(tmp_path_factory):
    root = tmp_path_factory.mktemp("donated")
    build(root, headless(root / "base"), TUNED)
    assemble.assemble(root / "release")
    return root / "release"


def checked(folder):
    said = []
    policy = Policy(builders=KNOWN_BUILDERS)
    verify.verify(folder, steps.Demands(trust=None, policy=policy), said.append)
    return said


def test_the_release_says_how_many_layers_the_donors_head_has(donated):
    assert COUNT not in read(donated / "provenance/base.config.json")["text_config"]
    assert read(donated / "provenance/donor.config.json")["text_config"][COUNT] == 1
    assert read(donated / "config.json")["text_config"][COUNT] == 1
    assert all(line.split()[1] == "pass" for line in checked(donated))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("config.json", "config.json: has sha256"),
        ("provenance/donor.config.json", "donor/config.json was fetched with"),
    ],
)
def test_another_count_is_refused(donated, tmp_path, name, reason):
    """In the release's config alone, or in what is said to be the donor's as well."""
    shutil.copytree(donated, tmp_path / "release")
    key = tmp_path / "key"
    keys.generate(key)
    bench = Bench(folder=tmp_path / "release", key=key, other_key=key)
    bench.edit(name, lambda config: config["text_config"].update({COUNT: 0}))
    bench.rebuilt()
    bench.admit(name)
    with pytest.raises(ReleaseError, match=re.escape(reason)):
        checked(bench.folder)
