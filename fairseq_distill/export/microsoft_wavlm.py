"""WavLM as Microsoft ships it: {"cfg": flat settings, "model": weights}, which its own code and s3prl open.

Before it is put in place, torchaudio's WavLM runs it; that takes no padding, so a padded batch is run by our reader.
"""

import re
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional

import torch
from torch import Tensor, nn

from ..checkpoints.reading import load_encoder
from ..encoder.config import EncoderConfig
from ..encoder.model import require
from ..errors import UserError
from .comparison import Reader, list_states
from .source import Source, refuse_unfit

HELP = "WavLM as Microsoft ships it: its own code, s3prl's wavlm_local"
READER = "torchaudio's WavLM"

# the settings of Microsoft's `WavLMConfig`
_SETTINGS = (
    *("extractor_mode", "encoder_layers", "encoder_embed_dim", "encoder_ffn_embed_dim", "encoder_attention_heads"),
    *("activation_fn", "layer_norm_first", "conv_feature_layers", "conv_bias", "feature_grad_mult", "normalize"),
    *("dropout", "attention_dropout", "activation_dropout", "encoder_layerdrop", "dropout_input", "dropout_features"),
    *("mask_length", "mask_prob", "mask_selection", "mask_other", "no_mask_overlap", "mask_min_space"),
    *("mask_channel_length", "mask_channel_prob", "mask_channel_selection", "mask_channel_other"),
    *("no_mask_channel_overlap", "mask_channel_min_space", "conv_pos", "conv_pos_groups"),
    *("relative_position_embedding", "num_buckets", "max_distance", "gru_rel_pos"),
)
# what makes a WavLM: torchaudio has no other
_REQUIRED = {"family": "wavlm", "relative_position_embedding": True, "gru_rel_pos": True, "activation_fn": "gelu"}
_SHARED_BIAS = "encoder.relative_attention_bias."  # Microsoft keeps it in layer 0


def describe(source: Source) -> Dict[str, str]:
    """The name of the model that is written."""
    return {"model": "WavLM"}


def check(source: Source) -> None:
    """Refuse, with a UserError, an encoder that no settings of WavLM describe."""
    for name, value in _REQUIRED.items():
        found = getattr(source.config, name)
        if found != value:
            way = "--format fairseq writes its family" if name == "family" else "load_encoder opens it as it is"
            raise UserError(
                f"{source.checkpoint.path} is not exported: {name}={found}, and a WavLM has {name}={value}; {way}"
            )
    refuse_unfit(source, "Microsoft's WavLM", _SETTINGS)


def write(source: Source, path: Path) -> None:
    """Write the checkpoint; the sample rate, for which Microsoft has no setting, stands beside theirs."""
    settings = {name: getattr(source.config, name) for name in _SETTINGS}
    cfg = {name: getattr(value, "value", value) for name, value in settings.items()}
    weights = {
        key.replace(_SHARED_BIAS, "encoder.layers.0.self_attn.relative_attention_bias."): value
        for key, value in source.encoder.state_dict().items()
    }
    torch.save({"cfg": {**cfg, "sample_rate": source.checkpoint.sample_rate}, "model": weights}, path)


def open_file(path: Path, source: Source) -> Reader:
    """The network as torchaudio runs it; a padded batch as our reader does."""
    ours = load_encoder(path)
    ours.normalize_input = False
    theirs = build_torchaudio(ours.cfg, ours.state_dict())

    def read(waves: Tensor, padding_mask: Optional[Tensor]) -> List[Tensor]:
        if padding_mask is None:
            return run_torchaudio(theirs, waves)
        output = ours.encode(waves, padding_mask)
        return list_states([require(hidden) for hidden in output.hidden], require(output.x))

    return read


