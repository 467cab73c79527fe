"""Input maxima as llm-compressor takes them: its own `oneshot`, read before it makes divisors.

`oneshot` goes layer by layer, so a GPU holds one layer at a time; the model lies in memory, and on
disk as far as it does not fit. Nothing is quantized meanwhile. Fused experts are taken apart, under
the names that recipes give them.
"""

import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forge.calibration.batches import Bar, Batch, no_bar, tokenizer_of
from forge.core.boundary import calling
from forge.core.errors import CalibrationError

if TYPE_CHECKING:
    import torch

    from forge.recipes.recipe import Recipe
    from forge.tensors.checkpoint import Checkpoint


def watch(
    made: "Checkpoint",
    base: Path,
    batches: Sequence[Batch],
    bar: Bar = no_bar,  # noqa: ARG001 - `oneshot` has one of its own, in the log
    **placed: Any,
) -> dict[str, float]:
    """The maxima of those calibrated linears that were reached, by module name.

    Raises:
        CalibrationError: a library does not take the base, or fails at a sample (so noted on what
            it raises: :mod:`forge.core.boundary`).
    """
    import llmcompressor
    from torch.utils.data import DataLoader

    model = _load(made.recipe, base, **placed)
    tokenizer = tokenizer_of(base)
    inputs = [batch.inputs() for batch in batches]
    with calling("llm-compressor", CalibrationError, f"{base}: cannot be calibrated"):
        modifier = _modifier(made, model)
        llmcompressor.oneshot(
            model=model,
            processor=tokenizer,
            # A loader of our own: neither shuffled, nor sorted by length, nor cut.
            dataset=DataLoader(inputs, batch_size=None),
            recipe=modifier,
            num_calibration_samples=len(batches),
            propagate_error=False,  # there is none: saves the second pass through each layer
            moe_calibrate_all_experts=made.recipe.calibration.all_experts,
        )
    return dict(modifier.maxima)


def _load(recipe: "Recipe", base: Path, **placed: Any) -> "torch.nn.Module":
    """The base in BF16, offloaded by compressed-tensors: `oneshot` edits what accelerate hides."""
    import torch
    import transformers
    from compressed_tensors.offload import load_offloaded_model
    from llmcompressor.modeling.moe.linearize import load_quantizable_moe

    what = f"{base}: cannot be loaded as {recipe.architecture}"
    with ExitStack() as stack:
        stack.enter_context(calling("transformers", CalibrationError, what))
        kind = getattr(transformers, recipe.architecture)
        stack.enter_context(load_offloaded_model(kind))
        if recipe.fused:
            stack.enter_context(load_quantizable_moe(kind))
        return kind.from_pretrained(
            base,
            dtype=torch.bfloat16,
            attn_implementation=recipe.calibration.attention,
            trust_remote_code=False,
            use_safetensors=True,
            **{"device_map": "auto_offload", **placed},
        )


def _modifier(made: "Checkpoint", model: "torch.nn.Module") -> Any:
    """A `QuantizationModifier` of the recipe's formats that keeps what its observers saw.

    At the end of a layer the modifier makes rounded divisors and forgets the rest; the maxima are
    the observers' `static_minmax` right before that.
    """
    import torch
    from llmcompressor.modifiers.quantization import QuantizationModifier
    from pydantic import PrivateAttr

    names = {model.get_submodule(module): module for module in made.plan.calibrated}

    class Watching(QuantizationModifier):  # type: ignore[misc]  # has no types
        _maxima: dict[str, float] = PrivateAttr(default_factory=dict)

        @property
        def maxima(self) -> dict[str, float]:
            return self._maxima

        def on_sequential_epoch_end(
            self, state: Any, event: Any, modules: list[torch.nn.Module], **kwargs: Any
        ) -> None:
            for module in modules:
                observer = getattr(module, "input_observer", None)
                if module in names and observer is not None and observer.has_statistics:
                    largest = torch.maximum(-observer.min_vals.min(), observer.max_vals.max())
                    self._maxima[names[module]] = float(largest)
            super().on_sequential_epoch_end(state, event, modules, **kwargs)

    groups = {
        name: {key: group[key] for key in ("targets", "weights", "input_activations")}
        for name, group in made.quantization["config_groups"].items()
    }
    return Watching(config_groups=json.loads(json.dumps(groups)))  # lists, and a copy
