"""Checkpoint files: read safely, recognised, and written as fairseq writes them."""

from .reading import EncoderCheckpoint, load_encoder, read_checkpoint

__all__ = ["EncoderCheckpoint", "load_encoder", "read_checkpoint"]
