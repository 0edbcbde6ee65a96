"""One speech encoder and a head for each task: the model, and loading it without its data."""

import json
import zlib
from contextlib import nullcontext
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, cast

import torch
from fairseq.models import BaseFairseqModel
from torch import Tensor, nn

from ..checkpoints.reading import find_sample_rate
from ..checkpoints.safe_load import PathLike, read_pickled, to_plain
from ..distillation.plan import PredictionPlan
from ..distillation.states import GroupStates
from ..encoder.config import EncoderConfig
from ..encoder.model import EncoderOutput, SpeechEncoder
from ..encoder.pieces import encode_pieces, join_pieces
from ..errors import UserError
from ..pruning.gates import add_gates, get_gates
from .distillation import Adapter, TeacherHeads, attach
from .heads import Head, TaskUncertainty, build_head
from .settings import SpeechMultitaskConfig
from .task_list import TaskSettings, parse_tasks


class MultitaskOutput(NamedTuple):
    """What the model says of a batch of waves.

    Attributes:
        embeddings: of each task, (batch, embedding).
        scores: of each task, (batch, classes) float32 without margin; their softmax are the probabilities.
        encoder: the hidden states that all of this was made from.
        log_variance: (tasks,) float32, or None; see `TaskUncertainty`.
        states: with predictions of the teacher's layers, where they were asked for.
    """

    embeddings: Dict[str, Tensor]
    scores: Dict[str, Tensor]
    encoder: EncoderOutput
    log_variance: Optional[Tensor]
    states: Optional[GroupStates] = None


