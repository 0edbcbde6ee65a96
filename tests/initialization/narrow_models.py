"""A small source of every kind, and a narrower student of it."""

from dataclasses import replace

import torch

from fairseq_distill.encoder.config import EncoderConfig
from fairseq_distill.encoder.model import SpeechEncoder
from fairseq_distill.initialization.importance import measure_importance
from fairseq_distill.initialization.narrowing import Narrowing
from fairseq_distill.initialization.selection import choose_kept

from ..builders import KINDS, TINY, make_waves, randomize

SOURCE = dict(
    TINY,
    encoder_embed_dim=24,
    encoder_ffn_embed_dim=10,
    encoder_attention_heads=4,
    head_dim=6,
    conv_feature_layers="[(12,10,5), (10,3,2), (14,2,2)]",
)
# layer norm in a convolution is over all of its channels: without some of them it gives something else
GROUP_NORM_KINDS = {
    **{kind: dict(settings, extractor_mode="default") for kind, settings in KINDS.items()},
    "no projection": dict(conv_feature_layers="[(12,10,5), (10,3,2), (24,2,2)]"),
}
MEASURES = ("weights", "activations")


def build(seed=0, **settings):
    """A source of SOURCE shape with `settings` changed."""
    torch.manual_seed(seed)
    return randomize(SpeechEncoder(EncoderConfig.from_settings({**SOURCE, **settings})), seed)


def read(measure):
    """The waves that a measure of importance needs."""
    return None if measure == "weights" else [make_waves(1, 1500, seed=seed)[0] for seed in (3, 4)]


def narrow(source, layers=(1, 2), measure="weights", importance=None, **settings):
    """(student of other settings that starts as `source`, what it keeps, names of the parts taken over)."""
    cfg = replace(source.cfg, **settings)
    importance = importance or measure_importance(source, layers, read(measure))
    chosen = choose_kept(cfg, source.cfg, layers, importance)
    torch.manual_seed(9)
    student = SpeechEncoder(replace(cfg, layer_head_numbers=chosen.head_numbers)).eval()
    copied = Narrowing(source.state_dict(), source.cfg, student.cfg, layers, chosen).copy_into(student)
    return student, chosen, copied
