"""The image itself: what is in it, and that it comes out the same however often it is made."""

import os
import subprocess

import pytest

from forge.container import image
from forge.container.sandbox import PYTHON
from forge.core import checkout

pytestmark = pytest.mark.image


def rebuilt(client, folder, tag, *options):
    """The layers of the image made again from another folder, under another umask."""
    labels = image.find(client).labels
    local = labels[image.BASE_NAME] if "@" not in labels[image.BASE_NAME] else None
    done = subprocess.run(
        [*image.command(client, base=local, snapshot=labels["hallmark.snapshot"]),
         *options, f"--tag={tag}", "."],
        cwd=folder, env={**os.environ, "DOCKER_BUILDKIT": "1"}, umask=0o077,
        capture_output=True, encoding="utf-8", check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    try:
        return client.images.get(tag).attrs["RootFS"]["Layers"]
    finally:
        client.images.remove(tag, force=True)


def inside(client, found, script):
    """What a script says as root in the image, without a network."""
    said = client.containers.run(
        found.id, ["sh", "-c", script], user="0", network_mode="none", remove=True
    )
    return said.decode().splitlines()


def test_same_layers_from_another_folder_at_another_time(client, found, tmp_path):
    """Every step of the Dockerfile, done again without a cache."""
    subprocess.run(
        ["git", "clone", "--quiet", str(checkout.ROOT), str(tmp_path / "clone")], check=True
    )
    first = client.images.get(found.id).attrs["RootFS"]["Layers"]
    assert first == rebuilt(client, tmp_path / "clone", "hallmark:again", "--no-cache")


def test_nothing_younger_than_the_pinned_moment(client, found):
    """Only what the engine itself puts into a running container."""
    epoch = image.pins().system.epoch
    engines = "-path /proc -o -path /sys -o -path /dev"
    script = f"find / \\( {engines} \\) -prune -o -newermt @{epoch} -print"
    known = {
        "/",
        "/etc",
        "/etc/hosts",
        "/etc/hostname",
        "/etc/resolv.conf",
        "/etc/mtab",
        "/.dockerenv",
    }
    assert set(inside(client, found, script)) <= known


def test_no_bytecode_and_no_caches(client, found):
    names = "-name '*.pyc' -o -name __pycache__ -o -path '*/.cache/*' -o -path '/tmp/*'"
    lists = "-path '/var/lib/apt/lists/*' -o -path '/var/cache/apt/*'"
    assert inside(client, found, f"find / -xdev -type f -size +0 \\( {names} -o {lists} \\)") == []


def test_not_root_by_default(client, found):
    said = client.containers.run(found.id, ["id", "-u"], network_mode="none", remove=True)
    assert int(said) != 0


def test_environments_are_the_locks(client, found):
    """Every distribution in an environment stands in its lock file, at that version."""
    code = (
        "from importlib.metadata import distributions as d;"
        "print(*sorted(f'{x.name.lower().replace(chr(95), chr(45))}=={x.version}' for x in d()),"
        "sep='\\n')"
    )
    for name, lock in {"build": "build", "verify": found.labels["hallmark.verify"]}.items():
        python = PYTHON.format(environment=name)
        there = set(inside(client, found, f'{python} -c "{code}"')) - {"hallmark==0.1.0"}
        text = (checkout.LOCKFILES / f"{lock}.txt").read_text(encoding="utf-8")
        locked = {line.split()[0].lower() for line in text.splitlines() if "==" in line[:80]}
        assert there
        assert there <= {pin.replace("_", "-").replace(".", ".") for pin in locked}
