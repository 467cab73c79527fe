"""What to do about an error, in the words of the interface in use.

The library's errors state facts and carry the code of their remedy (:class:`HallmarkError`). This
is the one table that turns a code into words, and the only module besides the command lines that
names targets and variables of the Makefile. Only command lines import it.
"""

import os
import shlex
from collections.abc import Mapping

from forge.core.commandline import INTERFACE
from forge.core.errors import HallmarkError

# By code: with GNU make, and with the commands themselves. In braces: facts that the error carries.
REMEDIES: Mapping[str, tuple[str, str]] = {
    # Recipes and their pins
    "unpinned": (
        "Run `make lock VARIANT={variant}`, which asks the hub for the commit.",
        "Run `python -m forge lock {variant}`, which asks the hub for the commit.",
    ),
    "not-ready": (
        "Run `make rehearse VARIANT={variant}`, which works all the same.",
        "Run `python -m forge build {variant} --rehearse`, which works all the same.",
    ),
    "unpinned-source": (
        "Run `make lock VARIANT=<variant>` for the recipe that names it.",
        "Run `python -m forge lock <variant>` for the recipe that names it.",
    ),
    # Inputs
    "no-mirror": (
        "Correct MIRROR=<dir>, or leave it out.",
        "Correct `--mirror`, or leave it out.",
    ),
    "offline": (
        "Unset HF_HUB_OFFLINE, or name a mirror with MIRROR=<dir>.",
        "Unset HF_HUB_OFFLINE, or name a mirror with `--mirror <dir>`.",
    ),
    "no-revision": (
        "Correct the recipe's revision, or name a mirror that has it with MIRROR=<dir>.",
        "Correct the recipe's revision, or name a mirror that has it with `--mirror <dir>`.",
    ),
    "unreachable": (
        "Run again when the hub can be reached, or name a mirror with MIRROR=<dir>.",
        "Run again when the hub can be reached, or name a mirror with `--mirror <dir>`.",
    ),
    "busy": (
        "Run again later, or name a mirror with MIRROR=<dir>. Finished files are kept.",
        "Run again later, or name a mirror with `--mirror <dir>`. Finished files are kept.",
    ),
    "login": (
        "Log in with `hf auth login`, or set HF_TOKEN to a token that is valid.",
        "Log in with `hf auth login`, or set HF_TOKEN to a token that is valid.",
    ),
    "no-access": (
        "Log in with `hf auth login`, or set HF_TOKEN, for an account that may read it.",
        "Log in with `hf auth login`, or set HF_TOKEN, for an account that may read it.",
    ),
    "gated": (
        "Accept its terms at {page}, then log in with `hf auth login` or set HF_TOKEN.",
        "Accept its terms at {page}, then log in with `hf auth login` or set HF_TOKEN.",
    ),
    "no-repository": (
        "Correct the recipe, or log in with `hf auth login` or set HF_TOKEN, for an account that "
        "may read it.",
        "Correct the recipe, or log in with `hf auth login` or set HF_TOKEN, for an account that "
        "may read it.",
    ),
    "withdrawn": (
        "Name a mirror that has it with MIRROR=<dir>, or choose another in the recipe.",
        "Name a mirror that has it with `--mirror <dir>`, or choose another in the recipe.",
    ),
    "no-hub": (
        "Check HF_ENDPOINT and the proxy, or name a mirror with MIRROR=<dir>.",
        "Check HF_ENDPOINT and the proxy, or name a mirror with `--mirror <dir>`.",
    ),
    "certificate": (
        "Set SSL_CERT_FILE to a file with the certificates of its authority.",
        "Set SSL_CERT_FILE to a file with the certificates of its authority.",
    ),
    "local-base": (
        "Name that base with BASE=<dir>.",
        "Name that base with `--base <dir>`.",
    ),
    "wrong-base": (
        "Correct BASE=<dir>, the folder of the checkpoint.",
        "Correct `--base`, the folder of the checkpoint.",
    ),
    "no-local-base": (
        "Leave BASE out, or name a mirror that has the base with MIRROR=<dir>.",
        "Leave `--base` out, or name a mirror that has the base with `--mirror <dir>`.",
    ),
    "other-input": (
        "Name what the release was made from: its base with BASE=<dir>, a mirror with "
        "MIRROR=<dir>.",
        "Name what the release was made from: its base with `--base <dir>`, a mirror with "
        "`--mirror <dir>`.",
    ),
    # The result
    "occupied": (
        "Move {folder} away, or choose another folder with OUT=<dir>.",
        "Move {folder} away, or choose another folder with `--out <dir>`.",
    ),
    "no-place": (
        "Choose another folder with OUT=<dir>.",
        "Choose another folder with `--out <dir>`.",
    ),
    "replace": (
        "Move {folder} away, choose another folder with OUT=<dir>, or say REPLACE=1 to lose that.",
        "Move {folder} away, choose another folder with `--out <dir>`, or say `--replace` to lose "
        "that.",
    ),
    # Environments
    "no-environment": (
        "Run the target again, which makes its environments from their lock files.",
        "Start the command through nox, which makes its environments from their lock files: "
        "`.venv/bin/python -m nox -s build -- <variant>`.",
    ),
    "no-vllm": (
        "Run `make verify`, which has an environment with vLLM.",
        "Run in an environment made from lockfiles/verify.txt, or from lockfiles/verify-cpu.txt "
        "where there is no GPU.",
    ),
    "no-modelopt": (
        "Run `make reproduce FROM=<dir> RECALIBRATE=1`, which has an environment with modelopt.",
        "Run in an environment made from lockfiles/build.txt.",
    ),
    # Containers and what they run on
    "host": (
        "Or build on this machine without an image, with RUNNER=host.",
        "Or build on this machine without an image, with `--runner host`.",
    ),
    "make-image": (
        "Make the image with `make image`, or build without one, with RUNNER=host.",
        "Make the image with `python -m forge image`, or build without one, with `--runner host`.",
    ),
    "image-base": (
        "Correct IMAGE_BASE, or leave it out to use the pinned base.",
        "Correct `--base`, or leave it out to use the pinned base.",
    ),
    "no-gpu": (
        "A rehearsal needs no GPU: run `make image` on this machine, then "
        "`make rehearse VARIANT=<variant> RUNNER=image`. Or build without an image, with "
        "RUNNER=host.",
        "A rehearsal needs no GPU: run `python -m forge image` on this machine, then "
        "`python -m forge build <variant> --rehearse --runner image`. Or build without an image, "
        "with `--runner host`.",
    ),
    "less-memory": (
        "Lower MEMORY=<GiB>, or build without an image, with RUNNER=host.",
        "Lower `--memory`, or build without an image, with `--runner host`.",
    ),
    "less-shared": (
        "End other programs, lower SHARED=<GiB>, or build without an image, with RUNNER=host.",
        "End other programs, lower `--shared`, or build without an image, with `--runner host`.",
    ),
    "more-memory": (
        "Run again with more, MEMORY=<GiB>, or without an image, with RUNNER=host.",
        "Run again with more, `--memory <GiB>`, or without an image, with `--runner host`.",
    ),
    "more-hours": (
        "Run again to go on, with HOURS=<n> for more.",
        "Run again to go on, with `--hours <n>` for more.",
    ),
    # Releases, signing and publishing
    "not-released": (
        "Run `make release DIR={folder}`.",
        "Run `python -m forge release {folder}`.",
    ),
    "replace-signed": (
        "Say REPLACE=1 to lose them, and sign again.",
        "Say `--replace` to lose them, and sign again.",
    ),
    "not-signed": (
        "Run `make sign DIR={folder} KEY=<private key>`.",
        "Run `python -m forge sign {folder} --key <private key>`.",
    ),
    "rehearsal": (
        "To publish it all the same, add REHEARSAL=1.",
        "To publish it all the same, add `--rehearsal`.",
    ),
    "unconfirmed": (
        "Upload with CONFIRM=1.",
        "Upload with `--confirm`.",
    ),
    "unconfirmed-removal": (
        "Remove it with CONFIRM=1.",
        "Remove it with `--confirm`.",
    ),
    "may-write": (
        "Log in with `hf auth login`, or set HF_TOKEN, for an account that may write there.",
        "Log in with `hf auth login`, or set HF_TOKEN, for an account that may write there.",
    ),
    "no-key": (
        "Name the private key with KEY=<file>.",
        "Name the private key with `--key <file>`.",
    ),
    "no-identity": (
        "Name a private key with KEY=<file>, or sign in a CI job that has an OIDC identity.",
        "Name a private key with `--key <file>`, or sign in a CI job that has an OIDC identity.",
    ),
    "no-private-key": (
        "Make a key with `make keygen KEY=<file>`.",
        "Make a key with `python -m forge keygen <file>`.",
    ),
    "key-exists": (
        "Name another file with KEY=<file>.",
        "Name another file.",
    ),
    # Verifying a release
    "whom-to-trust": (
        "Name one: KEY=<public key>, or IDENTITY=<who> and ISSUER=<who vouches>, a POLICY=<file> "
        "that has keys, or UNSIGNED=1 if nobody is to vouch for it.",
        "Name one: `--key <public key>`, or `--identity <who>` and `--issuer <who vouches>`, a "
        "`--policy <file>` that has keys, or `--unsigned` if nobody is to vouch for it.",
    ),
    "no-commit-here": (
        "Verify in a clone that git can read, or leave COMMIT out, and `commit` in the policy.",
        "Verify in a clone that git can read, or leave `--commit` out, and `commit` in the policy.",
    ),
    "take-rehearsal": (
        "If a rehearsal is what you expect, say REHEARSAL=1, or name its builder in the policy.",
        "If a rehearsal is what you expect, say `--rehearsal`, or name its builder in the policy.",
    ),
    "signed-by-key": (
        "Check it with KEY=<public key>.",
        "Check it with `--key <public key>`.",
    ),
    "signed-by-identity": (
        "Check it with IDENTITY=<who> and ISSUER=<who vouches>.",
        "Check it with `--identity <who>` and `--issuer <who vouches>`.",
    ),
}


def remedy(error: HallmarkError) -> str | None:
    """What to do about an error, if its class or whoever raised it knows."""
    return None if error.remedy is None else words(error.remedy, error.facts)


def words(code: str, facts: Mapping[str, object]) -> str:
    """The remedy of a code in the words of the interface in use, its facts quoted for a shell."""
    make, command = REMEDIES[code]
    text = make if os.environ.get(INTERFACE) == "make" else command
    return text.format_map({name: shlex.quote(str(fact)) for name, fact in facts.items()})
