"""The training text and the tokenizer: plain UTF-8 files in, token ids out."""

import itertools
import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

VOCAB_SIZE = 4096

# The published tokenizer's added tokens, in its order. `special` ones vanish from decoded text.
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
PLAIN_TOKENS = (
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
)
AUDIO_TOKENS = (
    "<|audio_start|>",
    "<|audio_end|>",
    "<tts_pad>",
    "<tts_text_bos>",
    "<tts_text_eod>",
    "<tts_text_bos_single>",
    "<|audio_pad|>",
)
ADDED_TOKENS = SPECIAL_TOKENS + PLAIN_TOKENS + AUDIO_TOKENS

# The pre-tokenizer of Qwen3.5 and 3.6: Qwen2's, with combining marks kept in words.
WORD_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# The file whose style the evaluation text shares; a slice of it is held out of the training.
IN_DOMAIN_FILE = "wikitext-2-validation.tokens.txt"
HELD_OUT_SHARE = 0.05
VERSE_FILES = ("tinyshakespeare.txt",)


@dataclass(frozen=True, kw_only=True)
class Texts:
    """The training text of every file, and the held-out tail of the in-domain one."""

    training: dict[str, str]
    held_out: str

    @property
    def prose(self) -> list[str]:
        """The training texts whose lines are paragraphs, which the verse of the plays is not."""
        return [text for name, text in self.training.items() if name not in VERSE_FILES]


def read_texts(folder: Path, rng: random.Random) -> Texts:
    """Read every .txt file of `folder`; raises FileNotFoundError without the in-domain one."""
    raw = {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.txt"))}
    if IN_DOMAIN_FILE not in raw:
        raise FileNotFoundError(f"{folder} lacks {IN_DOMAIN_FILE}")
    rare = rare_words(raw.values())
    texts = {name: fill_unknown(text, rare, rng) for name, text in raw.items()}
    in_domain = texts[IN_DOMAIN_FILE]
    cut = in_domain.rindex("\n", 0, round(len(in_domain) * (1 - HELD_OUT_SHARE))) + 1
    return Texts(training=texts | {IN_DOMAIN_FILE: in_domain[:cut]}, held_out=in_domain[cut:])


def rare_words(texts: Iterable[str]) -> list[str]:
    """Words that occur once in all texts together, in order of appearance."""
    counts = Counter(word for text in texts for word in re.findall(r"[A-Za-z]{4,}", text))
    return [word for word, count in counts.items() if count == 1]


def fill_unknown(text: str, words: Sequence[str], rng: random.Random) -> str:
    """Put a random rare word in place of each `<unk>`.

    Running text has a rare word where the tokenised training file has `<unk>`, so the model must
    learn to expect one there, and must never say `<unk>`.
    """
    return re.sub("<unk>", lambda _: rng.choice(words), text)


def train_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """A byte-level BPE tokenizer of exactly VOCAB_SIZE entries, the added tokens last."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORD_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - len(ADDED_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens(
        [
            AddedToken(token, special=token not in PLAIN_TOKENS, normalized=False)
            for token in ADDED_TOKENS
        ]
    )
    if tokenizer.get_vocab_size() != VOCAB_SIZE:
        raise ValueError(f"the text yields {tokenizer.get_vocab_size()} tokens, not {VOCAB_SIZE}")
    return tokenizer


def prose_sentences(texts: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs of short plain sentences that follow each other in one paragraph."""
    pairs = []
    for line in "\n".join(texts).splitlines():
        sentences = re.split(r"(?<=[.!?])\s+", detokenize(line.strip()))
        pairs += [
            (first, second)
            for first, second in itertools.pairwise(sentences)
            if is_plain_sentence(first) and is_plain_sentence(second)
        ]
    return pairs


def detokenize(line: str) -> str:
    """Undo the spacing of a tokenised line: `well @-@ known .` becomes `well-known.` again."""
    line = re.sub(r" @([-.,])@ ", r"\1", line)
    return re.sub(r" ([.,;:!?]|'s\b|n't\b)", r"\1", line)


def is_plain_sentence(text: str) -> bool:
    """Whether `text` is a sentence of 5 to 20 words without quotes, brackets or markup."""
    return (
        5 <= len(text.split()) <= 20 and re.fullmatch(r"[A-Z][A-Za-z0-9 ,'-]+\.", text) is not None
    )
