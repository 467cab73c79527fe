"""Checks of what is stored, without an engine.

In: a checkpoint folder, its base and its recipe. Out: a list of `Check`, each with its figures.
"""
