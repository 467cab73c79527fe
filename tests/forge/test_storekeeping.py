"""List, size, gc and fsck of a store, beside builds that use it."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from conftest import FLAGSHIP

from forge import ledger as ledgers
from forge.core import locks
from forge.core.errors import FileSystemError, StoreError
from forge.core.store_folders import EMPTIED
from forge.pipeline import STEPS, Job
from forge.recipes import recipe
from forge.storekeeping import contents, fsck, gc, survey

OLD = 30 * 86400
HOLDS = """
import sys
from pathlib import Path
from forge.core.store import Store
result = Store(Path(sys.argv[1])).get(*sys.argv[2:])
print("has it", flush=True)
sys.stdin.readline()
"""
# As a build between two of its processes: nobody holds what its ledger has.
WRITES = """
import shutil, sys
from pathlib import Path
from forge.core.store import Store
with Store(Path(sys.argv[1])).scratch("ledger") as folder:
    shutil.copy(sys.argv[2], folder / "ledger.json")
    print("has it", flush=True)
    sys.stdin.readline()
"""
# Makes what it does not find, and relies on it while it has it; counts under the result's lock.
BUILDS = """
import sys
from pathlib import Path
from forge.core.store import Store
store, count = Store(Path(sys.argv[1])), Path(sys.argv[2])
def work(out):
    (out / "file").write_text("data", encoding="utf-8")
for number in range(150):
    key = f"{number % 3:064d}"
    with store.lock("quantize", key):
        if key.endswith("0"):
            count.write_text(str(int(count.read_text(encoding="utf-8")) + 1), encoding="utf-8")
        result = store.get("quantize", key) or store.make("quantize", key, work, {})
    for _ in range(3):
        assert (result.files / "file").read_text(encoding="utf-8") == "data"
"""
COLLECTS = """
import sys
from pathlib import Path
from forge.core.store import Store
from forge.storekeeping import gc
while not Path(sys.argv[2]).exists():
    gc.gc(Store(Path(sys.argv[1])), days=0, calibrations=True, confirm=True)
