"""s3prl's face of any checkpoint that `load_encoder` reads: the upstream `fairseq_distill`.

s3prl's own fairseq experts are the model: waves are normalised one by one where the checkpoint asks for it, padded with
zeros, and their padding is marked. The states are what enters the first layer, what enters each next one, and the
encoder's output.
"""

from typing import Any, Dict, List, Optional

import torch
import torch.nn.functional as F
import yaml
from s3prl.upstream.interfaces import SAMPLE_RATE, UpstreamBase
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from fairseq_distill import load_encoder
from fairseq_distill.errors import UserError


class UpstreamExpert(UpstreamBase):
    """An encoder as s3prl's recipes call it.

    Args:
        ckpt: path of a checkpoint.
        exact_padding: a wave gives the same in a padded batch as alone; False = as in s3prl's own experts, where the
            padding has its part in a short wave's states (`SpeechEncoder.exact_padding` says which).

    Raises:
        UserError: the checkpoint's waves are not at 16 kHz, the only rate that s3prl gives.
    """

    def __init__(self, ckpt: str, exact_padding: bool = False) -> None:
        super().__init__()
        encoder = load_encoder(ckpt)
        if encoder.cfg.sample_rate != SAMPLE_RATE:
            raise UserError(
                f"{ckpt} takes waves at {encoder.cfg.sample_rate} Hz and s3prl gives {SAMPLE_RATE} Hz: measure it with "
                "fairseq-distill evaluate instead"
            )
        # here, before the waves are padded, as s3prl does: the same numbers to the last bit
        self.normalize, encoder.normalize_input = encoder.normalize_input, False
        encoder.feature_grad_mult = 0.0  # with -f, s3prl trains no fairseq expert's convolutions
        encoder.exact_padding = exact_padding
        self.encoder = encoder

    def get_downsample_rates(self, key: str) -> int:
        """Samples from one frame of the states to the next."""
        return self.encoder.cfg.frame_stride

    def forward(self, wavs: List[Tensor]) -> Dict[str, Any]:
        """Of waves (samples,) each: "hidden_states", depth + 1 of (batch, frames, width), and "last_hidden_state"."""
        if self.normalize:
            wavs = [F.layer_norm(wav, wav.shape) for wav in wavs]
        waves = pad_sequence(list(wavs), batch_first=True)
        lengths = torch.tensor([len(wav) for wav in wavs], device=waves.device)
        padding_mask = torch.arange(waves.size(1), device=waves.device) >= lengths.unsqueeze(1)
        out = self.encoder(waves, padding_mask=padding_mask)
        return {"hidden_states": [*out.hidden[:-1], out.x], "last_hidden_state": out.x}


def fairseq_distill(
    ckpt: Optional[str] = None,
    exact_padding: Optional[bool] = None,
    model_config: Optional[str] = None,
    refresh: bool = False,
) -> UpstreamExpert:
    """The entry that s3prl looks up by its name.

    Args:
        ckpt: path of a checkpoint (run_downstream: -k; recipes: build_upstream.path_or_url).
        exact_padding: see `UpstreamExpert` (recipes: build_upstream.extra_conf.exact_padding); None = as in
            `model_config`, or False.
        model_config: a YAML file with that one setting (run_downstream: -g).
        refresh: what s3prl hands to every upstream; nothing is downloaded here.

    Raises:
        UserError: no checkpoint was named, or the file holds something else.
    """
    if not ckpt:
        raise UserError("upstream fairseq_distill needs a checkpoint: -k PATH, or --build_upstream.path_or_url PATH")
    if model_config is not None and exact_padding is None:
        exact_padding = _read_exact_padding(model_config)
    return UpstreamExpert(str(ckpt), bool(exact_padding))


def _read_exact_padding(path: str) -> bool:
    with open(path, encoding="utf-8") as file:
        settings = yaml.safe_load(file)
    if not isinstance(settings, dict) or list(settings) != ["exact_padding"] or settings["exact_padding"] not in (0, 1):
        raise UserError(f"{path} must hold exact_padding: true or false and nothing else, not {settings!r:.200}")
    return settings["exact_padding"]
