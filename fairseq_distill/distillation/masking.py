"""Which frames the student does not see in masking distillation (ARMHuBERT, 2305.11685)."""

from typing import Optional

import numpy as np
import torch
from torch import Tensor

from ..compat import draw_mask
from ..encoder.conv_spec import count_frames
from ..encoder.model import SpeechEncoder

FEWEST_SPANS = 2  # as in fairseq's HuBERT


def sample_mask(
    encoder: SpeechEncoder,
    source: Tensor,
    padding_mask: Optional[Tensor] = None,
    generator: Optional[np.random.Generator] = None,
) -> Tensor:
    """Frames to mask, drawn as the encoder's `mask_*` settings say: (batch, frames) bool.

    Args:
        encoder: the student.
        source: (batch, samples).
        padding_mask: (batch, samples) bool, True = padding, which is not masked, or None.
        generator: of the random numbers; None = torch's own, on the CPU.
    """
    cfg = encoder.cfg
    shape = (len(source), count_frames(source.size(1), cfg.conv_layers))
    if padding_mask is not None:
        padding_mask = encoder.forward_padding_mask(source.new_empty(*shape, 1), padding_mask)
    indices = draw_mask(
        shape,
        padding_mask,
        cfg.mask_prob,
        cfg.mask_length,
        str(cfg.mask_selection),
        cfg.mask_other,
        min_masks=FEWEST_SPANS,
        no_overlap=cfg.no_mask_overlap,
        min_space=cfg.mask_min_space,
        generator=generator,
    )
    return torch.from_numpy(indices).to(source.device)