"""


def make(store, step, key, files, *, needs=(), age=OLD, **parameters):
    """A result of so many seconds ago, made from others."""

    def work(out):
        for name in left:
            (out / name).parent.mkdir(exist_ok=True)
            (out / name).write_bytes(b"{}" if name == "base/config.json" else key.encode())
        for name, data in files.items():
            if isinstance(data, Path):
                os.link(data, out / name)
            else:
                (out / name).write_bytes(data)

    left = {path for one in STEPS if one.name == step for path in one.leaves}
    parameters |= {"source": "base"} if step == "graft" else {}
    facts = {"parameters": parameters, "needs": {one.step: dict(one.digests) for one in needs}}
    made = store.make(step, key * 64, work, facts)
    when = time.time() - age
    os.utime(made.files.parent / "used", (when, when))
    return made


def line(store, mark, base="standin", age=OLD, variant=FLAGSHIP):
    """What a build leaves, each result with a letter of its own; returns it by step."""
    keys, origins = iter(mark), {"base": [base, "x"]}
    data = mark.encode()
    found = {}

    def add(step, content, **parameters):
        found[step] = make(
            store, step, next(keys), {step: content}, needs=[*found.values()], age=age, **parameters
        )

    add("fetch", data, origins=origins)
    add("calibrate", data)
    add("quantize", data)
    add("dress", found["quantize"].files / "quantize")
    add("attest", data, variant=variant, builder="b")
    return {step: (one.step, one.key) for step, one in found.items()}


def there(store):
    return {(folder.parent.name, folder.name) for folder in contents.folders(store)}


def test_a_folder_of_the_user_is_no_store(tmp_path):
    """In `tmp` and `trash` of a store everything is removed."""
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp" / "mine").touch()
    (tmp_path / "Documents").mkdir()
    (tmp_path / "Documents" / "letter").touch()
    with pytest.raises(StoreError, match="is not a store: it has 'Documents' and no result"):
        contents.require_store(tmp_path)
    (tmp_path / "Documents" / "letter").unlink()  # as a step's folder that has no result yet
    assert contents.require_store(tmp_path) == tmp_path


def test_a_store_is_new_or_has_results(store):
    make(store, "quantize", "0", {"shard": b"x"})
    (store.root / "notes").write_text("mine", encoding="utf-8")
    assert contents.require_store(store.root) == store.root
    assert contents.require_store(store.root / "new") == store.root / "new"


def test_list(store, tmp_path):
    """A line a result in the order of a build, with the variants that it was made for."""
    line(store, "abcde")
    os.link(store.root / "dress" / ("d" * 64) / "files/dress", tmp_path / "published")
    lines = list(survey.lines(store))
    assert [one.split()[:2] for one in lines] == [
        ["fetch", "a" * 12], ["calibrate", "b" * 12], ["quantize", "c" * 12], ["dress", "d" * 12],
        ["attest", "e" * 12],
    ]  # fmt: skip
    assert all(one.endswith(FLAGSHIP) for one in lines)
    assert [("shared" in one) for one in lines] == [False, False, True, True, False]
    assert next(survey.lines(store, full=True)).split()[1] == "a" * 64


def test_size_counts_bytes_once(store):
    make(store, "quantize", "a", {"shard": bytes(3_000_000)})
    shard = store.root / "quantize" / ("a" * 64) / "files/shard"
    make(store, "dress", "b", {"shard": shard, "config": bytes(1_000_000)})
    (store.root / "trash/old").mkdir(parents=True)
    (store.root / "trash/old/file").write_bytes(bytes(5_000_000))
    found = dict(one.split(maxsplit=1) for one in survey.sizes(store) if "in all" not in one)
    assert (found["quantize"], found["dress"], found["trash"]) == ("3.00 MB", "1.00 MB", "5.00 MB")
    assert survey.sizes(store)[-1].split() == ["in", "all", "9.00", "MB"]


def test_the_newest_build_of_each_line_and_what_it_needs_stay(store, said):
    """A line is a variant, its builder and its base; an older build of one goes as a whole."""
    old, new = line(store, "abcde"), line(store, "fghij", age=OLD - 60)
    other = line(store, "klmno", variant="another")
    found = gc.gc(store, days=14)
    # Both have the same base here, which nobody lists: of one line, the newer one stays.
    assert {(one.step, one.key) for one in found.results} == set(old.values())
    assert there(store) == {*old.values(), *new.values(), *other.values()}
    assert said[-1].startswith("5 of 15 results and 0 leftovers would be removed")
    assert gc.gc(store, days=14, confirm=True).results
    assert there(store) == {*new.values(), *other.values()}
    assert list((store.root / "trash").iterdir()) == []
    assert list((store.root / "locks").iterdir()) == []
    assert gc.gc(store, days=14, confirm=True).results == ()


def test_what_was_used_of_late_stays_with_all_that_it_needs(store):
    line(store, "abcde")
    line(store, "fghij", age=OLD - 60)
    store.get("quantize", "c" * 64)
    gone = {one.step for one in gc.gc(store, days=14).results}
    assert gone == {"dress", "attest"}
    assert {one.step for one in gc.gc(store, days=0).results} == {
        "fetch", "calibrate", "quantize", "dress", "attest",
    }  # fmt: skip


@pytest.mark.parametrize("base", ["hub", "mirror", "local"])
def test_calibrations_of_real_bases_stay_until_they_are_asked_for(store, base):
    """They cost hours; so does one whose base is not known any more."""
    old = line(store, "abcde", base=base)
    line(store, "fghij", age=OLD - 60)
    make(store, "calibrate", "z", {"calibration": b"of a base that is gone"})
    make(store, "perplexity", "y", {"perplexity.json": b"1"})
    gone = {(one.step, one.key) for one in gc.gc(store).results}
    assert gone == {old[step] for step in ("quantize", "dress", "attest")}
    gone = {(one.step, one.key) for one in gc.gc(store, calibrations=True).results}
    assert gone == {*old.values(), ("calibrate", "z" * 64), ("perplexity", "y" * 64)}


def test_what_is_freed_is_what_has_no_other_name(store, tmp_path):
    """A shard in two results is freed once, and not at all while a published folder has it."""
    make(store, "quantize", "a", {"shard": bytes(3_000_000)})
    shard = store.root / "quantize" / ("a" * 64) / "files/shard"
    make(store, "dress", "b", {"shard": shard})
    assert 3_000_000 < gc.gc(store).bytes < 3_100_000
    os.link(shard, tmp_path / "published")
    assert gc.gc(store).bytes < 100_000


@contextmanager
def running(script, *arguments):
    """A process that has said that it has what it is to have."""
    with subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as child:  # fmt: skip
        try:
            assert child.stdout.readline() == b"has it\n"
            yield child
        finally:
            child.kill()


def test_what_a_process_uses_stays(store, said):
    """Even one that is stopped; when it is killed, nobody uses it."""
    make(store, "quantize", "a", {"shard": b"x"})
    with running(HOLDS, store.root, "quantize", "a" * 64) as child:
        child.send_signal(signal.SIGSTOP)
        for confirm in (False, True):
            assert gc.gc(store, days=0, confirm=confirm).results == ()
            assert said[0] == "  quantize  aaaaaaaaaaaa  not needed, but in use"
        assert there(store)
    assert gc.gc(store, days=0, confirm=True).results
    assert there(store) == set()


def test_what_is_in_the_ledger_of_a_running_build_stays(store, tmp_path):
    """Between two of its processes nobody else holds it; that of a dead build is none."""
    made = make(store, "quantize", "a", {"shard": b"x"})
    job = Job(recipe=recipe.find(FLAGSHIP), store=store, rehearsal=True)
    ledgers.write(tmp_path / "ledger.json", job, {"quantize": made})
    del made
    with running(WRITES, store.root, tmp_path / "ledger.json") as child:
        for confirm in (False, True):
            assert gc.gc(store, days=0, confirm=confirm).results == ()
        child.kill()
        child.wait()
        found = gc.gc(store, days=0, confirm=True)
    assert [one.step for one in found.results] == ["quantize"]
    assert found.leftovers == 1


def test_a_ledger_that_is_not_understood_ends_it(store, tmp_path):
    """Of another version, say; what its build needs is not known."""
    make(store, "quantize", "a", {"shard": b"x"})
    (tmp_path / "ledger.json").write_text('{"later":1}', encoding="utf-8")
    with (
        running(WRITES, store.root, tmp_path / "ledger.json"),
        pytest.raises(StoreError, match="is the ledger of a build that runs"),
    ):
        gc.gc(store, days=0, confirm=True)
    assert there(store)


def test_leftovers(store, said):
    """Folders without an owner, trash, free locks and rebuilds; what was set aside if asked for."""
    for name in ("tmp/quantize-old", "trash/body", "reproduce/key", "aside/result", "hub/x"):
        (store.root / name).mkdir(parents=True)
    (store.root / "locks").mkdir()
    (store.root / "locks/quantize-old.lock").write_text("process 1 on a machine", encoding="utf-8")
    assert gc.gc(store).leftovers == 4
    assert "reproduce/key: left over" in said
    with store.scratch("ledger"), store.lock("reproduce", "key"):
        assert gc.gc(store, confirm=True).leftovers == 0  # scratch has removed the others
        assert (store.root / "reproduce/key").is_dir()
        assert len(list((store.root / "tmp").iterdir())) == 1
    assert gc.gc(store, confirm=True, aside=True).leftovers == 2
    left = sorted(path.relative_to(store.root).as_posix() for path in store.root.rglob("*"))
    assert left == ["aside", "hub", "hub/x", "locks", "reproduce", "tmp", "trash"]


def test_builders_beside_gc(store, tmp_path):
    """Real processes: what a builder has stays, and a lock file that gc removes locks no two."""
    count, end = tmp_path / "count", tmp_path / "end"
    count.write_text("0", encoding="utf-8")
    command = [sys.executable, "-c"]
    collector = subprocess.Popen([*command, COLLECTS, store.root, end], stderr=subprocess.DEVNULL)
    builders = [subprocess.Popen([*command, BUILDS, store.root, count]) for _ in range(2)]
    assert [child.wait(timeout=100) for child in builders] == [0, 0]
    end.touch()
    assert collector.wait(timeout=30) == 0
    assert count.read_text(encoding="utf-8") == "100"


@pytest.mark.parametrize("step", [step.name for step in STEPS])
def test_fsck_finds_a_record_that_lists_nothing(store, said, step):
    """Whether the files are there, which nobody hashes then, or are gone as well."""
    for key, gone in (("a", False), ("b", True)):
        made = make(store, step, key, {"file": b"x"})
        if gone:
            shutil.rmtree(made.files)
            made.files.mkdir()
        record = made.record.model_copy(update={"outputs": {}})
        made.files.with_name("record.json").write_bytes(record.encoded())
    with pytest.raises(StoreError, match="2 of 2 results were damaged: 2 set aside"):
        fsck.fsck(store)
    assert sum("does not list " in one for one in said) == 2
    assert there(store) == set()


def test_fsck_finds_a_file_that_no_record_lists(store, said):
    made = make(store, "quantize", "a", {"shard": b"x"})
    (made.files / "another").touch()
    with pytest.raises(StoreError, match="1 of 1 results were damaged: 1 set aside"):
        fsck.fsck(store)
    assert said[0].startswith(f"{made.files}/another: is not in the record of the result")


def test_a_record_and_a_ledger_as_large_as_no_memory_is(store, said):
    """300 GB each, which here are one hole."""
    made = make(store, "quantize", "a", {"shard": b"x"})
    make(store, "quantize", "b", {"shard": b"x"})
    record = made.files.with_name("record.json")
    os.truncate(record, 300 * 10**9)
    assert [one.split()[1] for one in survey.lines(store)] == ["b" * 12]
    assert [one.key for one in gc.gc(store).results] == ["b" * 64]
    with pytest.raises(StoreError, match="1 of 2 results were damaged: 1 set aside"):
        fsck.fsck(store)
    assert f"{record}: is no record of a result: has more than 16777216 bytes. It is" in str(said)
    with store.scratch("ledger") as folder:
        (folder / "ledger.json").touch()
        os.truncate(folder / "ledger.json", 300 * 10**9)
        with pytest.raises(StoreError, match="is the ledger of a build that runs"):
            gc.gc(store, days=0)
        with pytest.raises(StoreError, match="is no ledger of a build: .*has more than 16777216"):
            ledgers.read(folder / "ledger.json")


def flip(path):
    """One bit, under the same size and time."""
    stat = path.stat()
    data = path.read_bytes()
    path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_fsck_of_a_sound_store(store, said):
    line(store, "abcde")
    used = (store.root / "fetch" / ("a" * 64) / "used").stat().st_mtime
    fsck.fsck(store)
    assert said == [f"{store.root}: 5 results are what was recorded"]
    assert (store.root / "fetch" / ("a" * 64) / "used").stat().st_mtime == used


def test_fsck_finds_what_is_damaged(store, said):
    """A flipped bit in a shard that two results have, a file that is gone, a record that is cut."""
    made = line(store, "abcde")
    kept = line(store, "fghij")
    flip(store.root / "quantize" / ("c" * 64) / "files/quantize")
    (store.root / "attest" / ("e" * 64) / "files/attest").unlink()
    (store.root / "calibrate" / ("b" * 64) / "record.json").write_text("{", encoding="utf-8")
    (store.root / "tmp/old").mkdir()
    with pytest.raises(StoreError, match="4 of 10 results were damaged: 3 removed, 1 set aside"):
        fsck.fsck(store)
    assert there(store) == {made["fetch"], *kept.values()}
    for step in ("quantize", "dress"):
        assert sum(f"files/{step}: has sha256 " in one for one in said) == 1
    assert any("attest eeeeeeeeeeee: " in one and "No such file" in one for one in said)
    assert any("is set aside as" in one for one in said)
    assert "tmp/old: is left over" in said
    fsck.fsck(store)
    assert said[-1] == f"{store.root}: 6 results are what was recorded"


@pytest.mark.parametrize("name", ["record.json", "files/quantize", "used"])
def test_pipes(store, name):
    """As a real process, which would wait for ever: a result with one is damaged, and goes."""
    line(store, "abcde")
    pipe = store.root / "quantize" / ("c" * 64) / name
    pipe.unlink()
    os.mkfifo(pipe)
    for command, code in (("list", 0), ("gc", 0), ("fsck", StoreError.code)):
        done = subprocess.run(
            [sys.executable, "-m", "forge", "store", command, "--store", store.root],
            capture_output=True, encoding="utf-8", check=False, timeout=30,
        )  # fmt: skip
        assert done.returncode == code, done.stderr
    assert "is no regular file" in done.stderr
    assert len(there(store)) == 4


@pytest.fixture(params=["pipe", "link", "link to itself", "folder"])
def strange(request, store):
    """A result with something of a stranger in its lock file's place; a link leads to `mine`."""
    used = make(store, "quantize", "a", {"shard": b"x"}).files.with_name("used")
    (store.root / "mine").touch()
    used.unlink()
    if request.param == "pipe":
        os.mkfifo(used)
    elif request.param == "folder":
        used.mkdir()
    else:
        used.symlink_to("used" if request.param == "link to itself" else store.root / "mine")
    os.utime(used, (1, 1), follow_symlinks=False)
    return used


