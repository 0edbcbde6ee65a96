"""Every setting of a model section that people bring: computed here, harmless with the reason, or refused by its name.

The lists hold each field of fairseq's `HubertConfig`, `Wav2Vec2Config` and `Data2VecAudioConfig`, of both stacks, and
what Microsoft's files and derived models have besides; `docs/checkpoints.md` shows them.
"""

import dataclasses
import re
import reprlib
from enum import Enum
from typing import AbstractSet, Any, Dict, List, Mapping, NamedTuple, Set, Tuple

from fairseq.dataclass.configs import FairseqConfig

from ..encoder.config import EncoderConfig


class Refused(NamedTuple):
    """A setting that changes the numbers.

    Attributes:
        allowed: values with which it changes nothing; None, for "not set", is always one.
        what: what other values ask for.
    """

    allowed: Tuple[Any, ...]
    what: str


_COMPUTED = {
    "convolutions": "extractor_mode conv_feature_layers conv_bias",
    "layers": (
        "encoder_layers encoder_embed_dim encoder_ffn_embed_dim encoder_attention_heads activation_fn layer_norm_first"
    ),
    "positions": (
        "conv_pos conv_pos_groups conv_pos_batch_norm pos_conv_depth relative_position_embedding num_buckets "
        "max_distance gru_rel_pos"
    ),
    "waves": "normalize",
}
_REASONS = {
    "names, and says nothing of the network": "_name arch task",
    "is used in training only": (
        "dropout attention_dropout activation_dropout encoder_layerdrop dropout_input dropout_features "
        "feature_grad_mult checkpoint_activations max_update"
    ),
    "masks in training only": (
        "mask_length mask_prob mask_selection mask_other no_mask_overlap mask_min_space mask_channel_length "
        "mask_channel_prob mask_channel_selection mask_channel_other no_mask_channel_overlap mask_channel_min_space "
        "mask_channel_before require_same_masks mask_dropout boundary_mask"
    ),
    "belongs to the loss of pre-training and its heads": (
        "final_dim untie_final_proj logit_temp target_glu latent_temp skip_masked skip_nomask label_rate "
        "quantize_targets quantizer_depth quantizer_factor latent_vars latent_groups latent_dim num_negatives "
        "negatives_from_everywhere cross_sample_negatives codebook_negatives combine_groups predict_layers "
        "separate_label_embeds separate_layer_targets"
    ),
    "belongs to the targets of pre-training": (
        "loss_beta loss_scale average_top_k_layers layer_norm_target_layer instance_norm_target_layer "
        "instance_norm_targets layer_norm_targets batch_norm_target_layer group_norm_target_layer ema_decay "
        "ema_end_decay ema_anneal_end_step ema_transformer_only ema_layers_only min_target_var min_pred_var "
        "discrete codebook_size normal_init_codebook codebook_init_decay codebook_end_decay codebook_end_decay_step "
        "freeze_teacher_step freeze_pre_enc_modules"
    ),
    "pads frames that attention does not see and that are cut off again": "required_seq_len_multiple",
    "is read only with quantize_input, which is refused": "same_quantizer",
    "is read only by conformer layers, which are refused": "depthwise_conv_kernel_size max_positions fp16",
    "is read only by layers with adapters, which are refused": "adp_dim adp_act_fn adp_trf_idx",
    "is read only with streaming, which is refused": "chunk_size left_chunk",
    "counts layers behind the encoder's, which see the speaker and serve the loss (ContentVec)": "encoder_layers_1",
}
# what `SpeechEncoder` follows: with other values it gives other numbers, as the original does
COMPUTED = frozenset(name for names in _COMPUTED.values() for name in names.split())
# what may have any value, and why
HARMLESS: Dict[str, str] = {name: reason for reason, names in _REASONS.items() for name in names.split()}

