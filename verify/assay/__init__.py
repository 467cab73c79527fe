"""Tests a finished checkpoint: what is stored, what it scores, and whether it serves.

Read :mod:`assay.verify` first: it is the step that gates a build. Two rooms serve it, checks and
serving; two serve the stranger who holds a release, release and rebuild. The two sides do not
import each other. Everything here may import forge, which never imports assay.
"""
