"""What the tests of releases share: a small signed release, made once."""

import pytest


@pytest.fixture(autouse=True, scope="session")
def offline():
    from huggingface_hub import constants

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        yield


@pytest.fixture(scope="session")
def good(tmp_path_factory, offline):  # noqa: ARG001
    """The bench with a good release; it is not to be touched."""
    from assets.verify import make

    return make.good(tmp_path_factory.mktemp("good"))


@pytest.fixture
def bench(good, tmp_path):
    """A bench of one's own."""
    return good.copy(tmp_path / "release")


@pytest.fixture(scope="session")
def demands(good):
    """What a stranger demands who has the publisher's public key."""
    from assay.release import steps, trust

    return steps.Demands(trust=trust.by_key(good.key.with_name("key.pub")))
