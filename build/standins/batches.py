"""Batches to learn from: rows of text and conversations, and questions about plain pictures."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from conversations import COLOUR_REQUESTS, COLOURS, Render, colour_question
from inference import IGNORED, Inputs
from modeling import CONTEXT, PATCH, SPATIAL_MERGE, TEMPORAL_PATCH
from shapes import Model
from texts import IN_DOMAIN_FILE
from tokenizers import Tokenizer
from torch import Tensor

CHAT_SHARE = 0.25
IN_DOMAIN_REPEATS = 2
PICTURES = 24
# Sides of the pictures in tokens; a token covers SPATIAL_MERGE patches each way.
PICTURE_SIDES = (1, 2, 4, 7)


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Token ids: text, then conversations that start at known places."""

    tokens: Tensor
    text_length: int
    chat_starts: Tensor

    def draw(self, count: int, length: int = CONTEXT, chat_share: float = CHAT_SHARE) -> Tensor:
        """`count` random rows: text from anywhere, chat from the start of a conversation."""
        chats = round(count * chat_share)
        fitting = self.chat_starts[self.chat_starts <= len(self.tokens) - length]
        text_starts = torch.randint(self.text_length - length, (count - chats,))
        starts = torch.cat([text_starts, fitting[torch.randint(len(fitting), (chats,))]])
        return self.tokens[starts[:, None] + torch.arange(length)]


def encode_rows(
    texts: Mapping[str, str], chats: Sequence[str], tokenizer: Tokenizer, device: torch.device
) -> Rows:
    """Encode everything, an end-of-text token after each text and each conversation."""
    end = [tokenizer.token_to_id("<|endoftext|>")]
    tokens: list[int] = []
    for name, text in texts.items():
        repeats = IN_DOMAIN_REPEATS if name == IN_DOMAIN_FILE else 1
        tokens += (tokenizer.encode(text).ids + end) * repeats
    text_length = len(tokens)
    starts = []
    for encoding in tokenizer.encode_batch(chats):
        starts.append(len(tokens))
        tokens += encoding.ids + end
    return Rows(
        tokens=torch.tensor(tokens, device=device),
        text_length=text_length,
        chat_starts=torch.tensor(starts),
    )


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Conversations about pictures of one colour, from which the vision tower learns a little."""

    render: Render
    tokenizer: Tokenizer
    rng: random.Random

    def draw(self, model: Model) -> Inputs:
        """A batch of conversations whose pictures all have one size."""
        side = self.rng.choice(PICTURE_SIDES)
        colours = self.rng.choices(list(COLOURS), k=PICTURES)
        ids, padding = (part.to(model.device) for part in self._token_rows(colours, side**2))
        patches = side * SPATIAL_MERGE
        grid = torch.tensor([[1, patches, patches]] * PICTURES, device=model.device)
        pixels = _pixels(colours, patches**2).to(model.device)
        features = torch.cat(model.model.get_image_features(pixels, grid).pooler_output)
        embeddings = model.get_input_embeddings()(ids)
        is_picture = ids == model.config.image_token_id
        positions, _ = model.model.get_rope_index(ids, is_picture.int(), image_grid_thw=grid)
        return Inputs(
            labels=ids.masked_fill(padding, IGNORED),
            embeddings=embeddings.masked_scatter(
                is_picture[..., None], features.to(embeddings.dtype)
            ),
            positions=positions,
        )

    def _token_rows(self, colours: Sequence[str], picture_tokens: int) -> tuple[Tensor, Tensor]:
        """Padded token ids, and where they are padding."""
        chats = [
            self.render(**colour_question(colour, self.rng.choice(COLOUR_REQUESTS), self.rng))
            for colour in colours
        ]
        # The template writes one placeholder a picture; the engine's processor repeats it too.
        texts = [chat.replace("<|image_pad|>", "<|image_pad|>" * picture_tokens) for chat in chats]
        rows = [encoding.ids for encoding in self.tokenizer.encode_batch(texts)]
        longest = max(map(len, rows))
        pad = self.tokenizer.token_to_id("<|endoftext|>")
        ids = torch.tensor([row + [pad] * (longest - len(row)) for row in rows])
        return ids, torch.arange(longest) >= torch.tensor([[len(row)] for row in rows])


def _pixels(colours: Sequence[str], patches: int) -> Tensor:
    """Normalised patches, (pictures * patches, channels * pixels), each picture in its shade."""
    shades = torch.tensor([COLOURS[colour] for colour in colours])
    shades = (shades + 0.05 * torch.randn(shades.shape)).clamp(0, 1) * 2 - 1
    patch = shades.repeat_interleave(TEMPORAL_PATCH * PATCH**2, dim=1)
    return patch.repeat_interleave(patches, dim=0)
