"""The registered model `speech_student`: a speech encoder of any shape, with heads while it is distilled."""

import logging
from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional

import numpy as np
from fairseq.dataclass import ChoiceEnum
from fairseq.models import register_model
from torch import Tensor, nn

from ..distillation.heads import PREDICTION_HEADS, SHARE_HEADS, assign_heads, build_heads, find_upsampling
from ..distillation.masking import sample_mask
from ..distillation.plan import PredictionPlan, PredictionSettings
from ..distillation.prediction import StudentOutput, predict_groups
from ..distillation.unit_prediction import UnitTargets, predict_units
from ..encoder.config import EncoderConfig
from ..encoder.layer_groups import FEATURES, layers_to_run
from ..encoder.model import SpeechEncoder
from ..encoder.size import frame_rate
from ..errors import UserError
from ..initialization.layer_choice import LAYER_CHOICES
from ..initialization.selection import WIDTH_CHOICES
from ..initialization.start import LIKE_INIT, STANDALONE, Start, check_rate
from ..pruning.expected_size import METRICS
from ..pruning.gates import add_gates, get_gates
from ..pruning.size_loss import SizeLoss
from ..run.moment import Moment
from ..run.ranges import FRACTION, NOT_NEGATIVE, POSITIVE
from ..run.settings import find_run, settle

logger = logging.getLogger(__name__)


@dataclass
class SpeechStudentConfig(PredictionSettings, EncoderConfig):
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
            "help": "what the shape takes over from model.init: none; front = the convolution stack; layers = also "
            "kind and widths of the layers; all = the depth too"
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
            "help": "where the student has fewer channels, heads or FFN neurons than model.init: none = such parts "
            "start from scratch; weights, activations = keep those of the largest importance, by the weights or by "
            "what they send on init_seconds of training speech"
        },
    )
    init_seconds: float = field(
        default=60.0, metadata={"help": "with init_width=activations: seconds of training speech", "range": POSITIVE}
    )
    prediction_head: ChoiceEnum(list(PREDICTION_HEADS)) = field(
        default="linear",
        metadata={
            "help": "linear = one Linear per group (identity at the start where square); split = DistilHuBERT's "
            "Linear-GELU-Linear, for criterion.predict_from=last; none = no heads, for objectives that compare no "
            "features"
        },
    )
    share_heads: ChoiceEnum(SHARE_HEADS) = field(
        default="none",
        metadata={
            "help": "none = a linear head for each group; layers = one for all groups of layers, and one for f "
            "(DPHuBERT)"
        },
    )
    target_sparsity: float = field(
        default=0.75,
        metadata={
            "help": "with model.prune: the part of the encoder's size that is to go, from 0 to 1",
            "range": FRACTION,
        },
    )
    sparsity_warmup: int = field(
        default=5000,
        metadata={
            "help": "updates over which the target rises from 0 to target_sparsity, linearly",
            "range": NOT_NEGATIVE,
        },
    )
    lambda2: float = field(
        default=0.0,
        metadata={
            "help": "start of the multiplier of the squared distance to the target, which holds the size there: the "
            "paper's 0 for tens of thousands of updates, 300 for hundreds",
            "range": NOT_NEGATIVE,
        },
    )
    size_metric: ChoiceEnum(METRICS) = field(
        default="params", metadata={"help": "what sparsity is counted in: params, or macs for a wave of 10 s"}
    )


