"""The registered model `speech_multitask`: one speech encoder and a head for each task."""

import json
import logging
import sys
import zlib
from dataclasses import dataclass, field
from typing import Any, Dict, List, NamedTuple, Optional, Sequence

import torch
from fairseq.dataclass import ChoiceEnum
from fairseq.models import BaseFairseqModel, register_model
from torch import Tensor, nn

from ..checkpoints.reading import load_encoder
from ..checkpoints.safe_load import PathLike, read_pickled, to_plain
from ..encoder.config import EncoderConfig
from ..encoder.layer_groups import parse_groups
from ..encoder.model import EncoderOutput, SpeechEncoder
from ..errors import UserError
from ..initialization.start import shape_like
from ..multitask.distillation import Adapter, TeacherHeads, TeacherPredictions, attach
from ..multitask.heads import TaskUncertainty, build_head, needs_last, needs_sum
from ..multitask.task_list import TaskSettings, parse_tasks
from ..pruning.gates import add_gates
from ..run.paths import find_file
from ..run.settings import update_run_settings

logger = logging.getLogger(__name__)

FREEZE = ("none", "cnn", "all")


@dataclass
class SpeechMultitaskConfig(EncoderConfig):
    """An encoder, whose shape comes from `init`, and how it is trained; the heads are described by `task.tasks`."""

    init: str = field(
        default="",
        metadata={
            "help": "checkpoint whose encoder to start from: a teacher, a student, anything that loads; its shape is "
            "taken over, dropout is as set here; empty = an encoder of this shape from scratch"
        },
    )
    freeze: ChoiceEnum(FREEZE) = field(
        default="none",
        metadata={
            "help": "what of the encoder stays as it is: none; cnn = the convolutions; all = only heads are trained"
        },
    )
    freeze_updates: int = field(
        default=0, metadata={"help": "the whole encoder stays as it is for this many updates, while the heads settle"}
    )
    exact_padding: bool = field(
        default=True,
        metadata={
            "help": "a wave gives the same in a padded batch as alone; false = as in stock fairseq, where the first norm takes "
            "padding for sound, and short waves beside long ones are not what they will be in use"
        },
    )
    learn_task_weights: bool = field(
        default=False, metadata={"help": "a variance for each task; the task writes it from criterion.weighting"}
    )
    adapter: int = field(
        default=0,
        metadata={
            "help": "with criterion.distillation: width of a bottleneck beside each feed-forward part that only the tasks "
            "go through, not the distillation (OS-KDFT: 64); 0 = none"
        },
    )
    prediction_groups: str = field(
        default="",
        metadata={"help": "groups of teacher layers with a head each; the task writes it from criterion.groups"},
    )
    prediction_dim: int = field(default=0, metadata={"help": "width of the teacher; the task writes it"})


class MultitaskOutput(NamedTuple):
    """What the model says of a batch of waves.

    Attributes:
        embeddings: of each task, (batch, embedding).
        scores: of each task, (batch, classes) float32 without margin; their softmax are the probabilities.
        encoder: the hidden states that all of this was made from.
        log_variance: (tasks,) float32, or None; see `TaskUncertainty`.
        predictions: of the teacher's layers, where they were asked for.
    """

    embeddings: Dict[str, Tensor]
    scores: Dict[str, Tensor]
    encoder: EncoderOutput
    log_variance: Optional[Tensor]
    predictions: Optional[TeacherPredictions] = None


