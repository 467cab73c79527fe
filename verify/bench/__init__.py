"""`make bench`: speed and memory of the quantizer, see :mod:`bench.__main__`."""
