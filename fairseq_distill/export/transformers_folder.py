"""A folder of Hugging Face transformers: one of its own models, or ours in plain torch where it has none of that shape.

Before it is put in place, transformers runs it in a process that can import neither fairseq nor this package.
"""

from pathlib import Path
from typing import Any, Dict, Optional

from ..checkpoints.ctc import CtcCheckpoint
from ..encoder.config import EncoderConfig
from .comparison import Differences, Reference
from .folder import copy_code, write_json, write_readme, write_weights
from .outside import OutsideReader, require_packages
from .portable import convert_weights, describe_network, refuse_gates
from .source import Source
from .transformers_classes import (
    ModelClass,
    describe_model,
    find_class,
    has_exact_padding,
    make_reference,
    name_weights,
)
from .transformers_ctc import Recogniser, convert_output, describe_tokens, read_recogniser, write_tokens

HELP = "folder for transformers' AutoModel, any shape: HubertModel and its like, or shipped code"
READER = "transformers"
FOLDER = True

_OWN = ModelClass("PortableModel", "PortableForCTC", "portable_speech_encoder")
# hooks, not hidden_states: which of these is before the final LayerNorm is not the same in all versions
_PROGRAM = """
from transformers import {auto}
model, info = {auto}.from_pretrained(folder, trust_remote_code={remote}, output_loading_info=True)
found = {{name: sorted(info[name]) for name in ("missing_keys", "unexpected_keys", "mismatched_keys")}}
if any(found.values()):
    raise ValueError(f"weights do not fit: {{found}}")
model.eval()
def run(waves, padding_mask):
    seen = []
    base = getattr(model, model.config.model_type, model)
    transformer = getattr(base, "model", base).encoder
    handles = [transformer.layers[0].register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0].clone()))]
    for layer in transformer.layers:
        take = lambda layer, inputs, output: seen.append(output[0] if isinstance(output, tuple) else output)
        handles.append(layer.register_forward_hook(take))
    if hasattr(model, "lm_head"):
        handles.append(model.lm_head.register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0])))
    output = model(waves, attention_mask=None if padding_mask is None else (~padding_mask).long())
    for handle in handles:
        handle.remove()
    return [*seen, output.logits if hasattr(model, "lm_head") else output.last_hidden_state]
"""
_LOADING = """from transformers import AutoFeatureExtractor, AutoModel
extractor = AutoFeatureExtractor.from_pretrained("{folder}")
model = AutoModel.from_pretrained("{folder}"{remote}).eval()
inputs = extractor([wave], sampling_rate={rate}, return_tensors="pt")  # wave: (samples,) float
x = model(**inputs).last_hidden_state  # (batch, frames, {width})"""
_LOADING_CTC = """from transformers import AutoModelForCTC, Wav2Vec2Processor
processor = Wav2Vec2Processor.from_pretrained("{folder}"{remote})
model = AutoModelForCTC.from_pretrained("{folder}"{remote}).eval()
inputs = processor([wave], sampling_rate={rate}, return_tensors="pt")  # wave: (samples,) float
texts = processor.batch_decode(model(**inputs).logits.argmax(-1))"""
_LOADING_SCORES = """from transformers import AutoFeatureExtractor, AutoModelForCTC
extractor = AutoFeatureExtractor.from_pretrained("{folder}")
model = AutoModelForCTC.from_pretrained("{folder}"{remote}).eval()
inputs = extractor([wave], sampling_rate={rate}, return_tensors="pt")  # wave: (samples,) float
scores = model(**inputs).logits  # (batch, frames, tokens), which vocab.json names if the checkpoint did"""
_REMOTE = ", with trust_remote_code=True"
_EXACT = "A wave gives the same in a padded batch, with the extractor's `attention_mask`, as alone."
_INEXACT = (
    "The norms over time take padding for sound, as in all of transformers' models with such norms: give waves of\n"
    "unequal lengths one by one, or export with --format safetensors, whose model leaves padding out."
)