def test_a_result_that_nobody_can_hold_is_listed(store, said, strange):
    (found,) = survey.lines(store)
    assert found.startswith("quantize    aaaaaaaaaaaa  ")
    assert said == []
    assert os.path.lexists(strange)


@pytest.mark.usefixtures("strange")
def test_a_result_that_nobody_can_hold_goes_as_any_other(store, said):
    """Though somebody holds what a link leads to, which stays."""
    with locks.held(store.root / "mine", "it"):
        for confirm in (False, True):
            assert [one.step for one in gc.gc(store, confirm=confirm).results] == ["quantize"]
        assert locks.is_held(store.root / "mine")
    assert there(store) == set()
    assert "  quantize  aaaaaaaaaaaa  removed" in said


def test_fsck_sets_a_result_aside_that_nobody_can_hold(store, said, strange):
    with pytest.raises(StoreError, match="1 of 1 results were damaged: 1 set aside"):
        fsck.fsck(store)
    assert said[0].startswith(f"{strange}: is no regular file. It is set aside as ")
    assert there(store) == set()
    assert (store.root / "mine").is_file()
    assert fsck.fsck(store) is None


@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_a_ledger_that_is_no_file_ends_it(store, kind):
    """The build that runs has one all the same, by which it needs something."""
    make(store, "quantize", "a", {"shard": b"x"})
    with store.scratch("ledger") as folder:
        path = folder / "ledger.json"
        path.mkdir() if kind == "folder" else os.mkfifo(path)
        with pytest.raises(StoreError, match="is the ledger of a build that runs"):
            gc.gc(store, days=0, confirm=True)
        with pytest.raises(StoreError, match="is no ledger of a build"):
            ledgers.read(path)
    assert there(store)