class MultitaskModel(BaseFairseqModel):
    """A shared `SpeechEncoder` and heads. A frozen encoder runs as in evaluation, without dropout and without gradient.

    Args:
        cfg: the encoder's shape and how it is trained.
        tasks: what the heads are.
        classes: the labels of each task, by name.
    """

    def __init__(self, cfg: SpeechMultitaskConfig, tasks: Sequence[TaskSettings], classes: Dict[str, List[str]]):
        super().__init__()
        self.tasks, self.classes = list(tasks), dict(classes)
        self.freeze, self.freeze_updates, self.num_updates = str(cfg.freeze), cfg.freeze_updates, 0
        self.encoder = SpeechEncoder(EncoderConfig.from_settings(cfg))
        self.cfg = self.encoder.cfg
        self.encoder.exact_padding = cfg.exact_padding
        add_gates(self.encoder)
        if self.encoder.gates is not None:
            get_gates(self.encoder).freeze()
        width, depth = self.cfg.encoder_embed_dim, self.encoder.depth
        heads = {task.name: build_head(task, width, depth, len(classes[task.name])) for task in self.tasks}
        self.heads = cast(Mapping[str, Head], nn.ModuleDict(heads))  # torch's type does not say of what
        self.plan = PredictionPlan.from_settings(cfg, depth)
        self.prediction_head = TeacherHeads(self.cfg, self.plan) if self.plan.groups else None
        self.adapters = None
        if cfg.adapter:
            if not self.plan.groups:
                raise UserError(
                    f"model.adapter={cfg.adapter} separates the tasks from distillation: set criterion.distillation too"
                )
            if cfg.checkpoint_activations:
                raise UserError(
                    f"model.adapter={cfg.adapter}: layers that run again in the backward pass would do so without it, "
                    "set model.checkpoint_activations=false"
                )
            self.adapters = nn.ModuleList(Adapter(width, cfg.adapter) for _ in range(depth))
        self.uncertainty = TaskUncertainty(len(self.tasks)) if cfg.learn_task_weights else None
        # fairseq goes on with a run without looking at what its task knew
        checksum = zlib.crc32(json.dumps(self.classes, sort_keys=True).encode())
        self.register_buffer("classes_checksum", torch.tensor(checksum))
        self._layers = None if any(task.layers == "sum" for task in self.tasks) else {depth}
        self._freeze_parameters()

    def _freeze_parameters(self) -> None:
        """Take out of training what is to stay, and what no loss reaches: that would stop DistributedDataParallel."""
        encoder = self.encoder
        encoder.mask_emb.requires_grad_(False)
        uses_last = any(task.layers == "last" for task in self.tasks) or bool(self.plan.groups)
        if encoder.encoder.layer_norm_first and not uses_last:
            encoder.encoder.layer_norm.requires_grad_(False)
        if self.freeze == "all":
            if self.plan.groups:
                raise UserError(
                    "model.freeze=all leaves nothing to distil: set criterion.distillation=0, or model.freeze=none"
                )
            encoder.requires_grad_(False)
        elif self.freeze == "cnn":
            encoder.feature_extractor.requires_grad_(False)
            encoder.feature_grad_mult = 0.0  # fairseq's way to run the convolutions without gradient

    @property
    def encoder_frozen(self) -> bool:
        """Whether the whole encoder stays as it is in this update."""
        return self.freeze == "all" or self.num_updates < self.freeze_updates

    def forward(
        self,
        source: Tensor,
        padding_mask: Optional[Tensor] = None,
        labelled: Optional[Tensor] = None,
        predict: bool = False,
    ) -> MultitaskOutput:
        """Embeddings and scores of every task.

        Args:
            source: (batch, samples) waves, normalised where `cfg.normalize` asks for it.
            padding_mask: (batch, samples) bool, True = padding, or None.
            labelled: (batch, tasks) bool, which utterances count in a head's batch statistics; None = all.
            predict: also predict the teacher's layers, from the encoder without adapters.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.encoder_frozen):
            features = self.encoder.compute_features(source, padding_mask)
            if self.adapters is None:
                output = self.encoder.encode_features(features, self._layers)
                plain: Optional[EncoderOutput] = output
            else:
                plain = self.encoder.encode_features(features, self._layers) if predict else None
                with attach(self.encoder, self.adapters):
                    output = self.encoder.encode_features(features, self._layers)
        states = None
        if predict:
            assert self.prediction_head is not None, "without groups, nothing is predicted"
            states = self.prediction_head(plain)
        return self._run_heads(output, labelled, states)

    @torch.inference_mode()
    def run_wave(self, wave: Tensor) -> MultitaskOutput:
        """What the model says of one wave (samples,): its encoder is given a long one in pieces, its heads are not."""
        with nullcontext() if self.adapters is None else attach(self.encoder, self.adapters):
            output = join_pieces(list(encode_pieces(self.encoder, wave, self._layers)))
        return self._run_heads(output)

    def _run_heads(
        self, output: EncoderOutput, labelled: Optional[Tensor] = None, states: Optional[GroupStates] = None
    ) -> MultitaskOutput:
        rows = [None] * len(self.tasks) if labelled is None else labelled.unbind(1)
        embeddings = {name: head.embed(output, own) for (name, head), own in zip(self.heads.items(), rows)}
        scores = {name: head.score(embeddings[name]) for name, head in self.heads.items()}
        log_variance = None if self.uncertainty is None else self.uncertainty.log_variance
        return MultitaskOutput(embeddings, scores, output, log_variance, states)

    def train(self, mode: bool = True) -> "MultitaskModel":
        """Training mode, but for what is frozen."""
        super().train(mode)
        if self.encoder_frozen:
            self.encoder.eval()
        elif self.freeze == "cnn":
            self.encoder.feature_extractor.eval()
        return self

    def set_num_updates(self, num_updates: int) -> None:
        """Fairseq tells the number of updates done so far, after it has set the mode: the encoder may wake up."""
        super().set_num_updates(num_updates)
        was_frozen, self.num_updates = self.encoder_frozen, num_updates
        if was_frozen != self.encoder_frozen:
            self.train(self.training)

    def load_state_dict(self, state_dict: Dict[str, Tensor], *args: Any, **kwargs: Any):
        """As fairseq's; UserError where the weights are those of other classes, whose number may be the same."""
        saved = state_dict.get("classes_checksum")
        if saved is not None and saved.item() != self.classes_checksum.item():
            raise UserError(
                "this checkpoint was trained for other classes than the training set has now: give the data that it "
                "was trained on, or start a new run in another folder with model.init"
            )
        return super().load_state_dict(state_dict, *args, **kwargs)


def load_multitask(path: PathLike) -> MultitaskModel:
    """Load a fine-tuned model without its data: evaluation mode, float32, CPU; waves are normalised as it needs.

    Args:
        path: a checkpoint of `speech_multitask`.

    Returns:
        The model, with its `tasks` and their `classes`; call it with waves (batch, samples) at its
        `cfg.sample_rate`.

    Raises:
        UserError: the file cannot be read or is refused, or is no such model.
    """
    state = read_pickled(path)
    state = state if isinstance(state, dict) else {}
    settings, task_state = to_plain(state.get("cfg")) or {}, to_plain(state.get("task_state")) or {}
    name = (settings.get("model") or {}).get("_name", "no model of fairseq")
    if name != "speech_multitask" or "classes" not in task_state:
        raise UserError(
            f"{path} holds {name}, and this needs a model that was fine-tuned as speech_multitask (recipes in "
            "config/finetune)"
        )
    try:
        section, task = settings["model"], settings["task"]
        config = SpeechMultitaskConfig.from_settings({**section, "sample_rate": find_sample_rate(section, task)})
        model = MultitaskModel(config, parse_tasks(task["tasks"]), task_state["classes"])
        nn.Module.load_state_dict(model, state["model"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{path} cannot be used: {error}") from error
    model.encoder.normalize_input = model.cfg.normalize
    return model.float().eval()
