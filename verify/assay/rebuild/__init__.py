"""Rebuilds a release from its own provenance and compares, tensor by tensor.

In: a release or its `provenance/` folder, and the base. Out: identical, or a table of what differs.
May import release; needs neither torch nor an engine, except to calibrate again.
"""
