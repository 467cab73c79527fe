"""Turns a pinned BF16 checkpoint and a recipe into an NVFP4 checkpoint with its MTP head.

Read :mod:`forge.pipeline` first: it holds the tuple of steps; every step is a module of that name.
"""