def build_torchaudio(cfg: EncoderConfig, weights: Mapping[str, Tensor]) -> Any:
    """WavLM of these settings and weights as torchaudio has it.

    Raises:
        UserError: torchaudio is not installed.
    """
    try:
        from torchaudio.models import wavlm_model
    except ImportError as error:
        raise UserError(f"--format wavlm compares with torchaudio's WavLM: pip install torchaudio ({error})") from error
    model = wavlm_model(
        extractor_mode="group_norm" if str(cfg.extractor_mode) == "default" else "layer_norm",
        extractor_conv_layer_config=cfg.conv_layers,
        extractor_conv_bias=cfg.conv_bias,
        encoder_embed_dim=cfg.encoder_embed_dim,
        encoder_projection_dropout=0.0,
        encoder_pos_conv_kernel=cfg.conv_pos,
        encoder_pos_conv_groups=cfg.conv_pos_groups,
        encoder_num_layers=cfg.encoder_layers,
        encoder_num_heads=cfg.encoder_attention_heads,
        encoder_num_buckets=cfg.num_buckets,
        encoder_max_distance=cfg.max_distance,
        encoder_attention_dropout=0.0,
        encoder_ff_interm_features=cfg.encoder_ffn_embed_dim,
        encoder_ff_interm_dropout=0.0,
        encoder_dropout=0.0,
        encoder_layer_norm_first=cfg.layer_norm_first,
        encoder_layer_drop=0.0,
        aux_num_out=None,
    )
    if not cfg.has_projection:  # torchaudio always projects
        eye = {"weight": torch.eye(cfg.encoder_embed_dim), "bias": torch.zeros(cfg.encoder_embed_dim)}
        weights = {**weights, **{f"post_extract_proj.{name}": value for name, value in eye.items()}}
    model.load_state_dict(name_as_torchaudio(weights))
    return model.eval()


def name_as_torchaudio(weights: Mapping[str, Tensor]) -> Dict[str, Tensor]:
    """Our names of WavLM's weights to torchaudio's, which joins the projections of query, key and value."""
    renamed = {}
    for key, value in weights.items():
        for pattern, name in _TORCHAUDIO_NAMES:
            key = re.sub(pattern, name, key)
        renamed[key] = value
    for query in [key for key in renamed if ".q_proj." in key]:
        joined = torch.cat([renamed.pop(query.replace(".q_proj.", f".{letter}_proj.")) for letter in "qkv"])
        renamed[query.replace("q_proj.", "in_proj_")] = joined
    del renamed["mask_emb"]
    return renamed


_TORCHAUDIO_NAMES = [
    (r"^layer_norm\.", "encoder.feature_projection.layer_norm."),
    (r"^post_extract_proj\.", "encoder.feature_projection.projection."),
    (r"^(feature_extractor\.conv_layers\.\d+)\.0\.", r"\1.conv."),
    (r"^(feature_extractor\.conv_layers\.\d+)\.2\.(1\.)?", r"\1.layer_norm."),
    (r"^encoder\.relative_attention_bias\.", "encoder.layers.0.self_attn.rel_attn_embed."),
    (r"^encoder\.(pos_conv|layers|layer_norm)\b", r"encoder.transformer.\1"),
    (r"pos_conv\.0\.weight_g", "pos_conv.0.parametrizations.weight.original0"),
    (r"pos_conv\.0\.weight_v", "pos_conv.0.parametrizations.weight.original1"),
    (r"pos_conv\.0\.", "pos_conv_embed.conv."),
    (r"self_attn_layer_norm\.", "layer_norm."),
    (r"self_attn\.([qkv]_proj|out_proj)\.", r"attention.attention.\1."),
    (r"self_attn\.grep_linear\.", "attention.gru_rel_pos_linear."),
    (r"self_attn\.grep_a", "attention.gru_rel_pos_const"),
    (r"self_attn\.rel_attn_embed\.", "attention.rel_attn_embed."),
    (r"\.fc1\.", ".feed_forward.intermediate_dense."),
    (r"\.fc2\.", ".feed_forward.output_dense."),
]


def run_torchaudio(model: nn.Module, waves: Tensor) -> List[Tensor]:
    """States of torchaudio's WavLM, see `list_states`."""
    entering: List[Tensor] = []
    transformer: Any = model.encoder.transformer  # type: ignore[union-attr]
    hook = transformer.layers[0].register_forward_pre_hook(lambda layer, inputs: entering.append(inputs[0]))
    try:
        x, _ = model(waves)
        hidden, _ = model.extract_features(waves)  # type: ignore[operator]
    finally:
        hook.remove()
    return list_states([entering[0], *hidden], x)
