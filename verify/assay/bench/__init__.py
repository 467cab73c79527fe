"""`make bench`: speed and memory of the quantizer, see :mod:`assay.bench.__main__`."""
