"""What a command in the image can reach, what it cannot, and that nothing is left of it."""

import dataclasses
import os
import socket
import threading
import time
from contextlib import closing, suppress

import docker
import pytest

from forge.container import sandbox
from forge.container.requirements import GIB, Limits
from forge.core import checkout, commandline, machine
from forge.core.errors import ContainerError, NoGpuError
from forge.core.machine import Graphics

pytestmark = pytest.mark.image
PYTHON = sandbox.PYTHON.format(environment="build")

CONNECT = """
import socket, sys
for address in sys.argv[2:]:
    try:
        socket.create_connection((address, int(sys.argv[1])), timeout=5).close()
        print("reached", address)
    except OSError as error:
        print("refused", address, error)
print(*(name for _, name in socket.if_nameindex()))
"""
WRITE = """
import sys
for path in sys.argv[1:]:
    try:
        open(path, "w").write("y")
        print("written", path)
    except OSError as error:
        print("refused", path, error.strerror)
"""


@pytest.fixture
def listener():
    """A server on every address of this machine, and how often it was reached."""
    reached = []
    with socket.create_server(("0.0.0.0", 0)) as server:  # noqa: S104 - to be reached, if it can be

        def accept():
            while True:
                try:
                    connection, peer = server.accept()
                except OSError:
                    return
                reached.append(peer)
                connection.close()

        threading.Thread(target=accept, daemon=True).start()
        yield server.getsockname()[1], reached


def own_address():
    """The address that this machine has towards others; no packet is sent to find it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # TEST-NET-1, which nobody has
        return probe.getsockname()[0]


def test_no_network(box, listener, capfd):
    """A server that this machine reaches cannot be reached from inside, nor can any other."""
    port, reached = listener
    addresses = ["127.0.0.1", own_address()]
    for address in addresses:
        socket.create_connection((address, port), timeout=5).close()
    assert box.run([PYTHON, "-c", CONNECT, str(port), *addresses, "192.0.2.1"]) == 0
    *answers, interfaces = capfd.readouterr().out.splitlines()
    assert [answer.split()[0] for answer in answers] == ["refused"] * 3
    assert interfaces == "lo"
    assert len(reached) == len(addresses)


def test_only_store_and_scratch_can_be_written(box, capfd):
    """Inputs cannot, even inside the store; nor can the image itself."""
    refused = [
        *(f"{folder}/new" for folder in box.inputs), f"{box.store}/fetch/inputs.json",
        "/hallmark/new", "/etc/new", "/usr/new",
    ]  # fmt: skip
    written = [f"{box.store}/new", "/tmp/new"]  # noqa: S108
    assert box.run([PYTHON, "-c", WRITE, *refused, *written]) == 0
    said = capfd.readouterr().out.splitlines()
    assert said == [
        *(f"refused {path} Read-only file system" for path in refused),
        *(f"written {path}" for path in written),
    ]
    assert (box.store / "fetch/inputs.json").read_text(encoding="utf-8") == "{}"
    assert (box.scratch / "new").read_text(encoding="utf-8") == "y"


def test_results_belong_to_the_caller(box):
    if os.getuid() == 0:  # root's own results say little: another user's do
        box = dataclasses.replace(box, user="4711:4712")
        os.chown(box.store, 4711, 4712)
    wanted = tuple(int(number) for number in box.user.split(":"))
    assert box.run([PYTHON, "-c", WRITE, f"{box.store}/new"]) == 0
    stat = (box.store / "new").stat()
    assert (stat.st_uid, stat.st_gid) == wanted


def test_no_capability_even_for_root(box, capfd):
    lines = (
        "print(*(l for l in open('/proc/self/status') if l.startswith(('Cap', 'NoNew'))), sep='')"
    )
    assert dataclasses.replace(box, user="0:0").run([PYTHON, "-c", lines]) == 0
    status = dict(line.split() for line in capfd.readouterr().out.split("\n") if line)
    assert {int(status[name], 16) for name in ("CapEff:", "CapPrm:", "CapBnd:")} == {0}
    assert status["NoNewPrivs:"] == "1"


def test_streams_and_exit_code_come_through(box, capfd, left):
    code = "import sys; print('out'); print('err', file=sys.stderr); sys.exit(11)"
    assert box.run([PYTHON, "-c", code]) == 11
    assert capfd.readouterr() == ("out\n", "err\n")
    assert left(box.store) == []


def test_knows_its_image(box, found, capfd):
    """Inside, commit and image are what the labels say; there is no git to ask."""
    code = (
        "from forge.core import checkout, machine; "
        "print(*checkout.commit(), machine.container().image.layers)"
    )
    assert box.run([PYTHON, "-c", code]) == 0
    commit, dirty = checkout.commit()
    assert capfd.readouterr().out.split() == [commit, str(dirty), found.layers]


def test_knows_the_interface(box, monkeypatch, capfd):
    """What an error inside says to do is said in the words of the interface in use."""
    monkeypatch.setenv(commandline.INTERFACE, "make")
    code = f"import os; print(os.environ[{commandline.INTERFACE!r}])"
    assert box.run([PYTHON, "-c", code]) == 0
    assert capfd.readouterr().out == "make\n"


def test_time_limit(box, left):
    box = dataclasses.replace(box, limits=Limits(memory=GIB, shared=GIB, seconds=3))
    with pytest.raises(ContainerError, match="ended at its limit of .* hours") as told:
        box.run([PYTHON, "-c", "import time; time.sleep(600)"])
    assert told.value.remedy == "more-hours"
    assert left(box.store) == []


def test_memory_limit(box, left):
    with pytest.raises(ContainerError, match=r"limit of 1\.0 GiB of memory") as told:
        box.run([PYTHON, "-c", "x = b'x' * (3 << 30)"])
    assert told.value.remedy == "more-memory"
    assert left(box.store) == []


def test_gpu_that_the_engine_cannot_hand_on(box, left):
    """Docker without NVIDIA's toolkit refuses, Podman 4 starts without one: the same message."""
    if machine.has_gpu():
        pytest.skip("this engine may well hand on its GPUs")
    asking = dataclasses.replace(box, graphics=Graphics(driver="580.1", names=("x",)))
    with pytest.raises(NoGpuError, match="cannot hand on the GPU") as told:
        asking.require_graphics()
    assert told.value.remedy == "host"
    assert left(box.store) == []


