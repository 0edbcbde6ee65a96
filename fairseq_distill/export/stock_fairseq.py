"""A checkpoint of stock fairseq: `hubert`, `wav2vec2` or `data2vec_audio`, by the weights' family.

Nothing in it but dicts, lists, tensors and plain values, so that torch's safe loader opens it everywhere: released
HuBERT files hold fairseq's `Dictionary`, which torch 2.6 and later refuse. The list of dictionaries is there and empty,
as are the embeddings of labels.
"""

import importlib
from dataclasses import fields
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional

import torch
from fairseq import checkpoint_utils
from fairseq.models import MODEL_DATACLASS_REGISTRY
from torch import Tensor, nn

from ..checkpoints.saving import make_state
from ..errors import UserError
from .comparison import Reader, list_states
from .source import Source, refuse_unfit

HELP = "checkpoint of stock hubert, wav2vec2 or data2vec_audio: fairseq, s3prl, torchaudio's importer, RVC"
READER = "stock fairseq"


class _Kind(NamedTuple):
    model: str  # fairseq's name
    task: str
    module: str = ""  # where it is registered, if not by fairseq itself


_KINDS = {
    "hubert": _Kind("hubert", "hubert_pretraining"),
    "wav2vec2": _Kind("wav2vec2", "audio_pretraining"),
    "data2vec": _Kind("data2vec_audio", "audio_pretraining", "fairseq.examples.data2vec.models.data2vec_audio"),
}


def describe(source: Source) -> Dict[str, Any]:
    """The name of the model that is written, where its final projection is from, and what stays behind."""
    kind = _find_kind(source)
    found = bool(_find_projection(kind, source))
    return {
        "model": kind.model,
        "final_proj": "of the checkpoint" if found else "identity, as the checkpoint has none",
        "left_out": [name for name in source.left_out if not (found and name.startswith("final_proj "))],
    }


def check(source: Source) -> None:
    """Refuse, with a UserError, an encoder that no settings of stock fairseq describe."""
    kind = _find_kind(source)
    refuse_unfit(source, f"fairseq's {kind.model}", {f.name for f in fields(_find_settings(kind))} | {"normalize"})


def write(source: Source, path: Path) -> None:
    """Write the checkpoint."""
    kind, weights = _find_kind(source), dict(source.encoder.state_dict())
    final_dim = _add_heads(kind, source, weights)
    cfg = {
        **dict.fromkeys(("_name", "criterion", "optimizer", "lr_scheduler")),  # fine-tuning overwrites them
        "model": _make_model_settings(kind, source, final_dim),
        "task": _make_task(kind, source),
    }
    task_state: Dict[str, Any] = {"dictionaries": []} if kind.model == "hubert" else {}
    torch.save(make_state(cfg, weights, task_state), path)


def open_file(path: Path, source: Source) -> Reader:
    """The network as stock fairseq builds and runs it; raises what fairseq does where it cannot."""
    (model,), _, _ = checkpoint_utils.load_model_ensemble_and_task([str(path)])
    model.eval()
    return lambda waves, padding_mask: run_stock(model, waves, padding_mask)


def run_stock(model: nn.Module, waves: Tensor, padding_mask: Optional[Tensor]) -> List[Tensor]:
    """States of a stock model, see `list_states`; waves and mask are (batch, samples)."""
    encoder: Any = model.encoder
    seen: List[Tensor] = []
    handles = [encoder.layers[0].register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0]))]
    for layer in encoder.layers:
        handles.append(layer.register_forward_hook(lambda layer, inputs, output: seen.append(output[0])))
    try:
        result = model.extract_features(source=waves, padding_mask=padding_mask, mask=False)  # type: ignore[operator]
    finally:
        for handle in handles:
            handle.remove()
    x = result["x"] if isinstance(result, dict) else result[0]
    # fairseq pads to an even number of frames inside
    return list_states([state.transpose(0, 1)[:, : x.size(1)] for state in seen], x)


def _find_kind(source: Source) -> _Kind:
    family = source.config.family
    if family not in _KINDS:
        raise UserError(
            f"{source.checkpoint.path} is not exported: family={family}, and fairseq has no such model; "
            f"--format {family} writes it"
        )
    return _KINDS[family]


def _find_settings(kind: _Kind) -> type:
    """The dataclass of the model's settings."""
    if kind.model not in MODEL_DATACLASS_REGISTRY:
        try:
            importlib.import_module(kind.module)
        except ImportError as error:
            raise UserError(f"this fairseq has no {kind.model}, which is to open the file: {error}") from error
    return MODEL_DATACLASS_REGISTRY[kind.model]


def _find_projection(kind: _Kind, source: Source) -> Dict[str, Tensor]:
    """The checkpoint's final projection, by name; empty where it has none that the stock model has a place for."""
    found = {key: value.float() for key, value in source.checkpoint.weights.items() if key.startswith("final_proj.")}
    width = source.config.encoder_embed_dim
    shapes = {key: tuple(value.shape) for key, value in found.items()}
    rows = width if kind.model == "data2vec_audio" else shapes.get("final_proj.bias", (0,))[0]
    return found if shapes == {"final_proj.weight": (rows, width), "final_proj.bias": (rows,)} else {}


def _add_heads(kind: _Kind, source: Source, weights: Dict[str, Tensor]) -> int:
    """Add what stock models have besides the encoder; returns how wide their final projection is.

    Tools call `final_proj`, none reads the others.
    """
    width = source.config.encoder_embed_dim
    identity = {"final_proj.weight": torch.eye(width), "final_proj.bias": torch.zeros(width)}
    weights.update(_find_projection(kind, source) or identity)
    matrix = weights["final_proj.weight"]
    if kind.model == "hubert":
        weights["label_embs_concat"] = torch.empty(0, len(matrix))
    elif kind.model == "wav2vec2":
        weights["project_q.weight"] = torch.eye(len(matrix), source.encoder.embed)
        weights["project_q.bias"] = torch.zeros(len(matrix))
    else:
        start = "encoder."  # the moving average, which fairseq asks for, shares its numbers with the encoder
        average = {key[len(start) :]: value for key, value in weights.items() if key.startswith(start)}
        weights["_ema"] = average  # type: ignore[assignment]  # fairseq's own way of keeping it
    return len(matrix)


def _make_model_settings(kind: _Kind, source: Source, final_dim: int) -> Dict[str, Any]:
    stock = fields(_find_settings(kind))
    # files of the argparse era have latent_temp as a text, and no quantizer is written that would read it; without
    # frames added inside fairseq, its features are the student's to the last bit
    ours = {key: value for key, value in vars(source.config).items() if key != "latent_temp"}
    ours.update(final_dim=final_dim, untie_final_proj=False, target_glu=False, required_seq_len_multiple=1)
    settings = {f.name: getattr(ours[f.name], "value", ours[f.name]) for f in stock if f.name in ours}
    # what fairseq would look up in other sections
    missing = [f.name for f in stock if str(f.default).startswith("${") and f.name not in settings]
    return {**settings, **dict.fromkeys(missing, 0), "_name": kind.model}


def _make_task(kind: _Kind, source: Source) -> Dict[str, Any]:
    task = {"data": "", "sample_rate": source.checkpoint.sample_rate, "normalize": source.config.normalize}
    if kind.model == "hubert":
        task.update(label_rate=source.config.label_rate, labels=["km"])
    return {"_name": kind.task, **task}
