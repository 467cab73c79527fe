"""What a stranger checks of a release, as a numbered list.

In: a release folder, a key or an identity, a policy. Out: the first step that fails, and why.
Imports no other room of assay, neither torch nor an engine.
"""
