"""Results of a small build that can be placed."""

from documents import manifest

from forge.manifest import sums


def attested(built, source="standin:x", level="structure", *, listed=False):
    """The results of a build with another manifest, by what it was made from and how verified.

    They have a `SHA256SUMS` of the checkpoint if it is to be `listed`.
    """
    stated = manifest(built.job.recipe.name, source).encoded()
    stated = stated.replace(b'"verified":"structure"', f'"verified":"{level}"'.encode())

    def write(out):
        (out / "provenance.json").write_bytes(stated)
        if listed:
            sums.write(out / "SHA256SUMS", built.results["dress"].digests)

    kept, key = built.job.store, f"{source} {level} {listed}"
    found = kept.get("attest", key) or kept.make("attest", key, write, {})
    return {**built.results, "attest": found}


def files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
