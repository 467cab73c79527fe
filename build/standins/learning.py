"""The two trainings: first the language model with the vision tower, then the MTP head."""

import logging
import math
from collections.abc import Callable, Iterator

import torch
from batches import Pictures, Rows
from inference import (
    continue_greedily,
    draft_loss,
    half_precision,
    next_token_loss,
    perplexity,
    text_inputs,
)
from modeling import CONTEXT, MtpHead
from routing import balanced
from shapes import Model
from torch import Tensor, nn
from torch.nn import functional

LEARNING_RATE = 2e-3
WEIGHT_DECAY = 0.1
WARMUP_SHARE = 0.05
PICTURES_EVERY = 4
EVALUATE_EVERY = 250
PROMPT_TOKENS = 64

log = logging.getLogger(__name__)


def train_language_model(
    model: Model,
    rows: Rows,
    pictures: Pictures,
    held_out: Tensor,
    *,
    steps: int,
    batch: int,
    dropout: float,
) -> None:
    """Train on text, conversations and pictures.

    `steps` and `dropout` are what keeps the model from learning the text by heart: the log shows
    the perplexity of the held-out text, which must not rise toward the end.
    """
    remove_dropout = add_dropout(model, dropout)

    def loss(step: int) -> Tensor:
        total = next_token_loss(model, text_inputs(model, rows.draw(batch)))
        if step % PICTURES_EVERY == 0:
            total = total + next_token_loss(model, pictures.draw(model))
        return total

    for step, value in optimize(model, loss, steps):
        if step % EVALUATE_EVERY == 0 or step == steps:
            reached = perplexity(model, held_out)
            log.info("step %d: loss %.3f, held-out perplexity %.1f", step, value, reached)
    remove_dropout()


def train_mtp_head(
    head: MtpHead,
    model: Model,
    rows: Rows,
    pictures: Pictures,
    *,
    steps: int,
    batch: int,
    generations: int,
) -> None:
    """Teach the head what the model, frozen from here on, says next.

    It learns from the model's own greedy text, which is what drafts are checked against, from the
    rows that the model learned from, and from pictures.
    """
    model.requires_grad_(requires_grad=False).eval()
    prompts = rows.draw(generations, length=PROMPT_TOKENS, chat_share=0.5)
    generated = continue_greedily(model, prompts, CONTEXT // 2 - PROMPT_TOKENS)
    log.info("generated %d rows of %d tokens", *generated.shape)

    def loss(step: int) -> Tensor:
        own = generated[torch.randint(len(generated), (batch,))]
        total = draft_loss(head, model, text_inputs(model, own))
        total = total + draft_loss(head, model, text_inputs(model, rows.draw(batch // 2)))
        if step % PICTURES_EVERY == 0:
            total = total + draft_loss(head, model, pictures.draw(model))
        return total

    for step, value in optimize(head, loss, steps):
        if step % EVALUATE_EVERY == 0:
            log.info("MTP step %d: loss %.3f", step, value)


def held_out_generations(model: Model, held_out: Tensor) -> Tensor:
    """Greedy continuations of every PROMPT_TOKENS tokens of the held-out text."""
    whole = len(held_out) // PROMPT_TOKENS * PROMPT_TOKENS
    return continue_greedily(model, held_out[:whole].view(-1, PROMPT_TOKENS), CONTEXT // 4)


def optimize(
    module: nn.Module, loss: Callable[[int], Tensor], steps: int
) -> Iterator[tuple[int, float]]:
    """Take `steps` AdamW steps down `loss(step)`; yields each step, from 1, and its loss.

    The loss of the routing is added, where the module has a mixture of experts.
    The learning rate climbs to LEARNING_RATE and falls to zero along a cosine. Only matrices decay.
    """
    matrices = [parameter for parameter in module.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in module.parameters() if parameter.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": WEIGHT_DECAY},
        {"params": others, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95))
    for step in range(1, steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * schedule(step / steps)
        module.train()
        with half_precision(module), balanced(module) as routing:
            value = loss(step)
        sum(routing, value).backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        module.eval()
        yield step, value.item()


def schedule(progress: float) -> float:
    """The share of the peak learning rate at `progress`, from 0 to 1."""
    return min(progress / WARMUP_SHARE, 0.5 + 0.5 * math.cos(math.pi * progress))


def add_dropout(model: Model, rate: float) -> Callable[[], None]:
    """Drop inputs of every block while training, which the architecture has no setting for.

    Returns the function that takes the dropout away again.
    """

    def drop(module: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return functional.dropout(output, rate, training=module.training)

    text = model.model.language_model
    places = [text.embed_tokens, text.norm]
    for layer in text.layers:
        places += [layer.input_layernorm, layer.post_attention_layernorm]
    handles = [place.register_forward_hook(drop) for place in places]

    def remove() -> None:
        for handle in handles:
            handle.remove()

    return remove


def round_to_bfloat16(module: nn.Module) -> None:
    """Round every weight to BF16 in place, so that what is measured is what is written."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(parameter.bfloat16())
