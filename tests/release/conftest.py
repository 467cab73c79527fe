"""What the tests of releases share: a small signed release, made once."""

from contextlib import contextmanager

import pytest

from forge.manifest.policy import KNOWN_BUILDERS, Policy
from forge.release import keys


@contextmanager
def without_hub():
    from huggingface_hub import constants

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        yield


@pytest.fixture(autouse=True, scope="module")
def offline():
    """No hub for a module, its fixtures included; tests of other folders may need one."""
    with without_hub():
        yield


@pytest.fixture(scope="session")
def good(tmp_path_factory):
    """The bench with a good release; it is not to be touched."""
    from assets.verify import make

    with without_hub():  # what lasts a session is made before what lasts a module
        return make.good(tmp_path_factory.mktemp("good"))


@pytest.fixture
def bench(good, tmp_path):
    """A bench of one's own."""
    return good.copy(tmp_path / "release")


@pytest.fixture(scope="session")
def demands(good):
    """What a stranger demands who has the publisher's public key and takes rehearsals."""
    from assay.release import steps, trust

    policy = Policy(builders=KNOWN_BUILDERS)
    return steps.Demands(trust=trust.by_key(good.key.with_name("key.pub")), policy=policy)


@pytest.fixture
def new_key(tmp_path):
    """Makes a key of a name."""

    def make(name):
        keys.generate(tmp_path / name)
        return tmp_path / name

    return make


@pytest.fixture
def fuzz(request):
    """How many times the usual number of examples a fuzzer tries."""
    return request.config.getoption("--fuzz")
