"""Tests a finished checkpoint: what is stored, what it scores, and whether it serves.

Read :mod:`assay.verify` first: it runs the checks and writes `verification.json`.
"""
