"""The inputs of a build at their pins: base, MTP donor, data sets, chat template.

In: a recipe. Out: the step `fetch`: links to files whose sha256 was checked, from the hub, a mirror
folder or a stand-in. May import the pipeline, tensors (files and lists of tensors, nothing that
packs), manifest, recipes and core.
"""
