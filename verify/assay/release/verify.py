"""Verifies a release: the steps below, in this order, up to the first that fails.

 1. files: regular files with names that all systems agree on, not too many nor too large.
 2. bundles: each statement has its signature, a Sigstore bundle with one envelope.
 3. signatures: each over exactly the statement that is then read, by the one who is trusted.
 4. statements: provenance and list of the release, of the types that they should have, by a key
    that may sign it; neither key nor release was withdrawn.
 5. subjects: the statements name exactly the files here, each by size and then by sha256.
 6. listings: SHA256SUMS and tensors.jsonl say what the files and tensors are.
 7. record: the steps' records are whole, and the scales stored are those of the calibration record.
 8. chain: each step read what the others wrote, from the inputs to the files that are here.
 9. sources: recipe, lock files and code are those of the commit that the manifest names.
10. builder: one that the policy takes.
11. recipe: inputs, parameters and builder are what the recipe of that commit says.
12. contents: tensors and files are what the inputs give, all but the packed weights by digest.
13. expected: variant, digest, date, commit, base and formats are those that were stated beforehand.
14. verification: the assay found what the policy demands.
15. documents: card, notice and report are what the provenance gives.
16. summaries: the test result and the bill of materials are what manifest, recipe and report give.
17. reproductions: as many others as demanded have rebuilt it, and lately enough.

Nothing here needs torch, a GPU or (with a key) the network. All files are opened in step 1 and each
is read once, from that descriptor; those that are not signed statements are read in step 5, when
their names and sizes are those of the signed list. A file that changes while it is read is an
error. What is changed afterwards is not seen: copy a release to where only you can write before you
verify it.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

from assay.release import expectations, steps
from assay.release.steps import Case, Demands
from forge.core import system_errors
from forge.core.errors import HallmarkError, ReleaseError
from forge.manifest import release_list

STEPS: Mapping[str, Callable[[Case], str]] = {
    "files": steps.check_files,
    "bundles": steps.check_bundles,
    "signatures": steps.check_signatures,
    "statements": steps.check_statements,
    "subjects": steps.check_subjects,
    "listings": steps.check_listings,
    "record": steps.check_record,
    "chain": steps.check_chain,
    "sources": steps.check_sources,
    "builder": steps.check_builder,
    "recipe": steps.check_recipe,
    "contents": steps.check_contents,
    "expected": steps.check_expected,
    "verification": steps.check_verification,
    "documents": steps.check_documents,
    "summaries": steps.check_summaries,
    "reproductions": steps.check_reproductions,
}


def verify(folder: Path, demands: Demands, say: Callable[[str], None]) -> str:
    """Runs the steps, telling the outcome of each in one line.

    Returns:
        Which release it is, and what was not stated, so not established, in one line.

    Raises:
        ReleaseError: with the step that failed, and why.
    """
    with ExitStack() as stack:
        case = Case(folder=folder, demands=demands, stack=stack)
        for number, (name, step) in enumerate(STEPS.items(), start=1):
            try:
                say(f"{number:>2}  pass  {name}: {_checked(step, case)}")
            except HallmarkError as error:
                why = " ".join(str(error).split())
                say(f"{number:>2}  FAIL  {name}: {why}")
                raise ReleaseError(
                    f"{folder}: {name}: {why}", remedy=error.remedy, **error.facts
                ) from error
        return _verdict(case)


def _verdict(case: Case) -> str:
    demands = case.demands
    digest = case.files[steps.MANIFEST].sha256
    missing = expectations.unstated(
        demands.expected,
        aged=bool(demands.policy.max_age_days or demands.policy.max_rebuild_age_days),
        signed=demands.trust is not None,
        rebuilt=bool(demands.policy.reproductions or demands.policy.max_rebuild_age_days),
    )
    without = f"; not established: {', '.join(missing)}" if missing else ""
    return f"{release_list.purl(case.manifest.asked.target, digest)}{without}"


def _checked(step: Callable[[Case], str], case: Case) -> str:
    """What a step found; what the system or the machine refused is a failure of the step.

    Raises:
        HallmarkError: it failed.
    """
    try:
        return step(case)
    except OSError as error:
        raise ReleaseError(f"cannot be read: {system_errors.told(error)}") from error
    except (MemoryError, RecursionError) as error:
        what = type(error).__name__
        raise ReleaseError(f"takes more than this process has ({what}).") from error
