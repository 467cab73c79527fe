"""The keys of results, handed from one process of a contained build to the next in a file.

So a later process asks neither the hub nor the clock what an earlier one has decided.
"""

from pathlib import Path

from forge.core import canonical
from forge.core.errors import StoreError
from forge.core.store import Result, Store
from forge.pipeline import Needed


def write(ledger: Path, results: Needed) -> None:
    """Writes down the keys of results."""
    canonical.write(ledger, {step: result.key for step, result in results.items()})


def read(ledger: Path, store: Store) -> dict[str, Result]:
    """The results whose keys were written down.

    Raises:
        StoreError: one is not in the store, or not intact.
    """
    found = {step: store.get(step, key) for step, key in canonical.read(ledger).items()}
    lost = [step for step, result in found.items() if result is None]
    if lost:
        raise StoreError(f"{ledger}: the store has no intact result of {lost[0]!r}. Run again.")
    return {step: result for step, result in found.items() if result is not None}
