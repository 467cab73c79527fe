"""vLLM on a CPU has the NVFP4 kernel that the plugin lists there, once, or says what is wrong."""

import pytest

from assay import emulation
from forge.errors import EngineError

pytestmark = pytest.mark.engine


@pytest.fixture
def linear(monkeypatch):
    """The table of kernels as it is before any plugin has run; put back afterwards."""
    from vllm.model_executor.kernels import linear
    from vllm.platforms import PlatformEnum

    kernels = {**linear._POSSIBLE_NVFP4_KERNELS}
    kernels.pop(PlatformEnum.CPU, None)
    monkeypatch.setattr(linear, "_POSSIBLE_NVFP4_KERNELS", kernels)
    emulation.register.cache_clear()
    yield linear
    emulation.register.cache_clear()


def platform(monkeypatch, *, cpu):
    from vllm.platforms import current_platform

    monkeypatch.setattr(type(current_platform), "is_cpu", lambda _: cpu)


def listed(linear):
    from vllm.platforms import PlatformEnum

    return [kernel.__name__ for kernel in linear._POSSIBLE_NVFP4_KERNELS.get(PlatformEnum.CPU, [])]


def test_listed_once_however_often_it_is_called(linear, monkeypatch):
    platform(monkeypatch, cpu=True)
    emulation.register()
    emulation.register()
    assert listed(linear) == ["EmulationNvFp4LinearKernel"]


def test_nothing_on_a_gpu(linear, monkeypatch):
    platform(monkeypatch, cpu=False)
    before = {name: list(kernels) for name, kernels in linear._POSSIBLE_NVFP4_KERNELS.items()}
    emulation.register()
    assert before == linear._POSSIBLE_NVFP4_KERNELS


def test_another_vllm_fails_loudly(linear, monkeypatch):
    """A release without that kind of kernel stops vLLM's start, with its version and a way out."""
    platform(monkeypatch, cpu=True)

    def refuse(*_):
        raise ValueError("Unrecognized kernel type: nvfp4")

    monkeypatch.setattr(linear, "register_linear_kernel", refuse)
    with pytest.raises(EngineError, match=r"vLLM \d.*nvfp4.*VLLM_PLUGINS="):
        emulation.register()


def test_the_entry_point_is_installed():
    from importlib.metadata import entry_points

    (found,) = entry_points(group="vllm.general_plugins", name="hallmark")
    assert found.load() is emulation.register
