"""Checks through a real vLLM: perplexity of base and result, then a server with the recipe's flags.

In: a checkpoint folder, its base and its recipe. Out: a list of `Check`. The only room that imports
vLLM. May import checks.
"""
