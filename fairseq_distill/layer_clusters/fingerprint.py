"""A short name for an encoder's weights, to tell whether two files, or two runs, speak of the same one."""

import hashlib
from pathlib import Path
from typing import Any, Dict, Union

import torch

from ..encoder.model import SpeechEncoder


def fingerprint_weights(encoder: SpeechEncoder) -> str:
    """SHA-256 of names, types, shapes and values of all weights, in hexadecimal.

    It does not depend on the file they came from, but on the precision: take it before the encoder is cast.
    """
    digest = hashlib.sha256()
    for name, value in sorted(encoder.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def identify(path: Union[str, Path], encoder: SpeechEncoder) -> Dict[str, Any]:
    """What our files say of an encoder: its checkpoint, its fingerprint and the sample rate of its waves."""
    return {
        "path": str(path),
        "weights_sha256": fingerprint_weights(encoder),
        "sample_rate": encoder.cfg.sample_rate,
    }
