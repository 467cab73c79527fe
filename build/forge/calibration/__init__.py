"""The one step that hardware can change, and the record of its result.

In: base and samples. Out: `calibration.safetensors`, one input maximum a linear layer. The only
room of forge that imports torch, transformers, modelopt and llmcompressor, inside functions. May
import inputs (the form of samples alone), the pipeline, tensors, recipes and core.
"""
