"""Ways to spoil a folder that whoever looks at it must see, each with the words of a refusal."""

import os


def pipe(folder):
    os.mkfifo(folder / "pipe")


def link_to_the_system(folder):
    (folder / "LICENSE").symlink_to("/etc/passwd")


def link_to_code(folder):
    (folder / "more").symlink_to("/usr/lib")


def config_elsewhere(folder):
    (folder / "config.json").rename(folder.parent / "config.json")
    (folder / "config.json").symlink_to("../config.json")


def shard_elsewhere(folder):
    (folder / "model-mtp.safetensors").rename(folder.parent / "head")
    (folder / "model-mtp.safetensors").symlink_to("../head")


def empty_folder(folder):
    (folder / "empty").mkdir()


def report_without_end(folder):
    os.truncate(folder / "provenance/verification.json", 8 << 30)


def manifest_without_end(folder):
    os.truncate(folder / "provenance/provenance.json", 8 << 30)


def hidden_name(folder):
    (folder / "config\u202enosj.json").write_text("{}", encoding="utf-8")


def suffix_in_capitals(folder):
    (folder / "EXTRA.SAFETENSORS").write_text("{}", encoding="utf-8")


SPOILS = {
    pipe: "'pipe': is a pipe",
    link_to_the_system: "'LICENSE': is a symbolic link",
    link_to_code: "'more': is a symbolic link",
    config_elsewhere: "'config.json': is a symbolic link",
    shard_elsewhere: "'model-mtp.safetensors': is a symbolic link",
    empty_folder: "'empty': is an empty folder",
    report_without_end: "'provenance/verification.json': has 8589934592 bytes",
    manifest_without_end: "'provenance/provenance.json': has 8589934592 bytes",
    hidden_name: "has U[+]202E, which nobody sees",
    suffix_in_capitals: "some loaders take for 'safetensors'",
}
