"""Small encoders, ours and stock fairseq's, with weights that make every branch matter."""

from types import SimpleNamespace

import torch
from fairseq.data import Dictionary
from fairseq.models.hubert.hubert import HubertConfig, HubertModel
from fairseq.models.wav2vec.wav2vec2 import Wav2Vec2Config, Wav2Vec2Model

SMALL = dict(
    encoder_layers=3,
    encoder_embed_dim=48,
    encoder_ffn_embed_dim=80,
    encoder_attention_heads=4,
    conv_feature_layers="[(24,10,5)] + [(24,3,2)] * 2 + [(32,2,2)]",
    conv_pos=16,
    conv_pos_groups=4,
    dropout=0.0,
    attention_dropout=0.0,
    final_dim=20,
)
PRE_NORM = dict(layer_norm_first=True, extractor_mode="layer_norm", conv_bias=True)


def randomize(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Give every parameter, also the zero biases and unit norms of a new model, a value that shows when it is misused."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() == 1:
                parameter.copy_((1.0 if name.endswith("weight") else 0.0) + 0.2 * noise)
            else:
                parameter.mul_(1 + 0.1 * noise).add_(0.02 * noise)
    return model.eval()


def build_dictionary(size: int = 12) -> Dictionary:
    """A dictionary with `size` entries besides fairseq's four."""
    dictionary = Dictionary()
    for index in range(size):
        dictionary.add_symbol(str(index))
    return dictionary


def build_stock_hubert(dictionaries=None, **settings) -> HubertModel:
    """Stock HuBERT of SMALL shape with `settings` changed."""
    cfg = HubertConfig(label_rate=400.0, **{**SMALL, **settings})
    dictionaries = dictionaries or [build_dictionary()]
    return randomize(HubertModel(cfg, SimpleNamespace(sample_rate=16_000), dictionaries))


def build_stock_wav2vec2(**settings) -> Wav2Vec2Model:
    """Stock wav2vec 2.0 of SMALL shape with `settings` changed."""
    cfg = Wav2Vec2Config(quantize_targets=True, latent_vars=10, latent_dim=16, **{**SMALL, **settings})
    return randomize(Wav2Vec2Model(cfg))


def make_waves(batch: int = 3, samples: int = 4000, padded: bool = False, seed: int = 1):
    """(waves (batch, samples), padding_mask or None): the first wave is whole, the others are cut at odd lengths."""
    waves = torch.randn(batch, samples, generator=torch.Generator().manual_seed(seed))
    if not padded:
        return waves, None
    lengths = torch.tensor([samples] + [samples * (batch - i) // (batch + 1) + 37 for i in range(batch - 1)])
    mask = torch.arange(samples)[None, :] >= lengths[:, None]
    return waves.masked_fill(mask, 0.0), mask
