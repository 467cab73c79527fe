"""Trains a stand-in: a small real checkpoint with the architecture of Qwen3.6-27B or 35B-A3B.

    python build/standins/train.py --text DIR --standin qwen36-moe --out build/standins/qwen36-moe

leaves `checkpoint/` and `standin.toml` under --out. Every draw comes from --seed. The defaults are
for a GPU (--device cuda, three minutes on an H200); `--steps 4 --mtp-steps 4 --batch 4
--generations 8` proves the script on a CPU. Needs the build environment, nothing else.
"""

import argparse
import logging
import random
import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from batches import Pictures, encode_rows
from checkpoint import sha256, write_configs, write_standin, write_tokenizer, write_weights
from conversations import load_renderer, make_conversations
from inference import draft_acceptance, perplexity
from learning import (
    PROMPT_TOKENS,
    held_out_generations,
    round_to_bfloat16,
    train_language_model,
    train_mtp_head,
)
from modeling import CONTEXT, build_model, config_dict, tensors_of
from routing import counted, spread
from shapes import SHAPES
from texts import ADDED_TOKENS, prose_sentences, read_texts, train_tokenizer

CHAT_TEMPLATE = Path(__file__).with_name("chat_template.jinja")
CONVERSATIONS = 12_000

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Options:
    """The command line."""

    standin: str
    text: Path
    out: Path
    steps: int
    mtp_steps: int
    batch: int
    generations: int
    dropout: float
    seed: int
    device: torch.device


def main() -> None:
    """Text, tokenizer, model, head, files."""
    logging.basicConfig(level=logging.INFO, format="%(relativeCreated)9.0f ms  %(message)s")
    options = parse_options()
    torch.manual_seed(options.seed)
    torch.set_float32_matmul_precision("high")
    rng = random.Random(options.seed)  # noqa: S311 - must be repeatable, guards nothing

    texts = read_texts(options.text, rng)
    tokenizer = train_tokenizer(texts.training.values())
    template = checkpoint_template(CHAT_TEMPLATE.read_text(encoding="utf-8"))
    render = load_renderer(template)
    conversations = make_conversations(prose_sentences(texts.prose), CONVERSATIONS, rng)
    chats = [render(**conversation) for conversation in conversations]
    rows = encode_rows(texts.training, chats, tokenizer, options.device)
    held_out = torch.tensor(tokenizer.encode(texts.held_out).ids, device=options.device)
    pictures = Pictures(render=render, tokenizer=tokenizer, rng=rng)
    log.info("%d tokens of text, %d of chat", rows.text_length, len(rows.tokens) - rows.text_length)

    token_ids = {token: tokenizer.token_to_id(token) for token in ADDED_TOKENS}
    shape = SHAPES[options.standin]
    config = config_dict(shape, token_ids, tokenizer.get_vocab_size())
    model, head = (module.to(options.device) for module in build_model(shape, config))
    train_language_model(
        model,
        rows,
        pictures,
        held_out,
        steps=options.steps,
        batch=options.batch,
        dropout=options.dropout,
    )
    round_to_bfloat16(model)
    train_mtp_head(
        head,
        model,
        rows,
        pictures,
        steps=options.mtp_steps,
        batch=options.batch,
        generations=options.generations,
    )
    round_to_bfloat16(head)
    generated = held_out_generations(model, held_out)
    # Each where it is used: the model reads text, the head drafts after what the model wrote.
    with counted(model) as model_loads:
        results: dict[str, Any] = {"held_out_perplexity": round(perplexity(model, held_out), 1)}
    with counted(head) as head_loads:
        accepted = draft_acceptance(head, model, generated, PROMPT_TOKENS)
    results["held_out_acceptance"] = accepted
    if loads := model_loads + head_loads:
        results["held_out_expert_shares"] = spread(loads)
    log.info("%s", results)

    folder = fresh_folder(options.out / "checkpoint")
    write_weights(tensors_of(model, head), folder)
    write_tokenizer(tokenizer, template, folder)
    write_configs(config, token_ids, folder)
    training = describe(options) | results
    text_digests = {path.name: sha256(path) for path in sorted(options.text.glob("*.txt"))}
    write_standin(options.out, options.standin, config["architectures"][0], training, text_digests)


def parse_options() -> Options:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--standin", choices=SHAPES, default="qwen36-dense")
    add("--text", type=Path, required=True, metavar="DIR", help="folder of the .txt files")
    add("--out", type=Path, required=True, metavar="DIR", help="gets the results")
    add("--steps", type=int, default=1600, help="of the language model")
    add("--mtp-steps", type=int, default=800, help="of the MTP head")
    add("--batch", type=int, default=64, help=f"rows of {CONTEXT} tokens a step")
    add("--generations", type=int, default=4096, help="greedy rows the MTP head learns from")
    add("--dropout", type=float, default=0.2, help="of the inputs of every block, in training")
    add("--seed", type=int, default=0)
    add("--device", type=torch.device, default=torch.device("cpu"))
    return Options(**vars(parser.parse_args()))


def checkpoint_template(replacement: str) -> str:
    """The checkpoint's own chat template: the replacement, without the developer role.

    The two differ so that a build which forgets to replace the template is found out.
    """
    known = "['system', 'developer']"
    if replacement.count(known) != 1:
        raise ValueError(f"{CHAT_TEMPLATE} must name its system roles once, as {known}")
    return replacement.replace(known, "['system']")


def describe(options: Options) -> dict[str, str | int]:
    """How this run was started, for standin.toml."""
    on_gpu = options.device.type == "cuda"
    return {
        "command": shlex.join(["python", *sys.argv]),
        "seed": options.seed,
        "steps": options.steps,
        "mtp_steps": options.mtp_steps,
        "device": torch.cuda.get_device_name(options.device) if on_gpu else options.device.type,
        "torch": torch.__version__,
    }


def fresh_folder(path: Path) -> Path:
    """An empty folder at `path`; an earlier result there is removed."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


if __name__ == "__main__":
    main()
