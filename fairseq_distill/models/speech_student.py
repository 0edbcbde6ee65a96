"""The registered model `speech_student`: a speech encoder of any shape, with heads while it is distilled."""

import logging
import sys
from dataclasses import dataclass, field
from typing import Any, Dict, List, NamedTuple, Optional

from torch import Tensor

from fairseq.dataclass import ChoiceEnum
from fairseq.models import register_model

from ..checkpoints import read_checkpoint
from ..compat import update_run_settings
from ..distillation.groups import FEATURES, Group, average_groups, layers_to_run, parse_groups
from ..distillation.heads import HEADS, SHARE_HEADS, assign_heads, build_heads
from ..distillation.initialization import LIKE_INIT, copy_weights, shape_like
from ..encoder.config import EncoderConfig
from ..encoder.model import SpeechEncoder
from ..errors import UserError
from ..paths import find_file
from ..pruning.gates import add_gates
from ..pruning.size import METRICS
from ..pruning.size_loss import SizeLoss

logger = logging.getLogger(__name__)


@dataclass
class SpeechStudentConfig(EncoderConfig):
    """An encoder, what it starts from, and its heads."""

    init: str = field(
        default="",
        metadata={
            "help": "checkpoint to start from (teacher, student, anything that loads): each part that fits is copied; "
            "empty = from scratch"
        },
    )
    like_init: ChoiceEnum(LIKE_INIT) = field(
        default="none",
        metadata={
            "help": "what the shape takes over from model.init: none; front = the convolution stack; layers = also kind "
            "and widths of the layers; all = the depth too"
        },
    )
    init_layers: List[int] = field(
        default_factory=list,
        metadata={"help": "layers of model.init, from 1, that the student's layers start as; empty = the first ones"},
    )
    prediction_head: ChoiceEnum(list(HEADS)) = field(
        default="linear",
        metadata={
            "help": "linear = one Linear per group (identity at the start where square); split = DistilHuBERT's "
            "Linear-GELU-Linear, for criterion.predict_from=last"
        },
    )
    share_heads: ChoiceEnum(SHARE_HEADS) = field(
        default="none",
        metadata={
            "help": "none = a linear head for each group; layers = one for all groups of layers, and one for f (DPHuBERT)"
        },
    )
    target_sparsity: float = field(
        default=0.75, metadata={"help": "with model.prune: the part of the encoder's size that is to go, from 0 to 1"}
    )
    sparsity_warmup: int = field(
        default=5000, metadata={"help": "updates over which the target rises from 0 to target_sparsity, linearly"}
    )
    lambda2: float = field(
        default=0.0,
        metadata={
            "help": "start of the multiplier of the squared distance to the target, which holds the size there: the paper's 0 "
            "for tens of thousands of updates, 300 for hundreds"
        },
    )
    size_metric: ChoiceEnum(METRICS) = field(
        default="params", metadata={"help": "what sparsity is counted in: params, or macs for a wave of 10 s"}
    )
    prediction_groups: str = field(
        default="", metadata={"help": "groups of teacher layers with a head each; the task writes it from criterion.groups"}
    )
    prediction_layers: str = field(
        default="",
        metadata={"help": "student layers whose mean each group is predicted from, empty = the last; the task writes it"},
    )
    prediction_dim: int = field(default=0, metadata={"help": "width of the teacher; the task writes it"})


class StudentPredictions(NamedTuple):
    """One prediction (batch, frames, teacher width) per group, and the frames that are padding or None."""

    values: List[Tensor]
    padding_mask: Optional[Tensor]


