"""What the model and its MTP head compute: losses, greedy text, and how good both are."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from modeling import CONTEXT, MtpHead
from shapes import Model
from torch import Tensor, nn
from torch.nn import functional
from transformers import DynamicCache

# Drafts that the head learns to chain, each with the weight of its loss.
DRAFT_WEIGHTS = (1.0, 0.4, 0.2)
IGNORED = -100


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What the language model reads, wherever it comes from.

    `labels` (batch, length) are the token ids, IGNORED where padded; `embeddings` have the hidden
    size besides; `positions` (3, batch, length) are temporal, vertical and horizontal.
    """

    labels: Tensor
    embeddings: Tensor
    positions: Tensor


def text_inputs(model: Model, ids: Tensor) -> Inputs:
    """Plain text, at positions 0, 1, ... in all three directions."""
    positions = torch.arange(ids.shape[1], device=ids.device).expand(3, *ids.shape)
    return Inputs(labels=ids, embeddings=model.get_input_embeddings()(ids), positions=positions)


def hidden_states(model: Model, inputs: Inputs) -> Tensor:
    """Hidden states after the final norm, which are also what the MTP head reads."""
    return model.model.language_model(
        inputs_embeds=inputs.embeddings, position_ids=inputs.positions, use_cache=False
    ).last_hidden_state


def next_token_loss(model: Model, inputs: Inputs) -> Tensor:
    """Mean cross-entropy of each token but the first."""
    logits = model.lm_head(hidden_states(model, inputs)[:, :-1]).float()
    labels = inputs.labels[:, 1:]
    return functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)


def chained_drafts(
    head: MtpHead, model: Model, inputs: Inputs, states: Tensor
) -> Iterator[tuple[int, Tensor]]:
    """Each draft's offset, 1, 2, ..., and logits whose column t is about token t + 1 + offset.

    A later draft reads its predecessor's output. Its keys are made from such outputs as well, where
    an engine still has those of the first draft: close enough to learn from.
    """
    for offset in range(1, len(DRAFT_WEIGHTS) + 1):
        embeddings = inputs.embeddings[:, offset:]
        length = embeddings.shape[1]
        positions = inputs.positions[..., offset - 1 : offset - 1 + length]
        rotary = model.model.language_model.rotary_emb(embeddings, positions)
        states = head(embeddings, states[:, :length], rotary)
        yield offset, model.lm_head(states)


def draft_loss(head: MtpHead, model: Model, inputs: Inputs) -> Tensor:
    """Weighted cross-entropy of all drafts against the model's own distribution."""
    with torch.no_grad():
        states = hidden_states(model, inputs)
        target = model.lm_head(states).float().softmax(dim=-1)
    total = torch.zeros((), device=states.device)
    for offset, logits in chained_drafts(head, model, inputs, states):
        counted = inputs.labels[:, offset:] != IGNORED
        loss = functional.cross_entropy(logits[counted].float(), target[:, offset:][counted])
        total = total + DRAFT_WEIGHTS[offset - 1] * loss
    return total


@torch.no_grad()
def continue_greedily(model: Model, prompts: Tensor, length: int) -> Tensor:
    """The prompts, all of one length, each followed by the model's `length` likeliest tokens."""
    rows, cache = [prompts], DynamicCache(config=model.config.text_config)
    with half_precision(model):
        for _ in range(length):
            output = model.model.language_model(
                input_ids=rows[-1], past_key_values=cache, use_cache=True
            )
            rows.append(model.lm_head(output.last_hidden_state[:, -1:]).argmax(dim=-1))
    return torch.cat(rows, dim=1)


@torch.no_grad()
def perplexity(model: Model, tokens: Tensor) -> float:
    """Perplexity over non-overlapping windows; an incomplete last window is left out."""
    windows = tokens[: len(tokens) // CONTEXT * CONTEXT].view(-1, 1, CONTEXT)
    with half_precision(model):
        losses = [next_token_loss(model, text_inputs(model, window)) for window in windows]
    return math.exp(torch.stack(losses).mean().item())


@torch.no_grad()
def draft_acceptance(
    head: MtpHead, model: Model, generated: Tensor, prompt_length: int
) -> list[float]:
    """The share of generated tokens at which the first, first two, ... drafts are all right."""
    inputs = text_inputs(model, generated)
    places = generated.shape[1] - prompt_length - len(DRAFT_WEIGHTS)
    right = torch.ones((len(generated), places), dtype=torch.bool, device=generated.device)
    shares = []
    with half_precision(model):
        states = hidden_states(model, inputs)
        for offset, logits in chained_drafts(head, model, inputs, states):
            hits = logits[:, :-1].argmax(dim=-1) == generated[:, offset + 1 :]
            right &= hits[:, prompt_length - 1 :][:, :places]
            shares.append(round(right.float().mean().item(), 3))
    return shares


def half_precision(module: nn.Module) -> torch.autocast:
    """BF16 matrix products on a GPU, float32 on a CPU."""
    kind = next(module.parameters()).device.type
    return torch.autocast(kind, dtype=torch.bfloat16, enabled=kind == "cuda")
