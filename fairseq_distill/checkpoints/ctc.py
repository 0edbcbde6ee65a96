"""A model that fairseq fine-tuned by CTC, of any era: its encoder, its output layer and its tokens.

Read like every other file: none of its code runs, none of the paths in it is opened, and it needs no task of fairseq's.

what                       hydra era                         argparse era
model, task, criterion     cfg.model, cfg.task, ...          args
the encoder's settings     model.w2v_args; missing in what fairseq's task hubert_pretraining fine-tunes
the encoder's weights      w2v_encoder.w2v_model.
the output layer           w2v_encoder.proj.
the tokens                 task_state, or only dict.LABELS.txt in the folder that it was trained on
"""

import dataclasses
from typing import Any, Dict, Mapping, NamedTuple, Optional, Tuple

import torch
from torch import Tensor, nn

from ..data.token_dictionary import TokenDictionary, restore_dictionary
from ..encoder.model import SpeechEncoder, require
from ..encoder.pieces import encode_pieces, join_pieces
from ..errors import UserError
from .reading import EncoderCheckpoint, build_encoder, read_checkpoint
from .safe_load import PathLike, read_pickled, to_plain
from .tensors import check_weights
from .unpacking import collect_tensors

_ENCODER = "w2v_encoder.w2v_model."
_OUTPUT = "w2v_encoder.proj."
_BLANK = 0  # where fairseq's models add their weight, whatever the dictionary says


class CtcModel(nn.Module):
    """An encoder with a linear layer that scores tokens, as `wav2vec_ctc` and `hubert_ctc` have it.

    Args:
        encoder: normalises waves itself where its checkpoint asks for it.
        output: from the encoder's width to tokens.
        blank_weight: `wav2vec_ctc` changes the blank's score by it; 0 leaves it.
        blank_mode: "add" = add blank_weight to the score, "set" = put it in its place.
    """

    def __init__(self, encoder: SpeechEncoder, output: nn.Linear, blank_weight: float = 0.0, blank_mode: str = "add"):
        super().__init__()
        self.encoder, self.output = encoder, output
        self.blank_weight, self.blank_mode = blank_weight, blank_mode

    def forward(self, source: Tensor) -> Tensor:
        """Waves (batch, samples) without padding -> scores (batch, frames, tokens), before any softmax.

        Each goes through the encoder alone, a long one in pieces.
        """
        outputs = [join_pieces([*encode_pieces(self.encoder, wave, [self.encoder.depth])]) for wave in source]
        scores = self.output(torch.cat([require(output.x) for output in outputs]))
        if self.blank_weight:
            start = scores[..., _BLANK] if self.blank_mode == "add" else 0.0
            scores[..., _BLANK] = start + self.blank_weight
        return scores


class CtcCheckpoint(NamedTuple):
    """What a fine-tuned file holds.

    Attributes:
        model: in evaluation mode, float32, on the CPU.
        labels: ending of the label files that it was trained on; "" if the file does not say.
        dictionary: its tokens; None if they are not inside.
    """

    model: CtcModel
    labels: str
    dictionary: Optional[TokenDictionary]


def read_ctc(path: PathLike, pretrained: Optional[PathLike] = None) -> CtcCheckpoint:
    """Read a model that was fine-tuned by CTC.

    Args:
        path: its file.
        pretrained: the file that it was fine-tuned from; read only where it lacks the settings of its encoder.

    Raises:
        UserError: the file cannot be read or is refused, or it is no CTC model of fairseq's form; the message names
            the model, the criterion or the weights.
    """
    state = read_pickled(path)
    held = state if isinstance(state, dict) else {}
    settings = to_plain(held.get("cfg")) or to_plain(held.get("args")) or {}
    model, task = _section(settings, "model"), _section(settings, "task")
    weights = collect_tensors(path, held["model"])[0] if isinstance(held.get("model"), dict) else {}
    _check_is_ctc(path, model, settings, weights)
    check_weights(path, weights)
    encoder = build_encoder(_read_encoder(path, model, weights, pretrained))
    if isinstance(task.get("normalize"), bool):  # fairseq's data sets ask the task that fine-tuned
        encoder.normalize_input = task["normalize"]
    output = _build_output(path, weights, encoder.cfg.encoder_embed_dim)
    network = CtcModel(encoder, output, *_find_blank_weight(path, model)).eval()
    return CtcCheckpoint(network, _find_labels(task.get("labels")), _find_dictionary(path, held.get("task_state")))