def describe(source: Source) -> Dict[str, Any]:
    """The name of the model that is written."""
    recogniser = read_recogniser(source)
    found: Dict[str, Any] = {"model": _name_class(source, recogniser) + ("" if find_class(source.config) else _REMOTE)}
    if recogniser:
        found["left_out"] = [name for name in source.left_out if not name.startswith("w2v_encoder.proj ")]
    return found


def _name_class(source: Source, recogniser: Optional[CtcCheckpoint]) -> str:
    model = find_class(source.config) or _OWN
    return model.recogniser if recogniser else model.name


def check(source: Source) -> None:
    """Refuse, with a UserError, gates that are not cut, and an installation without the libraries."""
    refuse_gates(source)
    require_packages("transformers", "transformers", "safetensors")
    read_recogniser(source)


def get_reference(source: Source) -> Reference:
    """What the folder equals: with transformers' way with padding where it is transformers' model."""
    recogniser = read_recogniser(source)
    encoder = recogniser.model.encoder if recogniser else source.encoder
    if find_class(source.config):
        encoder = make_reference(encoder)
    else:
        encoder.exact_padding = True
    return Recogniser(encoder, convert_output(recogniser.model)) if recogniser else encoder


def write(source: Source, path: Path) -> None:
    """Write settings, weights and, for shapes that transformers does not have, code."""
    cfg, encoder, model, recogniser = source.config, source.encoder, find_class(source.config), read_recogniser(source)
    normalize = recogniser.model.encoder.normalize_input if recogniser else cfg.normalize
    extractor = _describe_extractor(source, normalize)
    if model:
        prefix = f"{model.model_type}." if recogniser else ""
        weights, settings = name_weights(encoder, prefix), describe_model(cfg, model)
    else:
        copy_code(path, "portable_model", "modeling_portable")
        weights = {f"model.{key}": value for key, value in convert_weights(encoder).items()}
        settings = _describe_own(cfg)
    settings["architectures"] = [_name_class(source, recogniser)]
    if recogniser:
        weights.update(convert_output(recogniser.model))
        settings.update(describe_tokens(recogniser))
        if write_tokens(path, recogniser):
            extractor["processor_class"] = "Wav2Vec2Processor"
    write_weights(path, weights)
    write_json(path / "preprocessor_config.json", extractor)
    write_json(path / "config.json", settings)


def _describe_own(cfg: EncoderConfig) -> Dict[str, Any]:
    """`config.json` of `modeling_portable`."""
    names = {"AutoConfig": "PortableConfig", "AutoModel": _OWN.name, "AutoModelForCTC": _OWN.recogniser}
    return {
        "auto_map": {auto: f"modeling_portable.{name}" for auto, name in names.items()},
        "model_type": _OWN.model_type,
        "hidden_size": cfg.encoder_embed_dim,
        "num_hidden_layers": cfg.encoder_layers,
        "encoder": {**describe_network(cfg), "normalize": False},  # the extractor does
    }


def _describe_extractor(source: Source, normalize: bool) -> Dict[str, Any]:
    """`preprocessor_config.json`: waves as the checkpoint takes them, and a mask where the model can read one."""
    return {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "do_normalize": normalize,
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
    auto = "AutoModelForCTC" if read_recogniser(source) else "AutoModel"
    return OutsideReader(_PROGRAM.format(remote=not find_class(source.config), auto=auto), path)


def finish(path: Path, source: Source, differences: Differences, name: str) -> None:
    """Add the README, with what was measured; `name` is the folder's."""
    recogniser = read_recogniser(source)
    with_text = (path / "tokenizer_config.json").exists()
    lines = (_LOADING_CTC if with_text else _LOADING_SCORES) if recogniser else _LOADING
    loading = lines.format(
        folder=name,
        remote="" if find_class(source.config) else ", trust_remote_code=True",
        rate=source.checkpoint.sample_rate,
        width=source.config.encoder_embed_dim,
    )
    task = "automatic-speech-recognition" if with_text else "feature-extraction"
    header = f"---\nlibrary_name: transformers\npipeline_tag: {task}\n---\n\n"
    notes = _EXACT if _is_exact(source) else _INEXACT
    left_out = describe(source).get("left_out", source.left_out)
    write_readme(path, source, differences, READER, loading, notes, left_out, header)
