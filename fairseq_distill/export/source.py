"""What is exported: the encoder of any checkpoint, its settings in their plainest form, and what stays behind."""

from typing import Any, Collection, Dict, List, NamedTuple

from ..checkpoints.reading import EncoderCheckpoint, load_encoder, read_checkpoint, select_weights
from ..checkpoints.safe_load import PathLike
from ..encoder.config import EncoderConfig
from ..encoder.model import SpeechEncoder
from ..errors import UserError

# settings without a part in what an evaluated encoder computes, and why: another format may lack them
HARMLESS = {
    "sample_rate": "written with the task's settings; no arithmetic reads it",
    "family": "each format says whose arithmetic it has",
    "label_rate": "masked prediction",
    "final_dim": "masked prediction",
    "untie_final_proj": "masked prediction",
    "logit_temp": "masked prediction",
    "target_glu": "masked prediction",
    "skip_masked": "masked prediction",
    "skip_nomask": "masked prediction",
    "latent_temp": "no part of fairseq reads it in HuBERT",
    "checkpoint_activations": "memory in training",
    "required_seq_len_multiple": "padding of frames inside fairseq, which it masks and takes away again",
    "depthwise_conv_kernel_size": "layers of another layer_type",
    "attn_type": "layers of another layer_type",
    "pos_enc_type": "layers of another layer_type",
    "fp16": "layers of another layer_type",
}
_WAYS = {
    "prune": "cut the gates first (fairseq-distill prune)",
}


class Options(NamedTuple):
    """What may be asked of some formats.

    Attributes:
        hidden_states: what enters the first layer and each layer's output are written too.
        quantize: "int8", or "" for float32.
    """

    hidden_states: bool = False
    quantize: str = ""

    def list_set(self) -> List[str]:
        """Names of those that are asked for."""
        return [name for name, value in self._asdict().items() if value]


NO_OPTIONS = Options()


class Source(NamedTuple):
    """What is exported.

    Attributes:
        checkpoint: what the file says.
        encoder: evaluation mode, float32, CPU; it normalises waves where the checkpoint asks for it.
        config: the encoder's settings after `simplify`.
        left_out: what else the file holds, each module with its number of tensors.
        options: what is asked of the format.
    """

    checkpoint: EncoderCheckpoint
    encoder: SpeechEncoder
    config: EncoderConfig
    left_out: List[str]
    options: Options = NO_OPTIONS


def read_source(path: PathLike, options: Options = NO_OPTIONS) -> Source:
    """Read what is to be exported.

    Raises:
        UserError: the file cannot be read, or its encoder computes something else than the model around it.
    """
    checkpoint = read_checkpoint(path)
    adapter = (checkpoint.settings.get("model") or {}).get("adapter")
    if adapter:
        raise UserError(
            f"{path}: model.adapter={adapter} puts adapters into the layers that the heads read: the encoder without "
            "them is another one, so it is not exported"
        )
    encoder = load_encoder(path)
    _, left_out = select_weights(checkpoint, encoder)
    return Source(checkpoint, encoder, simplify(checkpoint.config), left_out, options)


def simplify(cfg: EncoderConfig) -> EncoderConfig:
    """Settings of the same network, each at its default if the network allows it.

    `prune` writes sizes for each layer; where all layers are alike, one number says the same.
    """
    changes: Dict[str, Any] = {}
    default = EncoderConfig()
    heads, ffn_dims = set(cfg.heads), set(cfg.ffn_dims)
    as_bias = heads == {cfg.encoder_attention_heads}
    if as_bias:
        changes["layer_heads"] = []
    fill = len(heads) == 1 and max(heads) * cfg.attention_head_dim == cfg.encoder_embed_dim
    # WavLM's position bias has encoder_attention_heads, whatever layers have
    if fill and (as_bias or not cfg.relative_position_embedding):
        changes.update(layer_heads=[], head_dim=0, encoder_attention_heads=max(heads))
    if len(ffn_dims) == 1 and max(ffn_dims) > 0:
        changes.update(layer_ffn_dims=[], encoder_ffn_embed_dim=max(ffn_dims))
    all_heads = list(range(cfg.encoder_attention_heads))
    if not cfg.relative_position_embedding:
        unused = ("num_buckets", "max_distance", "gru_rel_pos", "layer_head_numbers")
        changes.update({name: getattr(default, name) for name in unused})
    elif all(numbers in (None, all_heads) for numbers in cfg.head_numbers):
        changes["layer_head_numbers"] = ""
    if cfg.with_settings(project_features=False).has_projection == cfg.has_projection:
        changes["project_features"] = False
    return cfg.with_settings(**changes)


def refuse_unfit(source: Source, target: str, known: Collection[str]) -> None:
    """Refuse an encoder with a setting that a format does not know and that is not at its neutral value.

    Args:
        source: what is exported.
        target: the format's model, for the message.
        known: names of the settings that the format has.

    Raises:
        UserError: it names each such setting and its value.
    """
    default = EncoderConfig()
    unfit = {
        name: value
        for name, value in vars(source.config).items()
        if name not in {"_name", *known, *HARMLESS} and value != getattr(default, name)
    }
    if not unfit:
        return
    told = ", ".join(f"{name}={value}" for name, value in unfit.items())
    ways = [_WAYS[name] for name in unfit if name in _WAYS]
    way = "; ".join(ways) or "load_encoder and fairseq with the user-dir open it as it is"
    raise UserError(f"{source.checkpoint.path} is not exported: {target} has no place for {told}; {way}")


def refuse_gates(source: Source) -> None:
    """Refuse, with a UserError, what no format holds: gates that are not cut."""
    if source.config.prune:
        prune = list(source.config.prune)
        raise UserError(f"{source.checkpoint.path} is not exported: prune={prune}; {_WAYS['prune']}")