def _section(settings: Dict[str, Any], name: str) -> Dict[str, Any]:
    """A section of the settings; all of them where the argparse era has one namespace for all."""
    return settings[name] if isinstance(settings.get(name), dict) else settings


def _check_is_ctc(path: PathLike, model: Mapping, settings: Mapping, weights: Mapping[str, Tensor]) -> None:
    """Refuse, by its name, what no output layer behind an encoder recognises."""
    name = model.get("_name") or model.get("arch") or "without a name"
    if not any(key.startswith(_ENCODER) for key in weights) or not any(key.startswith(_OUTPUT) for key in weights):
        reason = "its decoder writes, token by token" if "seq2seq" in str(name) else "it has no output layer for tokens"
        raise UserError(
            f"{path} is the model {name}: {reason}, but evaluate ctc recognises speech with models that fairseq "
            "fine-tuned by CTC (hubert_ctc, wav2vec_ctc): fine-tune it (recipes ctc_letters, ctc_pieces)"
        )
    criterion = settings.get("criterion")
    criterion = criterion.get("_name") if isinstance(criterion, dict) else criterion
    if criterion and "ctc" not in str(criterion):
        raise UserError(
            f"{path} was trained by the criterion {criterion}: evaluate ctc recognises speech with models that were "
            "trained by ctc"
        )
    others = [key for key in weights if not key.startswith((_ENCODER, _OUTPUT))]
    if others:
        raise UserError(
            f"{path} is the model {name}, with weights beside an encoder and an output layer that evaluate ctc does "
            f"not know: {', '.join(sorted(others)[:3])}"
        )


def _read_encoder(
    path: PathLike, model: Mapping, weights: Mapping[str, Tensor], pretrained: Optional[PathLike]
) -> EncoderCheckpoint:
    if model.get("w2v_args"):
        return read_checkpoint(path)
    if pretrained is None:
        raise UserError(
            f"{path} lacks the settings of the encoder inside it (model.w2v_args), as fairseq's task "
            f"hubert_pretraining leaves it: give the checkpoint that it was fine-tuned from (--pretrained FILE); "
            f"its model.w2v_path is {model.get('w2v_path')}"
        )
    inner = {key[len(_ENCODER) :]: value for key, value in weights.items() if key.startswith(_ENCODER)}
    return dataclasses.replace(read_checkpoint(pretrained), path=path, weights=inner, others={})


def _build_output(path: PathLike, weights: Mapping[str, Tensor], width: int) -> nn.Linear:
    parts = {key[len(_OUTPUT) :]: value for key, value in weights.items() if key.startswith(_OUTPUT)}
    shapes = {name: tuple(value.shape) for name, value in parts.items()}
    tokens = (shapes.get("bias") or (0,))[0]
    if shapes != {"weight": (tokens, width), "bias": (tokens,)}:
        raise UserError(
            f"{path}: its output layer {_OUTPUT}* must have a weight (tokens, {width}) and a bias, but has {shapes}"
        )
    output = nn.Linear(width, tokens)
    output.load_state_dict(parts)
    return output


def _find_blank_weight(path: PathLike, model: Mapping) -> Tuple[float, str]:
    """(weight, mode) of the blank; `hubert_ctc` has none."""
    weight, mode = model.get("blank_weight") or 0.0, model.get("blank_mode") or "add"
    if (model.get("_name") or model.get("arch")) == "hubert_ctc" or weight == 0:
        return 0.0, "add"
    if not isinstance(weight, (int, float)) or mode not in ("add", "set"):
        raise UserError(f"{path}: model.blank_weight={weight} with blank_mode={mode} is not a number with add or set")
    return float(weight), mode


def _find_labels(labels: Any) -> str:
    """The ending in `task.labels`, which HuBERT's tasks have as a list; "" where none stands there."""
    first = labels[0] if isinstance(labels, list) and labels else labels
    return first if isinstance(first, str) and first != "???" else ""


def _find_dictionary(path: PathLike, task_state: Any) -> Optional[TokenDictionary]:
    """The tokens that the file holds, or None."""
    stored = to_plain(task_state or {}).get("target_dictionary")
    stored = stored[0] if isinstance(stored, list) and len(stored) == 1 else stored
    if not stored:
        return None
    return restore_dictionary(stored if isinstance(stored, dict) else {}, path)
