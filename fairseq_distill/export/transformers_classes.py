"""Which of transformers' own models a network is: its settings and the names of its weights there."""

import re
from typing import Any, Dict, Mapping, NamedTuple, Optional

import torch
from torch import Tensor

from ..encoder.config import EncoderConfig
from ..encoder.model import SpeechEncoder
from .portable import describe_network


class ModelClass(NamedTuple):
    """A model of transformers.

    Attributes:
        name: of the class of its encoder.
        recogniser: of the class with an output layer for tokens.
        model_type: what its `config.json` calls it, and its weights' names start with in a recogniser.
    """

    name: str
    recogniser: str
    model_type: str


HUBERT = ModelClass("HubertModel", "HubertForCTC", "hubert")
WAV2VEC2 = ModelClass("Wav2Vec2Model", "Wav2Vec2ForCTC", "wav2vec2")
WAVLM = ModelClass("WavLMModel", "WavLMForCTC", "wavlm")

_ACTIVATIONS = {"gelu_tanh": "gelu_new"}  # the others have the same names


def find_class(cfg: EncoderConfig) -> Optional[ModelClass]:
    """The model with that network, whatever its sizes; None where transformers has none.

    All layers are alike, heads fill the width, and positions are one convolution.
    """
    network = describe_network(cfg)
    heads, ffn_dims = set(network["heads"]), set(network["ffn_dims"])
    if len(heads) > 1 or len(ffn_dims) > 1 or min(ffn_dims) == 0 or network["scale_features"]:
        return None
    count = max(heads)
    if count * network["head_dim"] != network["width"] or network["time_reduction"] > 1 or network["reuse_attention"]:
        return None
    positions, bias = network["positions"], network["position_bias"]
    if positions["depth"] > 1:
        return None
    if bias is not None:
        numbers = [list(range(bias["heads"]))] * cfg.encoder_layers
        alike = bias["gated"] and bias["heads"] == count and bias["head_numbers"] == numbers
        return WAVLM if alike and not positions["batch_norm"] else None
    return WAV2VEC2 if cfg.family == "wav2vec2" and not positions["batch_norm"] else HUBERT


def has_exact_padding(cfg: EncoderConfig) -> bool:
    """Whether transformers' own models give a wave the same in a padded batch as alone."""
    return str(cfg.extractor_mode) == "layer_norm" and not cfg.conv_pos_batch_norm


def make_reference(encoder: SpeechEncoder) -> SpeechEncoder:
    """The encoder with transformers' padding: frames by the convolutions' formula, norms over padding too."""
    reference = SpeechEncoder(encoder.cfg.with_settings(family="wav2vec2", project_features=encoder.cfg.has_projection))
    reference.load_state_dict(encoder.state_dict())
    reference.normalize_input = encoder.normalize_input
    return reference.eval()


def describe_model(cfg: EncoderConfig, model: ModelClass) -> Dict[str, Any]:
    """`config.json` of transformers' model."""
    activation = describe_network(cfg)["activation"]
    settings = {
        "architectures": [model.name],
        "model_type": model.model_type,
        "hidden_size": cfg.encoder_embed_dim,
        "num_hidden_layers": cfg.encoder_layers,
        "num_attention_heads": cfg.heads[0],
        "intermediate_size": cfg.ffn_dims[0],
        "hidden_act": _ACTIVATIONS.get(activation, activation),
        "hidden_dropout": cfg.dropout,
        "activation_dropout": cfg.activation_dropout,
        "attention_dropout": cfg.attention_dropout,
        "feat_proj_dropout": cfg.dropout_input,
        "layerdrop": cfg.encoder_layerdrop,
        "layer_norm_eps": 1e-5,
        "feat_extract_norm": "layer" if str(cfg.extractor_mode) == "layer_norm" else "group",
        "feat_extract_activation": "gelu",
        "conv_dim": [channels for channels, _, _ in cfg.conv_layers],
        "conv_kernel": [kernel for _, kernel, _ in cfg.conv_layers],
        "conv_stride": [stride for _, _, stride in cfg.conv_layers],
        "num_feat_extract_layers": len(cfg.conv_layers),
        "conv_bias": cfg.conv_bias,
        "num_conv_pos_embeddings": cfg.conv_pos,
        "num_conv_pos_embedding_groups": cfg.conv_pos_groups,
        "do_stable_layer_norm": cfg.layer_norm_first,
        # with 0, transformers' models have no place for the mask embedding
        "mask_time_prob": 0.05,
    }
    if model is HUBERT:
        settings["conv_pos_batch_norm"] = cfg.conv_pos_batch_norm
    if model is WAVLM:
        settings.update(num_buckets=cfg.num_buckets, max_bucket_distance=cfg.max_distance)
    return settings


@torch.no_grad()
def name_weights(encoder: SpeechEncoder, prefix: str = "") -> Dict[str, Tensor]:
    """The encoder's weights by transformers' names, float32 copies.

    transformers always projects: where the encoder does not, by the identity, which changes no bit.
    """
    weights: Mapping[str, Tensor] = encoder.state_dict()
    if encoder.post_extract_proj is None:
        width = encoder.cfg.encoder_embed_dim
        weights = {
            **weights,
            "post_extract_proj.weight": torch.eye(width),
            "post_extract_proj.bias": torch.zeros(width),
        }
    names = [*(_BATCH_NORM_NAMES if encoder.cfg.conv_pos_batch_norm else []), *_NAMES]
    renamed = {}
    for key, value in weights.items():
        if not key.startswith(_READ):
            continue
        for pattern, name in names:
            key = re.sub(pattern, name, key)
        renamed[prefix + key] = value.detach().clone().contiguous()
    return renamed


_READ = ("mask_emb", "feature_extractor.", "layer_norm.", "post_extract_proj.", "encoder.")
_NAMES = [
    (r"^mask_emb$", "masked_spec_embed"),
    (r"^layer_norm\.", "feature_projection.layer_norm."),
    (r"^post_extract_proj\.", "feature_projection.projection."),
    (r"^(feature_extractor\.conv_layers\.\d+)\.0\.", r"\1.conv."),
    (r"^(feature_extractor\.conv_layers\.\d+)\.2\.(1\.)?", r"\1.layer_norm."),
    (r"^encoder\.pos_conv\.0\.weight_g$", "encoder.pos_conv_embed.conv.parametrizations.weight.original0"),
    (r"^encoder\.pos_conv\.0\.weight_v$", "encoder.pos_conv_embed.conv.parametrizations.weight.original1"),
    (r"^encoder\.pos_conv\.0\.bias$", "encoder.pos_conv_embed.conv.bias"),
    (r"^encoder\.relative_attention_bias\.", "encoder.layers.0.attention.rel_attn_embed."),
    (r"\.self_attn_layer_norm\.", ".layer_norm."),
    (r"\.self_attn\.grep_linear\.", ".attention.gru_rel_pos_linear."),
    (r"\.self_attn\.grep_a$", ".attention.gru_rel_pos_const"),
    (r"\.self_attn\.", ".attention."),
    (r"\.fc1\.", ".feed_forward.intermediate_dense."),
    (r"\.fc2\.", ".feed_forward.output_dense."),
]
_BATCH_NORM_NAMES = [
    (r"^encoder\.pos_conv\.0\.", "encoder.pos_conv_embed.batch_norm."),
    (r"^encoder\.pos_conv\.1\.", "encoder.pos_conv_embed.conv."),
]