@contextmanager
def refused(monkeypatch, *paths):
    """The system does not let these be opened; injected into `os`, since root may read all."""
    real, scandir = os.open, os.scandir

    def told(of):
        def call(path, *arguments, **named):
            if str(path) in map(str, paths):  # `open` hands on a text
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            return of(path, *arguments, **named)

        return call

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", told(real))
        patched.setattr(os, "scandir", told(scandir))
        patched.setattr(os, "listdir", told(os.listdir))
        yield


def test_what_cannot_be_read_hides_no_damage(store, said, monkeypatch):
    """A file, a record and a step's folder are refused; a result after each of them is damaged."""
    made = line(store, "abcde")
    places = {step: store.root / step / key for step, (_, key) in made.items()}
    unread = (
        places["calibrate"] / "files/calibrate",
        places["attest"] / "record.json",
        store.root / "fetch",
    )
    flip(places["quantize"] / "files/quantize")  # which the next step has as well
    with (
        refused(monkeypatch, *unread),
        pytest.raises(StoreError, match=r"2 of 4 results were .* 2 of 4 could not be checked"),
    ):
        fsck.fsck(store)
    for path in unread:
        assert sum(f"{path}: Permission denied" in one for one in said) == 1
    assert there(store) == {made[step] for step in ("fetch", "calibrate", "attest")}
    with (
        refused(monkeypatch, *unread),
        pytest.raises(FileSystemError, match="2 of 2 results and 1 folders could not be checked"),
    ):
        fsck.fsck(store)


