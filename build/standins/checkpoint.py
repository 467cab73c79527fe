"""Writes a checkpoint folder with the published one's files, and standin.toml beside it."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import split_torch_state_dict_into_shards
from modeling import PATCH, SPATIAL_MERGE, TEMPORAL_PATCH
from safetensors.torch import save_file
from texts import ADDED_TOKENS, PLAIN_TOKENS
from tokenizers import Tokenizer
from torch import Tensor

SHARD_BYTES = 6_000_000
IMAGE_PIXELS = {"longest_edge": 1024 * 1024, "shortest_edge": 64 * 64}
LICENSE = """\
This checkpoint was made by the Hallmark project and is under the Apache License, Version 2.0
(https://www.apache.org/licenses/LICENSE-2.0). Its weights were trained on texts in the public
domain and on the WikiText-2 validation split (CC BY-SA 3.0 and GFDL); standin.toml names them.
"""


def write_weights(tensors: dict[str, Tensor], folder: Path) -> None:
    """Write the shards and their index.

    The shards carry no metadata: safetensors writes its keys in random order, and the same weights
    must give the same bytes.
    """
    split = split_torch_state_dict_into_shards(tensors, max_shard_size=SHARD_BYTES)
    for file, names in split.filename_to_tensors.items():
        save_file({name: tensors[name] for name in names}, folder / file)
    index = {
        "metadata": split.metadata,
        "weight_map": dict(sorted(split.tensor_to_filename.items())),
    }
    write_json(folder / "model.safetensors.index.json", index)


def write_tokenizer(tokenizer: Tokenizer, chat_template: str, folder: Path) -> None:
    """Write the tokenizer in its new and its old form, and the chat template."""
    tokenizer.save(str(folder / "tokenizer.json"))
    tokenizer.model.save(str(folder))
    write_json(folder / "tokenizer_config.json", tokenizer_config(tokenizer))
    (folder / "chat_template.jinja").write_text(chat_template, encoding="utf-8")


def tokenizer_config(tokenizer: Tokenizer) -> dict[str, Any]:
    """tokenizer_config.json as transformers 5 writes it, `backend` included."""
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    return {
        "add_prefix_space": False,
        "added_tokens_decoder": {
            str(tokenizer.token_to_id(token)): {
                "content": token,
                **flags,
                "special": token not in PLAIN_TOKENS,
            }
            for token in ADDED_TOKENS
        },
        "backend": "tokenizers",
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 32768,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }


def write_configs(config: dict[str, Any], token_ids: Mapping[str, int], folder: Path) -> None:
    """Write the configurations of the model, of generation and of the two image processors."""
    end_of_text = token_ids["<|endoftext|>"]
    generation = {
        "bos_token_id": end_of_text,
        "do_sample": True,
        "eos_token_id": [token_ids["<|im_end|>"], end_of_text],
        "pad_token_id": end_of_text,
        "temperature": 1.0,
        "top_k": 20,
        "top_p": 0.95,
        "transformers_version": config["transformers_version"],
    }
    patches = {
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "merge_size": SPATIAL_MERGE,
        "patch_size": PATCH,
        "processor_class": "Qwen3VLProcessor",
        "size": IMAGE_PIXELS,
        "temporal_patch_size": TEMPORAL_PATCH,
    }
    images = {"image_processor_type": "Qwen2VLImageProcessorFast", **patches}
    videos = {"video_processor_type": "Qwen3VLVideoProcessor", **patches}
    write_json(folder / "config.json", config)
    write_json(folder / "generation_config.json", generation)
    write_json(folder / "preprocessor_config.json", images)
    write_json(folder / "video_preprocessor_config.json", videos)
    (folder / "LICENSE").write_text(LICENSE, encoding="utf-8")


def write_standin(
    folder: Path,
    name: str,
    architecture: str,
    training: Mapping[str, Any],
    text_digests: Mapping[str, str],
) -> None:
    """Write standin.toml: how the checkpoint beside it came about, and the digest of every file."""
    files = sorted(file for file in (folder / "checkpoint").iterdir() if file.is_file())
    lines = [f"name = {json.dumps(name)}", f"architecture = {json.dumps(architecture)}"]
    lines += toml_table("training", training)
    lines += toml_table("training.texts", text_digests)
    lines += toml_table("files", {file.name: sha256(file) for file in files})
    (folder / "standin.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")


def toml_table(name: str, values: Mapping[str, Any]) -> list[str]:
    """The lines of a table of strings, numbers and lists: TOML writes these as JSON does."""
    return ["", f"[{name}]", *(f"{toml_key(key)} = {json.dumps(values[key])}" for key in values)]


def toml_key(key: str) -> str:
    """A key, quoted where TOML wants it."""
    return key if key.replace("_", "").isalnum() else json.dumps(key)


def write_json(path: Path, value: object) -> None:
    """Write indented JSON with a final newline."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def sha256(path: Path) -> str:
    """The hexadecimal SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
