"""The JSON documents of a build and of a release, each a model that writes it and reads it.

In: facts of a build. Out: a document in canonical JSON, or the model of one that was read; what
does not fit is refused, an unknown key included. May import recipes and core.
"""
