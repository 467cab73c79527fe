"""Checks of what is stored, without an engine."""
