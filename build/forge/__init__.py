"""Turns a pinned BF16 checkpoint and a recipe into an NVFP4 checkpoint with its MTP head.

Read :mod:`forge.pipeline` first: it holds the tuple of steps; every step is a module of that name.
The rooms, from the bottom up: core, recipes, manifest, tensors, inputs, calibration, checkpoint,
release, container. A room imports only rooms below it; importlinter.toml is that rule, and lint
checks it.
"""
