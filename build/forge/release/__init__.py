"""The folder that is uploaded: its manifest, documents, signatures, and the upload itself.

In: the results of all steps. Out: `dist/<variant>/` with `provenance/`, then the card, the report,
signatures, a repository on the hub. May import calibration (the record alone), the pipeline,
tensors, manifest, recipes and core.
"""
