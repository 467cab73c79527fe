"""Mixtures of experts: the loss that spreads the tokens over them, and how well that went."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers.models.qwen3_5_moe.modeling_qwen3_5_moe import (
    Qwen3_5MoeTopKRouter,
    load_balancing_loss_func,
)

BALANCE_WEIGHT = 0.05

# Logits (tokens, experts), weights and numbers of the chosen experts (tokens, chosen).
Routed = tuple[Tensor, Tensor, Tensor]


def routers_of(module: nn.Module) -> list[Qwen3_5MoeTopKRouter]:
    """The routers in a module, in the order of its layers; none in a dense one."""
    return [part for part in module.modules() if isinstance(part, Qwen3_5MoeTopKRouter)]


@contextmanager
def balanced(module: nn.Module) -> Iterator[list[Tensor]]:
    """Adds to the yielded list the loss of every pass through a router of the module.

    A layer's loss is 1 if its tokens are spread evenly (Switch Transformer, equations 4 to 6). Each
    layer counts on its own: one that overloads an expert cannot hide behind another.
    """
    losses: list[Tensor] = []

    def keep(router: Qwen3_5MoeTopKRouter, _: tuple[Tensor], routed: Routed) -> None:
        loss = load_balancing_loss_func((routed[0],), router.num_experts, router.top_k)
        losses.append(BALANCE_WEIGHT * loss)

    with _watched(module, keep):
        yield losses


@contextmanager
def counted(module: nn.Module) -> Iterator[list[Tensor]]:
    """Counts, for every router in the order of the layers, the tokens that each expert gets."""
    routers = routers_of(module)
    counts = [torch.zeros(router.num_experts, dtype=torch.long) for router in routers]
    places = {router: place for place, router in enumerate(routers)}

    def count(router: Qwen3_5MoeTopKRouter, _: tuple[Tensor], routed: Routed) -> None:
        chosen = routed[2].flatten().cpu()
        counts[places[router]] += torch.bincount(chosen, minlength=router.num_experts)

    with _watched(module, count):
        yield counts


def spread(counts: list[Tensor]) -> list[list[float]]:
    """The smallest and the largest share that an expert has of its layer's tokens, by layer."""
    shares = [count / count.sum() for count in counts]
    return [[round(share.min().item(), 3), round(share.max().item(), 3)] for share in shares]


@contextmanager
def _watched(module: nn.Module, see: Callable[..., None]) -> Iterator[None]:
    handles = [router.register_forward_hook(see) for router in routers_of(module)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
