"""Verifies a release that a stranger holds, in numbered steps."""
