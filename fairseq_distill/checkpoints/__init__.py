"""Checkpoint files: read safely, recognised, and written as fairseq writes them."""
