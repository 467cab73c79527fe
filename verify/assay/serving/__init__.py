"""Checks through a real vLLM."""
