"""What this machine lacks is said before any work, once, with the way out and a code of its own."""

import gc
import os
import socket
import subprocess
import sys
import threading
import warnings
from contextlib import ExitStack
from pathlib import Path

import pytest
from conftest import FLAGSHIP

from forge.container import answers as answers_of
from forge.container import image as image_of
from forge.container import requirements, sandbox
from forge.container.image import Image
from forge.container.requirements import GIB, Limits
from forge.core import disk, machine
from forge.core.errors import (
    DriverError,
    EnginePermissionError,
    NoEngineError,
    NoGpuError,
    SpaceError,
)
from forge.core.machine import Graphics

NOBODY = 65534


def host_remedy(error):
    """Nothing keeps the error, and with it the library's socket, beyond `raises`."""
    return error.remedy == "host"


@pytest.fixture(autouse=True)
def collected():
    """The library leaves its socket open when nobody answers; that is collected here, quietly."""
    yield
    with warnings.catch_warnings(action="ignore", category=ResourceWarning):
        gc.collect()


def image(verify):
    return Image(id="sha256:1", layers="2", labels={"hallmark.verify": verify})


def limits(memory=1 * GIB, shared=GIB // 4):
    return Limits(memory=memory, shared=shared, seconds=60)


def test_no_engine(tmp_path, monkeypatch):
    """The real message, from the real library and a socket that is not there."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    with pytest.raises(NoEngineError, match="none.sock: no container engine", check=host_remedy):
        requirements.engine()


def test_nobody_listens(tmp_path, monkeypatch):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "dead.sock"))
        monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/dead.sock")
        with pytest.raises(NoEngineError, match="(?s)refused.*podman system service"):
            requirements.engine()


def http(body, status="200 OK"):
    """An answer over HTTP, as a server that is no engine might give it."""
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return f"{head}\r\n\r\n{body}".encode()


@pytest.fixture
def answers(tmp_path, monkeypatch):
    """Sets up a socket that gives the same answer to whatever it is asked."""
    with ExitStack() as stack:

        def listen(answer):
            server = stack.enter_context(socket.socket(socket.AF_UNIX))
            server.bind(str(tmp_path / "engine.sock"))
            server.listen()
            monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/engine.sock")

            def serve():
                while True:
                    try:
                        asked, _ = server.accept()
                    except OSError:  # it was shut down
                        return
                    with asked:
                        asked.recv(1 << 16)
                        asked.sendall(answer)

            thread = threading.Thread(target=serve)
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown, socket.SHUT_RDWR)

        yield listen


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"", "Remote end closed connection without response"),
        (b"\0\xffgarbage\r\n\r\n", r"BadStatusLine"),
        (http("<html>"), "Expecting value: line 1 column 1"),
        (http("[]"), "list indices must be integers"),
        (http("{}"), 'key "ApiVersion" is missing'),
        (http("oops", "500 Not Today"), "500 Server Error: Not Today"),
        (http('{"ApiVersion": "1.1"}'), "API versions below"),
        (http('{"ApiVersion": "x"}'), r"is no container engine: docker says: invalid literal"),
    ],
)
def test_what_answers_is_no_engine(answers, answer, said):
    """In one line, whatever comes out of the socket."""
    answers(answer)
    with pytest.raises(NoEngineError, match=said, check=host_remedy) as told:
        requirements.engine()
    assert len(str(told.value).splitlines()) == 1
    assert str(told.value).isprintable()


def test_an_engine_that_answers_nonsense_later(answers):
    """It has a version, and says the same to all else that it is asked."""
    answers(http('{"ApiVersion": "1.44"}'))
    client = requirements.engine()
    for ask in (
        lambda: image_of.find(client),
        lambda: image_of.command(client, base="local"),
        lambda: sandbox.sweep(client, Path("/nonesuch")),
        lambda: answers_of.field(answers_of.info(client), "DockerRootDir"),
    ):
        with pytest.raises(NoEngineError, check=host_remedy):
            ask()
    client.close()


def test_no_permission(tmp_path, monkeypatch):
    """A socket that this user may not open; root may open any, so root becomes nobody."""
    with socket.socket(socket.AF_UNIX) as closed:
        path = tmp_path / "closed.sock"
        closed.bind(str(path))
        closed.listen()
        path.chmod(0)
        monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
        before = os.geteuid()
        if before == 0:
            os.seteuid(NOBODY)
        try:
            with pytest.raises(EnginePermissionError, match="may not use", check=host_remedy):
                requirements.engine()
        finally:
            os.seteuid(before)


def test_before_any_work(tmp_path):
    """The command itself: error, remedy and exit code, and a store that is not even made."""
    done = subprocess.run(
        [sys.executable, "-m", "forge", "build", FLAGSHIP, "--rehearse", "--runner=image",
         "--store", str(tmp_path / "store")],
        env={**os.environ, "DOCKER_HOST": f"unix://{tmp_path}/none.sock",
             "HALLMARK_INTERFACE": "make"},
        capture_output=True, encoding="utf-8", check=False,
    )  # fmt: skip
    assert done.returncode == NoEngineError.code
    error, remedy, code = done.stderr.splitlines()
    assert error.startswith("error: unix://")
    assert remedy == "help: Or build on this machine without an image, with RUNNER=host."
    assert code == "hallmark: exit 31"
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("verify", "rehearsal", "why"),
    [("verify", True, "made for a machine with one"), ("verify-cpu", False, "a real build does")],
)
def test_no_gpu(monkeypatch, verify, rehearsal, why):
    monkeypatch.setattr(machine, "has_gpu", lambda: False)
    with pytest.raises(NoGpuError, match=why) as told:
        requirements.graphics(image(verify), rehearsal=rehearsal)
    assert told.value.remedy == "no-gpu"


def test_rehearsal_needs_no_gpu(monkeypatch):
    monkeypatch.setattr(machine, "has_gpu", lambda: False)
    assert requirements.graphics(image("verify-cpu"), rehearsal=True) is None


def test_image_that_cannot_use_the_gpu(monkeypatch):
    monkeypatch.setattr(machine, "has_gpu", lambda: True)
    with pytest.raises(NoGpuError, match="made while it had none") as told:
        requirements.graphics(image("verify-cpu"), rehearsal=True)
    assert told.value.remedy == "make-image"


def test_driver_that_does_not_answer(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "has_gpu", lambda: True)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DriverError, match="nvidia-smi does not answer") as told:
        requirements.graphics(image("verify"), rehearsal=False)
    assert told.value.remedy == "host"


def test_driver_as_nvidia_smi_lists_it():
    listing = "580.95.05, NVIDIA B200\n580.95.05, NVIDIA B200\n"
    wanted = Graphics(driver="580.95.05", names=("NVIDIA B200", "NVIDIA B200"))
    assert wanted == requirements.supported(listing)


@pytest.mark.parametrize("driver", ["579.99", "570.124.06", "99.1"])
def test_driver_too_old(driver):
    with pytest.raises(DriverError, match=f"driver is {driver}, .*580 or later") as told:
        requirements.supported(f"{driver}, NVIDIA B200\n")
    assert told.value.remedy == "host"


@pytest.mark.parametrize("listing", ["", "No devices were found\n", "[N/A], [N/A]\n"])
def test_listing_without_a_gpu(listing):
    with pytest.raises(DriverError, match="lists no GPU"):
        requirements.supported(listing)


def test_real_build_counts_what_is_fetched(tmp_path, monkeypatch):
    """A resumed build does not ask for the room of what it has."""
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "blob").write_bytes(bytes(1000))
    (tmp_path / "hub" / "link").symlink_to("blob")
    monkeypatch.setattr(disk, "free", lambda _: requirements.REAL_DISK - 1000)
    requirements.space(tmp_path, limits(), rehearsal=False)
    monkeypatch.setattr(disk, "free", lambda _: requirements.REAL_DISK - 1001)
    with pytest.raises(SpaceError, match=r"^the build takes 107\.\d+ GB, and 107\.\d+ GB are free"):
        requirements.space(tmp_path, limits(), rehearsal=False)


def test_too_little_memory(tmp_path):
    with pytest.raises(SpaceError, match="of memory, and this machine has") as told:
        requirements.space(tmp_path, limits(memory=1 << 50), rehearsal=True)
    assert told.value.remedy == "less-memory"


def test_too_little_shared_memory(tmp_path):
    with pytest.raises(SpaceError, match="of shared memory, but 1.0 GiB") as told:
        requirements.space(tmp_path, limits(shared=2 * GIB), rehearsal=True)
    assert told.value.remedy == "less-shared"
