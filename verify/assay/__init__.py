"""Tests a finished checkpoint: what is stored, what it scores, and whether it serves.

Read :mod:`assay.verify` first: it is the step that gates a build, with the rooms `checks` and
`serving`. The rooms `release` and `rebuild` are for anyone who holds a release. The two sides do
not import each other. All of them may import forge, which never imports assay.
"""
