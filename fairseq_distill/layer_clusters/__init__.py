"""Which layers of an encoder say the same, and groups of them to distil from."""

LINKAGES = ("average", "complete", "ward")  # here, where naming them does not import scipy
