"""A small base that a test spoils before it is written."""

import json

from conftest import FLAGSHIP, base_arrays, base_config, write_checkpoint

from forge.core.files import SourceKind
from forge.core.store import Store
from forge.inputs import preflight
from forge.pipeline import Job
from forge.recipes import recipe


class Base:
    """What is written: tensors, config and the files beside them; `raw` stands for the config."""

    def __init__(self, folder, variant=FLAGSHIP):
        self.folder, self.variant = folder, variant
        self.wanted = recipe.find(variant)
        self.arrays = base_arrays(variant=variant)
        self.config = base_config(self.wanted)
        self.raw = None
        names = ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json")
        self.beside = dict.fromkeys(names, b"{}")

    def write(self):
        write_checkpoint(self.folder, self.arrays)
        config = self.raw if self.raw is not None else json.dumps(self.config).encode()
        (self.folder / "config.json").write_bytes(config)
        for name, data in self.beside.items():
            (self.folder / name).parent.mkdir(exist_ok=True)
            (self.folder / name).write_bytes(data)
        return self.folder

    def look(self, donor: SourceKind = "standin", **known):
        job = Job(
            recipe=self.wanted,
            store=Store(self.folder.parent / "store"),
            rehearsal=True,
            base=self.write(),
            origins={"base": "local", "donor": donor},
            **known,
        )
        return preflight.check(job)


def text(**keys):
    """Sets keys of the part of the config that is the language model's."""
    return lambda base: base.config["text_config"].update(keys)


def top(**keys):
    """Sets keys of the config."""
    return lambda base: base.config.update(keys)


def spelled(spell):
    """Writes the config in other bytes, which `spell` makes of its own."""

    def change(base):
        base.raw = spell(json.dumps(base.config).encode())

    return change