REFUSED: Dict[str, Refused] = {
    "layer_type": Refused(("transformer",), "conformer layers, or layers with adapters (MMS)"),
    "structure_type": Refused(("transformer",), "layers of another kind"),
    "pos_enc_type": Refused(("", "abs"), "rotary or relative positions"),
    "attn_type": Refused(("",), "attention of another kind"),
    "use_adp": Refused((False, 0), "layers with adapters"),
    "adp_num": Refused((-1, 0), "layers with adapters"),
    "quantize_input": Refused((False, 0), "quantised features before the layers"),
    "crop_seq_to_multiple": Refused((0, 1), "frames cut off at the end"),
    "expand_attention_head_size": Refused((-1, 0), "heads of another width"),
    "streaming": Refused((False, 0), "attention that sees chunks only"),
    "label_rate_ratios": Refused(((), ""), "layers at several frame rates (MR-HuBERT)"),
    "override_encoder_layers": Refused(("",), "layers at several frame rates (MR-HuBERT)"),
    "modalities": Refused((), "the network of data2vec 2.0"),
    "squeeze_factor": Refused((0, 1), "layers at another frame rate (SEW)"),
    "use_rel_pos_enc": Refused((False, 0), "relative positions inside attention (SpeechT5)"),
    "scaling_for_att": Refused((1,), "attention of another scale (SpeechT5)"),
}

# words in the name of a setting, of a model unknown here, that say that it may change the numbers, or only the training
_OF_THE_NETWORK = re.compile(
    r"(?<![a-z])(attn|attention|att|pos|positions?|positional|rel|relative|rotary|rope|alibi|causal|streaming"
    r"|chunk|window|context|norms?|normali[sz]ation|layernorm|batchnorm|groupnorm|rmsnorm|ln|bn|act|activations?|gelu|relu|swish|glu"
    r"|convs?|conv1d|convolutions?|kernel|stride|dilation|conformer|adapters?|adp|quantize|squeeze|subsampl(e|ing)"
    r"|downsample|upsample|prenorm|postnorm|deepnorm)(?![a-z])"
)
_OF_TRAINING = re.compile(
    r"(?<![a-z])(dropout|drop|layerdrop|loss(es)?|targets?|temp|prob|lr|decay|codebook|clip|freeze|init)(?![a-z])"
)


def find_refused(settings: Mapping[str, Any], of_a_run: bool = False) -> List[str]:
    """Settings that change the numbers and are not computed here, each as "name=value is not supported".

    Args:
        settings: of an encoder, by name.
        of_a_run: they are a namespace of fairseq's argparse era, which holds all settings of the run.
    """
    known = _list_known(of_a_run)
    found = []
    for name, value in settings.items():
        plain = _plain(value)
        if name in REFUSED:
            if plain is not None and plain not in REFUSED[name].allowed:
                found.append(f"{_show(name, value)} is not supported ({REFUSED[name].what})")
        elif name not in known and _is_set(plain) and _speaks_of_the_network(name):
            found.append(f"{_show(name, value)} is not known here, and by its name may change the numbers")
    return found


def list_unknown(settings: Mapping[str, Any], of_a_run: bool = False) -> List[str]:
    """Names of settings that are in none of the lists, sorted; arguments as in `find_refused`."""
    return sorted(str(name) for name in settings.keys() - _list_known(of_a_run) - REFUSED.keys())


def _plain(value: Any) -> Any:
    value = value.value if isinstance(value, Enum) else value
    return tuple(value) if isinstance(value, list) else value


def _show(name: Any, value: Any) -> str:
    value = value.value if isinstance(value, Enum) else value
    return f"{name}={value:.40}" if isinstance(value, str) else f"{name}={reprlib.repr(value)}"


def _is_set(value: Any) -> bool:
    """Whether a value switches something on, as far as can be told without knowing the setting."""
    return value not in (None, False, 0, -1, "", "none", "None", (), "False")


def _speaks_of_the_network(name: Any) -> bool:
    name = str(name).lower()
    return bool(_OF_THE_NETWORK.search(name)) and not _OF_TRAINING.search(name)


def _list_known(of_a_run: bool) -> AbstractSet[str]:
    ours = {f.name for f in dataclasses.fields(EncoderConfig)}
    known = COMPUTED | HARMLESS.keys() | ours
    return known | _list_run_settings() if of_a_run else known


def _list_run_settings() -> Set[str]:
    sections = [f.type for f in dataclasses.fields(FairseqConfig)]
    return {f.name for section in sections if dataclasses.is_dataclass(section) for f in dataclasses.fields(section)}