@register_model("speech_student", dataclass=SpeechStudentConfig)
class SpeechStudent(SpeechEncoder):
    """A `SpeechEncoder`, hence a fairseq `HubertModel`; the heads are there only where a distillation task set groups.

    Attributes:
        plan: what it predicts of its teacher. The task adds what its settings do not say: number of teachers and
            captures.
    """

    def __init__(self, cfg: SpeechStudentConfig, task_cfg: Any = None, dictionaries=()):
        super().__init__(EncoderConfig.from_settings(cfg), task_cfg, dictionaries)
        self.num_updates = 0
        self.plan = PredictionPlan.from_settings(cfg, self.depth)
        self.prediction_head = self._build_heads(cfg) if self.plan.groups else None
        add_gates(self)
        self.size_loss = None
        if self.gates is not None:
            self.size_loss = SizeLoss(self, str(cfg.size_metric), cfg.target_sparsity, cfg.sparsity_warmup, cfg.lambda2)

    def _build_heads(self, cfg: SpeechStudentConfig) -> nn.Module:
        plan, kind = self.plan, str(cfg.prediction_head)
        if kind == "split" and plan.student_groups:
            raise UserError(
                "model.prediction_head=split makes all predictions from one layer: set criterion.predict_from=last, "
                "or model.prediction_head=linear"
            )
        count = len(plan.groups)
        sources = plan.student_groups or [[self.depth]] * count
        options: Dict[str, Any] = {"upsample": find_upsampling(sources, self.cfg.time_reduction)}
        if kind == "linear":
            options["users"] = assign_heads(plan.groups, str(cfg.share_heads))
        return build_heads(kind, cfg.encoder_embed_dim, plan.width, count, **options)

    @classmethod
    def build_model(cls, cfg: SpeechStudentConfig, task: Any) -> "SpeechStudent":
        """Build a student for a fairseq task: shape and weights from `model.init` where that is set.

        What was taken over is written into the run's settings and `init` is emptied there: the student's own checkpoint
        needs no other file.
        """
        try:
            return cls._build(cfg, task)
        except ValueError as error:  # of settings that do not go together, see EncoderConfig.check
            raise UserError(f"model.{error}") from error

    @classmethod
    def _build(cls, cfg: SpeechStudentConfig, task: Any) -> "SpeechStudent":
        run = find_run(cfg)
        start = Start(cfg) if cfg.init else None
        waves = {"normalize": bool(getattr(task.cfg, "normalize", False))}
        if getattr(task.cfg, "sample_rate", None):
            waves["sample_rate"] = task.cfg.sample_rate
        if start is not None:
            rate = start.checkpoint.sample_rate
            check_rate(waves.get("sample_rate", rate), rate, f"model.init={cfg.init}")
            settle(run, "model", start.shape, f"as in model.init={cfg.init}", cfg)
        settle(run, "model", waves, "as the task has it", cfg)
        # tasks without frame labels have no dictionaries in their state
        dictionaries = getattr(task.state, "dictionaries", ())
        label_rate = getattr(task.cfg, "label_rate", None)
        if label_rate and label_rate > 0:
            settle(run, "model", {"label_rate": label_rate}, "as the task has it", cfg)
        elif dictionaries:
            label_rate = frame_rate(EncoderConfig.from_settings(cfg))
            settle(run, "model", {"label_rate": label_rate}, "a label for each frame", cfg)
        if start is not None:
            settle(run, "model", STANDALONE, "the student's own checkpoint needs no other file", cfg)
            settle(run, "model", start.select(cfg, task.cfg), "of the heads that were chosen", cfg)
        model = cls(cfg, dictionaries=dictionaries)
        if start is not None:
            start.copy_into(model)
        return model

    def forward(  # type: ignore[override]  # whoever calls either names the options
        self, source: Tensor, padding_mask: Optional[Tensor] = None, predict: bool = False, **options: Any
    ):
        """With `predict`, a `StudentOutput` (see `predict`); otherwise as `SpeechEncoder.forward`.

        Both go through here: DistributedDataParallel sees no other method.

        Args:
            source: (batch, samples) waves.
            padding_mask: (batch, samples) bool, True = padding.
            predict: see above.
            **options: of `predict`, or of `SpeechEncoder.forward`.
        """
        if predict:
            return self.predict(source, padding_mask, **options)
        return super().forward(source, padding_mask=padding_mask, **options)

    def predict(
        self,
        source: Tensor,
        padding_mask: Optional[Tensor] = None,
        mask_indices: Optional[Tensor] = None,
        units: Optional[UnitTargets] = None,
    ) -> StudentOutput:
        """Predictions of the teacher's groups, and what else of the student is compared with them, as `plan` says.

        Args:
            source: (batch, samples) waves.
            padding_mask: (batch, samples) bool, True = padding.
            mask_indices: (batch, frames) bool, frames to mask, or None.
            units: of masked prediction, which takes a second pass through the layers, or None.
        """
        features = self.compute_features(source, padding_mask)
        assert self.prediction_head is not None, "without groups, nothing is predicted"
        states = predict_groups(self, self.prediction_head, self.plan, features, mask_indices)
        return StudentOutput(states, None if units is None else predict_units(self, features, units))

    def get_extra_losses(self, net_output: Any):
        """(losses, their names): fairseq's own, and in training with gates what pushes the size to its target."""
        losses, names = super().get_extra_losses(net_output) if isinstance(net_output, dict) else ([], [])
        if self.size_loss is not None and self.training:
            losses, names = [*losses, self.size_loss(get_gates(self))], [*names, "size"]
        return losses, names

    def describe_gates(self) -> Dict[str, Tensor]:
        """Scalars to log of the gates: expected and target sparsity, multipliers, what is left; empty without gates."""
        return {} if self.size_loss is None else self.size_loss.describe(get_gates(self))

    def set_num_updates(self, num_updates: int) -> None:
        """Fairseq tells the number of updates done so far: the target of the size depends on it."""
        super().set_num_updates(num_updates)
        self.num_updates = num_updates
        if self.size_loss is not None:
            self.size_loss.num_updates = num_updates

    def sample_mask(
        self, source: Tensor, padding_mask: Optional[Tensor] = None, generator: Optional[np.random.Generator] = None
    ) -> Tensor:
        """`masking.sample_mask` of this student."""
        return sample_mask(self, source, padding_mask, generator)

    def begin_update(self, moment: Moment) -> None:
        """Draw the gates of a micro-batch from what follows from `moment`, alike on all workers."""
        if self.gates is not None:
            get_gates(self).begin_update(moment.seed, moment.update, moment.micro_batch)

    def freeze_unreached(self, masked: bool = False, whole: bool = False) -> None:
        """Take out of training what distillation does not reach: what lies behind all taps, and the mask embedding.

        Parameters without gradient stop DistributedDataParallel.

        Args:
            masked: frames are masked, so the mask embedding is reached.
            whole: the final output is reached too.
        """
        self.mask_emb.requires_grad_(masked)
        if whole or not self.plan.student_groups:
            return
        if self.encoder.layer_norm_first:
            self.encoder.layer_norm.requires_grad_(False)
        if all(group == [FEATURES] for group in self.plan.student_groups):
            self.encoder.requires_grad_(False)
        deepest = max(layers_to_run(self.plan.student_groups))
        if deepest < self.depth:
            logger.warning(
                f"student layers {deepest + 1} to {self.depth} predict nothing and stay as they start: "
                "give criterion.groups the teacher's last layer, or the student fewer layers"
            )
            for layer in self.encoder.layers[deepest:]:
                layer.requires_grad_(False)

    def remove_pretraining_modules(self) -> None:
        """Drop what fine-tuning does not need: fairseq's masked prediction and the heads. Gates stay as they are."""
        super().remove_pretraining_modules()
        self.prediction_head = self.size_loss = None
        if self.gates is not None:
            logger.warning(
                "this student's gates are not cut (fairseq-distill prune does it); they are kept as they are"
            )
            get_gates(self).freeze()