def test_list_and_gc_go_on_after_what_cannot_be_read(store, said, monkeypatch):
    """Nobody knows what that needs: leftovers go, and no result does."""
    line(store, "abcde")
    record = store.root / "attest" / ("e" * 64) / "record.json"
    (store.root / "tmp/old").mkdir()
    lines = []
    with refused(monkeypatch, record):
        with pytest.raises(FileSystemError, match="1 results or folders could not be read"):
            lines.extend(survey.lines(store))
        assert len(lines) == 4
        with pytest.raises(FileSystemError, match="no result was removed"):
            gc.gc(store, days=0, calibrations=True, confirm=True)
    assert sum(f"{record}: Permission denied" in one for one in said) == 2
    assert len(there(store)) == 5
    assert not (store.root / "tmp/old").exists()


def test_files_of_strangers(store, said):
    """They are told as that, and stay; a link to nowhere among them."""
    line(store, "abcde")
    notes, link = store.root / "dress/notes.txt", store.root / "dress/link"
    notes.write_text("x", encoding="utf-8")
    link.symlink_to("nowhere")
    (store.root / "README").touch()
    fsck.fsck(store)
    assert said[:3] == [
        f"{name}: is no result; it is left as it is"
        for name in ("README", "dress/link", "dress/notes.txt")
    ]
    assert said[3] == f"{store.root}: 5 results are what was recorded"
    gc.gc(store, days=0, calibrations=True, aside=True, confirm=True)
    assert len(there(store)) == 5
    assert notes.is_file()
    assert link.is_symlink()


