"""How alike the hidden states of one encoder are, or those of two: one pass over waves.

Frames that are padding are left out. Of the others, each is kept with probability `share`, independently of all else,
and only what is kept is compared: neighbouring frames say nearly the same, and with a quarter of them the
comparison takes about an eighth of the time of HuBERT Base's forward pass. The rule is unbiased: given their number,
the frames kept are a simple random sample of all, so that mean products are right in expectation, and so is HSIC1 of
the debiased measure; CKA itself, a ratio of these, is consistent. `share=1` compares all frames.
"""

import logging
from dataclasses import dataclass
from typing import Iterable, List, Optional, Sequence, Tuple, Union

import numpy as np
import torch
from torch import Tensor

from ..encoder.model import SpeechEncoder, require
from ..errors import UserError
from .cross_products import Cosines, CrossProducts

logger = logging.getLogger(__name__)

MEASURES = ("cka", "debiased_cka", "cosine")
SHARE = 0.25
CHUNK = 1024  # frames compared at once: enough for fast products, little beside the sums in memory
FEW_FRAMES = 2  # times the width; with three times, plain CKA was up to 0.01 too high on a small HuBERT and real speech

Batch = Tuple[Tensor, Optional[Tensor]]


@dataclass
class Similarity:
    """Similarities of hidden states.

    Attributes:
        values: (rows, columns) float64; rows are h[0], h[1], ... of one encoder, columns of the same or another one.
        measure: one of MEASURES.
        frames: frames that were compared.
        seen: frames that were there to compare, without padding.
        share: probability with which each was kept.
        seed: of the draw.
    """

    values: np.ndarray
    measure: str = "cka"
    frames: int = 0
    seen: int = 0
    share: float = 1.0
    seed: int = 0


def compute_similarity(
    encoder: SpeechEncoder, batches: Iterable[Batch], measure: str = "cka", share: float = SHARE, seed: int = 0
) -> Similarity:
    """Similarity of every two hidden states h[0] to h[L] of an encoder.

    Args:
        encoder: is run as it is: on its device, in its precision, with its normalisation of waves; where batches are
            padded, its `exact_padding` makes hidden states those of the waves alone.
        batches: pairs of waves (batch, samples) and their padding mask (batch, samples), True = padding, or None.
        measure: "cka" (linear), "debiased_cka" or "cosine".
        share: part of the frames to compare, above 0 to 1.
        seed: which frames; the same seed and batches give the same result.

    Returns:
        `Similarity` of (L + 1, L + 1), symmetric, ones on the diagonal.

    Raises:
        UserError: a wrong setting, too few frames, or a hidden state that is not finite or never changes.
    """
    states = range(encoder.depth + 1)
    return _compare([encoder], batches, states, states, measure, share, seed)


def compare_encoders(
    one: SpeechEncoder,
    other: SpeechEncoder,
    batches: Iterable[Batch],
    measure: str = "cka",
    share: float = SHARE,
    seed: int = 0,
) -> Similarity:
    """Similarity of every hidden state of `one` (rows) with every hidden state of `other` (columns), on the same waves.

    Arguments are those of `compute_similarity`. Widths and depths may differ, the rate of frames may not. Where one
    makes some frames more of a wave than the other, their receptive fields differing, those at the end are left out.

    Raises:
        UserError: as for `compute_similarity`; and different sample or frame rates, or different widths for "cosine".
    """
    rates = [encoder.cfg.sample_rate for encoder in (one, other)]
    if rates[0] != rates[1]:
        raise UserError(
            f"the first encoder takes waves at {rates[0]} Hz, the second at {rates[1]} Hz: they can only be compared "
            "on the same waves"
        )
    strides = [encoder.cfg.frame_stride for encoder in (one, other)]
    if strides[0] != strides[1]:
        raise UserError(
            f"the first encoder makes a frame every {strides[0]} samples, the second every {strides[1]}: frames can "
            "only be compared at equal rates"
        )
    widths = [encoder.cfg.encoder_embed_dim for encoder in (one, other)]
    if measure == "cosine" and widths[0] != widths[1]:
        raise UserError(f"cosines need equal widths, and these are {widths[0]} and {widths[1]}: use the measure cka")
    rows, columns = range(one.depth + 1), range(one.depth + 1, one.depth + other.depth + 2)
    return _compare([one, other], batches, rows, columns, measure, share, seed)


def _compare(
    encoders: Sequence[SpeechEncoder],
    batches: Iterable[Batch],
    rows: Sequence[int],
    columns: Sequence[int],
    measure: str,
    share: float,
    seed: int,
) -> Similarity:
    """Compare hidden states, numbered through all encoders."""
    if measure not in MEASURES:
        raise UserError(f"measure={measure}: must be one of {', '.join(MEASURES)}")
    if not 0 < share <= 1:
        raise UserError(f"share={share}: must be a part of the frames, above 0 and at most 1")
    pairs = sorted({(min(i, j), max(i, j)) for i in rows for j in columns})
    sums = Cosines() if measure == "cosine" else CrossProducts(pairs)
    frames, seen = _collect(encoders, batches, sums, share, torch.Generator().manual_seed(seed))
    values = sums.compute(rows, columns, debiased=measure == "debiased_cka")
    width = max(encoder.cfg.encoder_embed_dim for encoder in encoders)
    if measure == "cka" and frames < FEW_FRAMES * width:
        logger.warning(
            f"CKA is too high where frames are few for the width, and {frames} are fewer than {FEW_FRAMES} x {width}: "
            "give more audio, compare a larger share of its frames, or use the measure debiased_cka"
        )
    return Similarity(values, measure, frames, seen, share, seed)


@torch.inference_mode()
def _collect(
    encoders: Sequence[SpeechEncoder],
    batches: Iterable[Batch],
    sums: Union[CrossProducts, Cosines],
    share: float,
    draw: torch.Generator,
) -> Tuple[int, int]:
    """Run the encoders, hand the frames kept to `sums` in chunks; (frames kept, frames seen)."""
    waiting: List[List[Tensor]] = []
    held = kept = seen = 0
    for source, padding_mask in batches:
        states, valid = _run(encoders, source, padding_mask)
        chosen = valid[torch.rand(len(valid), generator=draw) < share]
        waiting.append([state.flatten(0, 1)[chosen.to(state.device)].float() for state in states])
        seen, kept, held = seen + len(valid), kept + len(chosen), held + len(chosen)
        if held >= CHUNK:
            sums.add([torch.cat(parts) for parts in zip(*waiting)])
            waiting, held = [], 0
    if held:
        sums.add([torch.cat(parts) for parts in zip(*waiting)])
    return kept, seen


def _run(
    encoders: Sequence[SpeechEncoder], source: Tensor, padding_mask: Optional[Tensor]
) -> Tuple[List[Tensor], Tensor]:
    """Hidden states of all encoders, each (batch, frames, width), and the places in batch x frames without padding."""
    states: List[Tensor] = []
    masks: List[Tensor] = []
    for encoder in encoders:
        place = next(encoder.parameters())
        mask = None if padding_mask is None else padding_mask.to(place.device)
        output = encoder.encode(source.to(place.device, place.dtype), mask)
        states += [require(state) for state in output.hidden]
        masks += [] if output.padding_mask is None else [output.padding_mask.cpu()]
    frames = min(state.size(1) for state in states)
    valid = torch.ones(len(source), frames, dtype=torch.bool)
    for mask in masks:
        valid &= ~mask[:, :frames]
    return [state[:, :frames] for state in states], valid.flatten().nonzero().squeeze(1)
