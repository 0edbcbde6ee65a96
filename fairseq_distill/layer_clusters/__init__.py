"""Similarity of an encoder's layers, and clusters of layers to distil from."""

LINKAGES = ("average", "complete", "ward")  # here, where naming them does not import scipy