@register_model("speech_multitask", dataclass=SpeechMultitaskConfig)
class SpeechMultitask(BaseFairseqModel):
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
            self.encoder.gates.freeze()
        width, depth = self.cfg.encoder_embed_dim, self.encoder.depth
        self.heads = nn.ModuleDict(
            {task.name: build_head(task, width, depth, len(classes[task.name])) for task in self.tasks}
        )
        self.prediction_groups = parse_groups(cfg.prediction_groups, sys.maxsize) if cfg.prediction_groups else []
        self.prediction_head = self.adapters = None
        if self.prediction_groups:
            self.prediction_head = TeacherHeads(self.cfg, cfg.prediction_dim, len(self.prediction_groups))
        if cfg.adapter:
            self._check_adapter(cfg)
            self.adapters = nn.ModuleList(Adapter(width, cfg.adapter) for _ in range(depth))
        self.uncertainty = TaskUncertainty(len(self.tasks)) if cfg.learn_task_weights else None
        # fairseq goes on with a run without looking at what its task knew
        checksum = zlib.crc32(json.dumps(self.classes, sort_keys=True).encode())
        self.register_buffer("classes_checksum", torch.tensor(checksum))
        self._layers = None if needs_sum(self.tasks) else {depth}
        self._freeze_parameters()

    def _check_adapter(self, cfg: SpeechMultitaskConfig) -> None:
        """Raise UserError where adapters would do nothing, or the wrong thing."""
        if not self.prediction_groups:
            raise UserError(
                f"model.adapter={cfg.adapter} separates the tasks from distillation: set criterion.distillation too"
            )
        if cfg.checkpoint_activations:
            raise UserError(
                f"model.adapter={cfg.adapter}: layers that run again in the backward pass would do so without it, set "
                "model.checkpoint_activations=false"
            )

    def _freeze_parameters(self) -> None:
        """Take out of training what is to stay, and what no loss reaches: that would stop DistributedDataParallel."""
        encoder = self.encoder
        encoder.mask_emb.requires_grad_(False)
        if encoder.encoder.layer_norm_first and not needs_last(self.tasks) and not self.prediction_groups:
            encoder.encoder.layer_norm.requires_grad_(False)
        if self.freeze == "all":
            if self.prediction_groups:
                raise UserError(
                    "model.freeze=all leaves nothing to distil: set criterion.distillation=0, or model.freeze=none"
                )
            encoder.requires_grad_(False)
        elif self.freeze == "cnn":
            encoder.feature_extractor.requires_grad_(False)
            encoder.feature_grad_mult = 0.0  # fairseq's way to run the convolutions without gradient

    @classmethod
    def build_model(cls, cfg: SpeechMultitaskConfig, task: Any) -> "SpeechMultitask":
        """Build the model for a fairseq task: encoder from `model.init` where that is set.

        The encoder's shape is written into the run's settings and `init` is emptied there: the checkpoint stands alone.
        """
        source = load_encoder(find_file(cfg.init, "model.init")) if cfg.init else None
        if source is not None:
            shape = shape_like(source.cfg, "all", source.depth, [])
            update_run_settings(cfg, "model", {**shape, "prune": list(source.cfg.prune), "init": ""})
        model = cls(cfg, task.tasks, task.classes)
        if source is not None:
            # torch's own method: fairseq's changes the names of some weights
            nn.Module.load_state_dict(model.encoder, source.state_dict())
            if source.gates is not None:
                logger.warning(
                    "this encoder's gates are not cut (fairseq-distill prune does it); they stay as they are"
                )
        return model

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
            plain = output = None
            if predict or self.adapters is None:
                plain = output = self.encoder.encode_features(features, self._layers)
            if self.adapters is not None:
                with attach(self.encoder, self.adapters):
                    output = self.encoder.encode_features(features, self._layers)
        predictions = self.prediction_head(plain) if predict else None
        rows = [None] * len(self.tasks) if labelled is None else labelled.unbind(1)
        embeddings = {name: head.embed(output, own) for (name, head), own in zip(self.heads.items(), rows)}
        scores = {name: head.score(embeddings[name]) for name, head in self.heads.items()}
        log_variance = None if self.uncertainty is None else self.uncertainty.log_variance
        return MultitaskOutput(embeddings, scores, output, log_variance, predictions)

    def train(self, mode: bool = True) -> "SpeechMultitask":
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
                "this checkpoint was trained for other classes than the training set has now: give the data that it was "
                "trained on, or start a new run in another folder with model.init"
            )
        return super().load_state_dict(state_dict, *args, **kwargs)

    def max_positions(self) -> None:
        """Waves of any length."""
        return None


def load_multitask(path: PathLike) -> SpeechMultitask:
    """Load a fine-tuned model without its data: evaluation mode, float32, CPU; waves are normalised as it needs.

    Args:
        path: a checkpoint of `speech_multitask`.

    Returns:
        The model, with its `tasks` and their `classes`; call it with waves (batch, samples) at 16 kHz.

    Raises:
        UserError: the file cannot be read or is refused, or is no such model.
    """
    state = read_pickled(path)
    state = state if isinstance(state, dict) else {}
    settings, task_state = to_plain(state.get("cfg")) or {}, to_plain(state.get("task_state")) or {}
    name = (settings.get("model") or {}).get("_name", "no model of fairseq")
    if name != "speech_multitask" or "classes" not in task_state:
        raise UserError(
            f"{path} holds {name}, and this needs a model that was fine-tuned as speech_multitask (recipes in config/finetune)"
        )
    try:
        config = SpeechMultitaskConfig.from_settings(settings["model"])
        model = SpeechMultitask(config, parse_tasks(settings["task"]["tasks"]), task_state["classes"])
        nn.Module.load_state_dict(model, state["model"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{path} cannot be used: {error}") from error
    model.encoder.normalize_input = model.cfg.normalize
    return model.float().eval()
