"""torchaudio's names of an encoder's parts, which Hugging Face and DPHuBERT have too, as fairseq's.

torchaudio and DPHuBERT keep the layers under `encoder.transformer`, Hugging Face under `encoder`.
"""

import re
from typing import Dict, List, Mapping, Tuple

from torch import Tensor

NORM = "encoder.layer_norm.weight"  # fairseq's name of a tensor (width,) that every encoder has
_NAMES: List[Tuple[str, str]] = [
    (r"^masked_spec_embed$", "mask_emb"),
    (r"^(encoder\.)?feature_projection\.layer_norm\.", "layer_norm."),
    (r"^(encoder\.)?feature_projection\.projection\.", "post_extract_proj."),
    (r"^encoder\.transformer\.", "encoder."),
    (r"^(feature_extractor\.conv_layers\.\d+)\.conv\.", r"\1.0."),
    (r"^encoder\.layers\.0\.attention\.rel_attn_embed\.", "encoder.relative_attention_bias."),
    (r"^(encoder\.layers\.\d+)\.layer_norm\.", r"\1.self_attn_layer_norm."),
    (r"^(encoder\.layers\.\d+)\.attention\.gru_rel_pos_linear\.", r"\1.self_attn.grep_linear."),
    (r"^(encoder\.layers\.\d+)\.attention\.gru_rel_pos_const$", r"\1.self_attn.grep_a"),
    (r"^(encoder\.layers\.\d+)\.attention\.", r"\1.self_attn."),
    (r"^(encoder\.layers\.\d+)\.feed_forward\.intermediate_dense\.", r"\1.fc1."),
    (r"^(encoder\.layers\.\d+)\.feed_forward\.output_dense\.", r"\1.fc2."),
]


def name_as_fairseq(weights: Mapping[str, Tensor], channel_norms: bool, batch_norm: bool = False) -> Dict[str, Tensor]:
    """The weights by fairseq's names; what has none keeps its own.

    Args:
        weights: by torchaudio's names, or Hugging Face's.
        channel_norms: each convolution has a norm over channels ("layer_norm"), not the first one a group norm.
        batch_norm: the positional convolution has one before it.
    """
    names = [
        *_NAMES,
        (r"^(feature_extractor\.conv_layers\.\d+)\.layer_norm\.", r"\1.2.1." if channel_norms else r"\1.2."),
        (r"^encoder\.pos_conv_embed\.batch_norm\.", "encoder.pos_conv.0."),
        (r"^encoder\.pos_conv_embed\.conv\.", "encoder.pos_conv.1." if batch_norm else "encoder.pos_conv.0."),
    ]
    renamed = {}
    for key, value in weights.items():
        for pattern, name in names:
            key = re.sub(pattern, name, key)
        renamed[key] = value
    return renamed
