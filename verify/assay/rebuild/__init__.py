"""Rebuilds a release and compares, tensor by tensor."""