@pytest.fixture
def relay(tmp_path):
    """A socket that leads to the engine until it is closed, and then its connections with it."""
    engine = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://")
    path, connections = tmp_path / "relay.sock", []
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen()

    def pass_on(source, target):
        try:
            while data := source.recv(1 << 16):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:  # closed from the other side
            return

    def accept():
        while True:
            try:
                near, _ = server.accept()
            except OSError:
                return
            far = socket.socket(socket.AF_UNIX)
            far.connect(engine)
            connections.extend([near, far])
            for pair in ((near, far), (far, near)):
                threading.Thread(target=pass_on, args=pair, daemon=True).start()

    def close():
        path.unlink(missing_ok=True)
        for one in (server, *connections):
            with suppress(OSError):  # it may be closed already
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    threading.Thread(target=accept, daemon=True).start()
    yield path, close
    close()


def test_engine_that_dies_during_a_run(box, relay, left):
    """It is said, and the container ends, since its standard input does."""
    path, close = relay
    begun = box.store / "begun"
    code = f"import time; open({str(begun)!r}, 'w'); time.sleep(600)"

    def cut():
        while not begun.exists():
            time.sleep(0.05)
        close()

    threading.Thread(target=cut, daemon=True).start()
    with (
        closing(docker.DockerClient(base_url=f"unix://{path}")) as away,
        pytest.raises(ContainerError, match=r"engine stopped answering.*Restart the engine"),
    ):
        dataclasses.replace(box, client=away).run([PYTHON, "-c", code])
    deadline = time.monotonic() + 30
    while left(box.store) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left(box.store) == []


def test_sweep_removes_what_a_dead_engine_left(box, left):
    box.client.api.create_container(box.image.id, ["true"], labels={"hallmark.run": str(box.store)})
    assert len(left(box.store)) == 1
    sandbox.sweep(box.client, box.store)
    assert left(box.store) == []