@register_model("speech_student", dataclass=SpeechStudentConfig)
class SpeechStudent(SpeechEncoder):
    """A `SpeechEncoder`, hence a fairseq `HubertModel`; the heads are there only where a distillation task set groups."""

    def __init__(self, cfg: SpeechStudentConfig, task_cfg: Any = None, dictionaries=()):
        super().__init__(EncoderConfig.from_settings(cfg), task_cfg, dictionaries)
        self.prediction_groups: List[Group] = []
        self.prediction_layers: List[Group] = []
        self.prediction_head = None
        if cfg.prediction_groups:
            # the teacher's depth was checked by the task
            self.prediction_groups = parse_groups(cfg.prediction_groups, depth=sys.maxsize)
            if cfg.prediction_layers:
                self.prediction_layers = parse_groups(cfg.prediction_layers, self.depth)
            head = str(cfg.prediction_head)
            if head == "split" and self.prediction_layers:
                raise UserError(
                    "model.prediction_head=split makes all predictions from one layer: set criterion.predict_from=last, "
                    "or model.prediction_head=linear"
                )
            options = {"users": assign_heads(self.prediction_groups, str(cfg.share_heads))} if head == "linear" else {}
            count = len(self.prediction_groups)
            self.prediction_head = build_heads(head, cfg.encoder_embed_dim, cfg.prediction_dim, count, **options)
        add_gates(self)
        self.size_loss = None
        if self.gates is not None:
            self.size_loss = SizeLoss(self, str(cfg.size_metric), cfg.target_sparsity, cfg.sparsity_warmup, cfg.lambda2)

    @classmethod
    def build_model(cls, cfg: SpeechStudentConfig, task: Any) -> "SpeechStudent":
        """Build a student for a fairseq task: shape and weights from `model.init` where that is set.

        What was taken over is written into the run's settings and `init` is emptied there: the student's own checkpoint
        needs no other file.
        """
        settings = {"normalize": bool(getattr(task.cfg, "normalize", False))}
        label_rate = getattr(task.cfg, "label_rate", None)
        if label_rate and label_rate > 0:
            settings["label_rate"] = label_rate
        checkpoint, init_layers = None, list(cfg.init_layers)
        if cfg.init:
            checkpoint = read_checkpoint(find_file(cfg.init, "model.init"))
            if checkpoint.config.prune and not cfg.prune:
                raise UserError(
                    f"model.init={cfg.init} still has its gates: cut them first, fairseq-distill prune {cfg.init} PRUNED.pt, "
                    "and start from PRUNED.pt"
                )
            shape = shape_like(checkpoint.config, str(cfg.like_init), cfg.encoder_layers, init_layers)
            settings = {**shape, **settings, "init": "", "like_init": "none", "init_layers": []}
        update_run_settings(cfg, "model", settings)
        # tasks without frame labels have no dictionaries in their state
        model = cls(cfg, task.cfg, getattr(task.state, "dictionaries", ()))
        if checkpoint is not None:
            copy_weights(model, checkpoint, init_layers)
        return model

    def forward(self, source: Tensor, padding_mask: Optional[Tensor] = None, predict: bool = False, **options: Any):
        """With `predict`, the predictions of teacher layers; otherwise as `SpeechEncoder.forward`.

        Args:
            source: (batch, samples) waves.
            padding_mask: (batch, samples) bool, True = padding.
        """
        if not predict:
            return super().forward(source, padding_mask=padding_mask, **options)
        if self.prediction_layers:
            output = self.encode(source, padding_mask, layers_to_run(self.prediction_layers))
            hidden = average_groups(output, self.prediction_layers)
        else:
            output = self.encode(source, padding_mask, {self.depth})
            hidden = [output.x] * len(self.prediction_groups)
        return StudentPredictions(self.prediction_head(hidden), output.padding_mask)

    def get_extra_losses(self, net_output: Any):
        """(losses, their names): fairseq's own, and in training with gates the one that pushes the size to its target."""
        losses, names = super().get_extra_losses(net_output) if isinstance(net_output, dict) else ([], [])
        if self.size_loss is not None and self.training:
            losses, names = [*losses, self.size_loss(self.gates)], [*names, "size"]
        return losses, names

    def describe_gates(self) -> Dict[str, Tensor]:
        """What to log of the gates, as scalars: expected and target sparsity, multipliers, units left; empty without gates."""
        return {} if self.size_loss is None else self.size_loss.describe(self.gates)

    def set_num_updates(self, num_updates: int) -> None:
        """fairseq tells the number of updates done so far: the target of the size depends on it."""
        super().set_num_updates(num_updates)
        if self.size_loss is not None:
            self.size_loss.num_updates = num_updates

    def freeze_unreached(self) -> None:
        """Take out of training what distillation does not reach: the mask embedding, and what lies behind all taps.

        Parameters without gradient stop DistributedDataParallel.
        """
        self.mask_emb.requires_grad_(False)
        if not self.prediction_layers:
            return
        if self.encoder.layer_norm_first:
            self.encoder.layer_norm.requires_grad_(False)
        if all(group == [FEATURES] for group in self.prediction_layers):
            self.encoder.requires_grad_(False)
        deepest = max(layers_to_run(self.prediction_layers))
        if deepest < self.depth:
            logger.warning(
                f"student layers {deepest + 1} to {self.depth} predict nothing and stay as they start: "
                "give criterion.groups the teacher's last layer, or the student fewer layers"
            )
            self.encoder.layers[deepest:].requires_grad_(False)

    def remove_pretraining_modules(self) -> None:
        """Drop what fine-tuning does not need: fairseq's masked prediction and the heads. Gates stay as they are."""
        super().remove_pretraining_modules()
        self.prediction_head = self.size_loss = None
        if self.gates is not None:
            logger.warning("this student's gates are not cut (fairseq-distill prune does it); they are kept as they are")
            self.gates.freeze()
