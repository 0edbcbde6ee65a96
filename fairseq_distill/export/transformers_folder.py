"""A folder of Hugging Face transformers: one of its own models, or ours in plain torch where it has none of that shape.

Before it is put in place, transformers runs it in a process that can import neither fairseq nor this package.
"""

from pathlib import Path
from typing import Any, Dict

from ..encoder.model import SpeechEncoder
from .comparison import Differences
from .folder import copy_code, write_json, write_readme, write_weights
from .outside import OutsideReader, require_packages
from .portable import convert_weights, describe_network, refuse_gates
from .source import Source
from .transformers_classes import describe_model, find_class, has_exact_padding, make_reference, name_weights

HELP = "folder for transformers' AutoModel, any shape: HubertModel and its like, or shipped code"
READER = "transformers"
FOLDER = True

_OWN = "PortableModel"
# hooks, not hidden_states: which of these is before the final LayerNorm is not the same in all versions
_PROGRAM = """
from transformers import AutoModel
model, info = AutoModel.from_pretrained(folder, trust_remote_code={remote}, output_loading_info=True)
found = {{name: sorted(info[name]) for name in ("missing_keys", "unexpected_keys", "mismatched_keys")}}
if any(found.values()):
    raise ValueError(f"weights do not fit: {{found}}")
model.eval()
def run(waves, padding_mask):
    seen = []
    transformer = getattr(model, "model", model).encoder
    handles = [transformer.layers[0].register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0].clone()))]
    for layer in transformer.layers:
        take = lambda layer, inputs, output: seen.append(output[0] if isinstance(output, tuple) else output)
        handles.append(layer.register_forward_hook(take))
    output = model(waves, attention_mask=None if padding_mask is None else (~padding_mask).long())
    for handle in handles:
        handle.remove()
    return [*seen, output.last_hidden_state]
"""
_LOADING = """from transformers import AutoFeatureExtractor, AutoModel
extractor = AutoFeatureExtractor.from_pretrained("{folder}")
model = AutoModel.from_pretrained("{folder}"{remote}).eval()
inputs = extractor([wave], sampling_rate={rate}, return_tensors="pt")  # wave: (samples,) float
x = model(**inputs).last_hidden_state  # (batch, frames, {width})"""
_EXACT = "A wave gives the same in a padded batch, with the extractor's `attention_mask`, as alone."
_INEXACT = (
    "The norms over time take padding for sound, as in all of transformers' models with such norms: give waves of\n"
    "unequal lengths one by one, or export with --format safetensors, whose model leaves padding out."
)


def describe(source: Source) -> Dict[str, Any]:
    """The name of the model that is written."""
    model = find_class(source.config)
    return {"model": model.name if model else f"{_OWN}, with trust_remote_code=True"}


def check(source: Source) -> None:
    """Refuse, with a UserError, gates that are not cut, and an installation without the libraries."""
    refuse_gates(source)
    require_packages("transformers", "transformers", "safetensors")


def get_reference(source: Source) -> SpeechEncoder:
    """The encoder that the folder equals: with transformers' way with padding where it is transformers' model."""
    if find_class(source.config):
        return make_reference(source.encoder)
    source.encoder.exact_padding = True
    return source.encoder


def write(source: Source, path: Path) -> None:
    """Write settings, weights and, for shapes that transformers does not have, code."""
    cfg, encoder = source.config, source.encoder
    model = find_class(cfg)
    write_json(path / "preprocessor_config.json", _describe_extractor(source))
    if model:
        write_weights(path, name_weights(encoder))
        write_json(path / "config.json", describe_model(cfg, model))
        return
    copy_code(path, "portable_model", "modeling_portable")
    write_weights(path, {f"model.{key}": value for key, value in convert_weights(encoder).items()})
    settings = {
        "architectures": [_OWN],
        "auto_map": {"AutoConfig": "modeling_portable.PortableConfig", "AutoModel": f"modeling_portable.{_OWN}"},
        "model_type": "portable_speech_encoder",
        "hidden_size": cfg.encoder_embed_dim,
        "num_hidden_layers": cfg.encoder_layers,
        "encoder": {**describe_network(cfg), "normalize": False},  # the extractor does
    }
    write_json(path / "config.json", settings)


def _describe_extractor(source: Source) -> Dict[str, Any]:
    """`preprocessor_config.json`: waves as the checkpoint takes them, and a mask where the model can read one."""
    return {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "do_normalize": source.config.normalize,
        "feature_size": 1,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": _is_exact(source),
        "sampling_rate": source.checkpoint.sample_rate,
    }


def _is_exact(source: Source) -> bool:
    return not find_class(source.config) or has_exact_padding(source.config)


def open_file(path: Path, source: Source) -> OutsideReader:
    """The network as transformers runs it, without fairseq."""
    return OutsideReader(_PROGRAM.format(remote=not find_class(source.config)), path)


def finish(path: Path, source: Source, differences: Differences, name: str) -> None:
    """Add the README, with what was measured; `name` is the folder's."""
    loading = _LOADING.format(
        folder=name,
        remote="" if find_class(source.config) else ", trust_remote_code=True",
        rate=source.checkpoint.sample_rate,
        width=source.config.encoder_embed_dim,
    )
    header = "---\nlibrary_name: transformers\npipeline_tag: feature-extraction\n---\n\n"
    write_readme(path, source, differences, READER, loading, _EXACT if _is_exact(source) else _INEXACT, header)