@pytest.mark.parametrize("kind", ["notes", "folder", "link", "pipe"])
def test_what_is_no_lock_file_is_named(store, said, kind):
    """Each build stops at it, so it is neither left over nor removed."""
    make(store, "quantize", "a", {"shard": b"x"})
    foreign = store.root / "locks" / "mine"
    if kind == "notes":
        foreign.write_text("mine", encoding="utf-8")
    elif kind == "folder":
        foreign.mkdir()
    elif kind == "link":
        foreign.symlink_to(store.root / "nowhere")
    else:
        os.mkfifo(foreign)
    with pytest.raises(StoreError, match="until these are moved away: locks/mine"):
        fsck.fsck(store)
    assert "locks/mine: is no lock file, and the store needs one" in said
    assert not any("left over" in line for line in said)
    assert gc.gc(store).leftovers == 0
    assert os.path.lexists(foreign)


@pytest.mark.parametrize("name", ["dress", "locks", "tmp", "trash"])
@pytest.mark.parametrize("kind", ["file", "link"])
def test_no_folder_in_the_place_of_one(store, said, name, kind):
    """Every build would fail there: fsck finds it, and a build says what to do before its work."""
    store.root.mkdir()
    path = store.root / name
    path.touch() if kind == "file" else path.symlink_to("nowhere")
    with pytest.raises(StoreError, match=f"until these are moved away: {name}"):
        fsck.fsck(store)
    assert f"{name}: is no folder, and the store needs one" in said
    worked = []
    with pytest.raises(StoreError, match=rf"/{name}: is no folder, .* Move it away") as told:
        store.make("dress", "a" * 64, worked.append, {})
    assert str(path) in str(told.value)
    assert worked == []
    path.rename(store.root.with_name("moved"))
    make(store, "dress", "a", {"shard": b"x"})
    fsck.fsck(store)


@pytest.mark.parametrize("name", sorted(EMPTIED))
def test_nothing_is_removed_behind_a_link(store, tmp_path, name):
    """Somebody put a folder that the store empties on another disk, beside what he has there."""
    make(store, "dress", "a", {"shard": b"x"})
    mine = tmp_path / "mine"
    (mine / "thesis").mkdir(parents=True)
    (mine / "notes").touch()
    path = store.root / name
    if path.is_dir():
        path.rmdir()
    path.symlink_to(mine)
    for command in (
        lambda: gc.gc(store, days=0, aside=True),
        lambda: gc.gc(store, days=0, aside=True, confirm=True),
        lambda: store.clear(aside=True),
    ):
        with pytest.raises(StoreError, match=f"{path}: is no folder, but a link, .* Move it away"):
            command()
    with pytest.raises(StoreError, match=f"until these are moved away: {name}"):
        fsck.fsck(store)
    with suppress(StoreError):  # it needs neither `aside` nor `reproduce`
        make(store, "dress", "b", {"shard": b"y"})
    assert sorted(entry.name for entry in mine.iterdir()) == ["notes", "thesis"]


def test_the_commands(store):
    """As real processes; a damaged store has the exit code of one."""
    make(store, "quantize", "a", {"shard": b"x"})

    def command(*words, code=0):
        done = subprocess.run(
            [sys.executable, "-m", "forge", "store", *words, "--store", store.root],
            capture_output=True, encoding="utf-8", check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr

    assert "a" * 64 in command("list", "--full")
    flip(store.root / "quantize" / ("a" * 64) / "files/shard")
    assert "1 of 1 results were damaged" in command("fsck", code=StoreError.code)
    make(store, "quantize", "a", files={"shard": b"x"})
    assert "1 of 1 results" in (said := command("gc"))
    assert said.endswith("Remove it with `--confirm`.\n")
    assert there(store)
