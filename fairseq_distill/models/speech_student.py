"""The registered model `speech_student`: a speech encoder of any shape, with heads while it is distilled."""

import logging
import sys
from dataclasses import dataclass, field
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from fairseq.dataclass import ChoiceEnum
from fairseq.models import register_model
from torch import Tensor, nn

from ..distillation.heads import HEADS, SHARE_HEADS, assign_heads, build_heads, find_upsampling, upsample_mask
from ..distillation.masking import sample_mask
from ..distillation.states import Capture, look
from ..distillation.unit_prediction import UnitScores, UnitTargets, predict_units
from ..encoder.config import EncoderConfig
from ..encoder.layer_groups import FEATURES, Group, layers_to_run, parse_groups
from ..encoder.model import SpeechEncoder
from ..errors import UserError
from ..initialization.layer_choice import LAYER_CHOICES
from ..initialization.selection import WIDTH_CHOICES
from ..initialization.start import LIKE_INIT, STANDALONE, Start
from ..pruning.gates import add_gates
from ..pruning.expected_size import METRICS
from ..pruning.size_loss import SizeLoss
from ..run.settings import update_run_settings

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
        metadata={"help": "layers of model.init, from 1, that the student's layers start as; empty = see init_choice"},
    )
    init_choice: ChoiceEnum(LAYER_CHOICES) = field(
        default="first",
        metadata={
            "help": "without init_layers: first = the first layers; every = evenly spaced, the last one as the last; "
            "clusters = the middle layer of each cluster of init_clusters"
        },
    )
    init_clusters: str = field(
        default="", metadata={"help": "with init_choice=clusters: a file that fairseq-distill clusters --out wrote"}
    )
    init_width: ChoiceEnum(WIDTH_CHOICES) = field(
        default="none",
        metadata={
            "help": "where the student has fewer channels, heads or units than model.init: none = such parts start from "
            "scratch; weights, activations = keep those of the largest importance, by the weights or by what they send on "
            "init_seconds of training speech"
        },
    )
    init_seconds: float = field(
        default=60.0, metadata={"help": "with init_width=activations: seconds of training speech"}
    )
    prediction_head: ChoiceEnum(list(HEADS)) = field(
        default="linear",
        metadata={
            "help": "linear = one Linear per group (identity at the start where square); split = DistilHuBERT's "
            "Linear-GELU-Linear, for criterion.predict_from=last; none = no heads, for objectives that compare no features"
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
        default="",
        metadata={"help": "groups of teacher layers with a head each; the task writes it from criterion.groups"},
    )
    prediction_layers: str = field(
        default="",
        metadata={
            "help": "student layers whose mean each group is predicted from, empty = the last; the task writes it"
        },
    )
    prediction_dim: int = field(default=0, metadata={"help": "width of the teacher; the task writes it"})


class StudentPredictions(NamedTuple):
    """One prediction (batch, frames, teacher width) per group, and the frames that are padding or None.

    Where time is reduced there may be up to time_reduction - 1 frames fewer than the teacher makes. `hidden` is what the predictions are made of, (batch, frames, width) per group; `pairs` and `maps` are those of
    `views.View`, where they were captured; `unit_scores` are there where units were to be predicted.
    """

    values: List[Tensor]
    padding_mask: Optional[Tensor]
    hidden: Sequence[Tensor] = ()
    pairs: Sequence[Tuple[Tensor, Tensor]] = ()
    maps: Sequence[Tensor] = ()
    unit_scores: Optional[UnitScores] = None


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
            self.prediction_head = self._build_heads(head, cfg)
        add_gates(self)
        self.size_loss = None
        if self.gates is not None:
            self.size_loss = SizeLoss(self, str(cfg.size_metric), cfg.target_sparsity, cfg.sparsity_warmup, cfg.lambda2)

    def _build_heads(self, kind: str, cfg: SpeechStudentConfig) -> nn.Module:
        count = len(self.prediction_groups)
        sources = self.prediction_layers or [[self.depth]] * count
        options: Dict[str, Any] = {"upsample": find_upsampling(sources, self.cfg.time_reduction)}
        if kind == "linear":
            options["users"] = assign_heads(self.prediction_groups, str(cfg.share_heads))
        return build_heads(kind, cfg.encoder_embed_dim, cfg.prediction_dim, count, **options)

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
        start = Start(cfg) if cfg.init else None
        if start is not None:
            settings = {**start.shape, **settings, **STANDALONE}
        update_run_settings(cfg, "model", settings)
        if start is not None:
            update_run_settings(cfg, "model", start.select(cfg, task.cfg))
        # tasks without frame labels have no dictionaries in their state
        model = cls(cfg, task.cfg, getattr(task.state, "dictionaries", ()))
        if start is not None:
            start.copy_into(model)
        return model

    def forward(self, source: Tensor, padding_mask: Optional[Tensor] = None, predict: bool = False, **options: Any):
        """With `predict`, the predictions of teacher layers (`predict`); otherwise as `SpeechEncoder.forward`.

        Args:
            source: (batch, samples) waves.
            padding_mask: (batch, samples) bool, True = padding.
        """
        if predict:
            return self.predict(source, padding_mask, **options)
        return super().forward(source, padding_mask=padding_mask, **options)

    def predict(
        self,
        source: Tensor,
        padding_mask: Optional[Tensor] = None,
        capture: Capture = Capture(),
        mask_indices: Optional[Tensor] = None,
        units: Optional[UnitTargets] = None,
    ) -> StudentPredictions:
        """Predictions of the teacher's groups, and what else of the student is compared with them.

        Args:
            source, padding_mask: as in `forward`.
            capture: needs `prediction_layers`.
            mask_indices: (batch, frames) bool, frames to mask, or None.
            units: of masked prediction, which takes a second pass through the layers, or None.
        """
        features = self.compute_features(source, padding_mask)
        pairs, maps = [], []
        if self.prediction_layers:
            hidden, pairs, maps, mask = look(self, features, self.prediction_layers, capture, mask_indices)
        else:
            output = self.encode_features(features, {self.depth}, mask_indices=mask_indices)
            hidden, mask = [output.x] * len(self.prediction_groups), output.padding_mask
        mask = upsample_mask(mask, self.cfg.time_reduction)
        values = self.prediction_head(hidden)
        if mask is not None:  # features that nothing else is predicted beside have a few frames more
            values = [value[:, : mask.size(1)] for value in values]
        scores = None if units is None else predict_units(self, features, units)
        return StudentPredictions(values, mask, hidden, pairs, maps, scores)

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
        """Fairseq tells the number of updates done so far: the target of the size depends on it."""
        super().set_num_updates(num_updates)
        if self.size_loss is not None:
            self.size_loss.num_updates = num_updates

    def sample_mask(self, source: Tensor, padding_mask: Optional[Tensor] = None) -> Tensor:
        """`masking.sample_mask` of this student."""
        return sample_mask(self, source, padding_mask)

    def freeze_unreached(self, masked: bool = False, whole: bool = False) -> None:
        """Take out of training what distillation does not reach: what lies behind all taps, and the mask embedding.

        Parameters without gradient stop DistributedDataParallel.

        Args:
            masked: frames are masked, so the mask embedding is reached.
            whole: the final output is reached too.
        """
        self.mask_emb.requires_grad_(masked)
        if whole or not self.prediction_layers:
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
            logger.warning(
                "this student's gates are not cut (fairseq-distill prune does it); they are kept as they are"
            )
            self.gates.freeze()
