"""A short sample of `make faults`, and the harness itself on a command that damages everything."""

import json
import subprocess
import sys
from pathlib import Path

from faults.report import BAD

HERE = Path(__file__).parent


def tried(report, *words):
    """The rows of a run of the harness, by command, and its exit code."""
    done = subprocess.run(
        [sys.executable, HERE, "--report", report, *words],
        capture_output=True, encoding="utf-8", check=False,
    )  # fmt: skip
    assert report.exists(), done.stderr
    rows = json.loads(report.read_text(encoding="utf-8"))
    return {row["command"]: row for row in rows}, done


def test_commands_killed_and_refused(tmp_path):
    """Of every kind of fault a few, at a fixed stride: nothing is lost, left, wedged or untold."""
    rows, done = tried(tmp_path / "faults.json", "--sample", "2")
    assert done.returncode == 0, done.stdout
    assert {"build", "release", "sign", "reproduce", "attest-reproduction", "publish"} < set(rows)
    assert rows["build"]["operations"] > 300
    for row in rows.values():
        assert [row[name] for name in BAD] == [0] * len(BAD), row["findings"]
        assert row["trials"] >= 20
        assert row["kills_survived"] > 0
        assert row["refusals_told"] > 0
        assert row.get("unreadable", 0) <= row["reads"]
    assert {name for name, row in rows.items() if row.get("unreadable")} >= {
        "build", "release", "sign", "reproduce", "attest-reproduction", "publish",
    }  # fmt: skip


def test_the_harness_sees_every_kind_of_damage(tmp_path):
    """Half a result, a scratch file that stays, a command that never runs again, silence."""
    rows, done = tried(tmp_path / "faults.json", "careless")
    assert done.returncode == 1
    row = rows["careless"]
    assert all(row[name] > 0 for name in BAD), row
    for found in (
        "lost: killed within",
        "lost: refused (EACCES)",
        "wedged: killed after",
        "tracebacks: refused (EIO)",
        "untold: refused (EIO)",
        "wedged: unreadable from",
        "tracebacks: unreadable from",
    ):
        assert any(line.startswith(found) for line in row["findings"]), found
