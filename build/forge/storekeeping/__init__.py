"""What is in the store, and what of it is needed: list, size, gc and fsck.

In: a store, beside which builds may be running. Out: lines for people, and a store with less in it.
May import the release room for its words, the ledger, pipeline, manifest and core. No step and no
build imports it.
"""
