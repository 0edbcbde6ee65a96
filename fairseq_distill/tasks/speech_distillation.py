"""The registered task `speech_distillation`: audio without labels, and a teacher that is loaded when first needed."""

import os
from dataclasses import dataclass, field, replace
from typing import Any, List, Optional

import torch
from fairseq.data import Dictionary
from fairseq.dataclass import ChoiceEnum
from fairseq.tasks import register_task
from omegaconf import MISSING
from torch import Tensor

from ..checkpoints.reading import EncoderCheckpoint, read_checkpoint
from ..data.audio_dataset import load_audio_dataset
from ..data.audio_settings import AudioSettings
from ..data.unit_labels import UnitLabels, read_dictionary
from ..distillation.objective import Objective
from ..distillation.plan import PredictionPlan
from ..distillation.preparation import (
    check_strides,
    count_separate,
    fit_to_teachers,
    list_teachers,
    settle_update_freq,
)
from ..distillation.settings import SpeechDistillationCriterionConfig
from ..distillation.states import GroupStates
from ..distillation.teacher import Teacher
from ..encoder.conv_spec import ConvLayer
from ..pruning.optimizer import check_optimizer
from ..run.audio_task import AudioTask, AudioTaskConfig
from ..run.paths import find_checkpoint, make_absolute
from ..run.ranges import NOT_NEGATIVE, POSITIVE
from ..run.settings import check_model, check_section, find_run, read_run_settings

TEACHER_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "student": None}


@dataclass
class SpeechDistillationConfig(AudioTaskConfig):
    """Audio without labels, and a teacher."""

    data: str = field(default=MISSING, metadata={"help": "folder with the manifests train.tsv and valid.tsv"})
    teacher: Any = field(
        default=MISSING,
        metadata={
            "help": "checkpoint of the teacher: HuBERT, wav2vec 2.0, data2vec, WavLM or one of our students, as "
            "released; several, separated by commas, are combined"
        },
    )
    combine_teachers: ChoiceEnum(["average", "heads"]) = field(
        default="average",
        metadata={"help": "several teachers: average = one target, their mean; heads = a head and a target for each"},
    )
    label_dir: str = field(
        default="",
        metadata={
            "help": "with criterion.masked_prediction: folder that fairseq-distill units wrote (train.km, valid.km, "
            "dict.km.txt)"
        },
    )
    normalize: Optional[bool] = field(
        default=None,
        metadata={"help": "zero mean and unit variance per wave; empty = as the teacher was trained"},
    )
    num_batch_buckets: int = field(
        default=0,
        metadata={
            "help": "pad to this many lengths instead of any (with enable_padding); 0 = any",
            "range": NOT_NEGATIVE,
        },
    )
    teacher_dtype: ChoiceEnum(list(TEACHER_DTYPES)) = field(
        default="float32",
        metadata={"help": "precision the teacher runs in; student = that of the run (half precision with common.fp16)"},
    )
    cluster_seconds: float = field(
        default=600.0,
        metadata={
            "help": "with criterion.groups=auto: seconds of training speech to compare layers on",
            "range": POSITIVE,
        },
    )
    update_seconds: Optional[float] = field(
        default=None,
        metadata={
            "help": "seconds of audio in an update over all GPUs: optimization.update_freq is set to what "
            "dataset.max_tokens (samples on each GPU) needs for it; empty = update_freq as given",
            "range": POSITIVE,
        },
    )


@register_task("speech_distillation", dataclass=SpeechDistillationConfig)
class SpeechDistillationTask(AudioTask):
    """Batches of waves, and targets for them from the teacher.

    Loading a student (for inference or fine-tuning) sets this task up without touching the teacher's file.

    Attributes:
        plan: what the student predicts of the teacher, once the student is built.
    """

    cfg: SpeechDistillationConfig

    def __init__(self, cfg: SpeechDistillationConfig):
        super().__init__(cfg)
        check_section(cfg, SpeechDistillationConfig, "task")
        self.plan = PredictionPlan()
        self._teacher: Optional[Teacher] = None
        self._min_samples = 1
        self._frame_layers: List[ConvLayer] = []
        if cfg.label_dir:  # kept in the student's file, so that it opens without the folder
            self.state.add_factory("dictionaries", lambda: [read_dictionary(make_absolute(cfg.label_dir))])

    @property
    def label_dictionary(self) -> Dictionary:
        """The units of masked prediction."""
        return self.state.dictionaries[0]

    def load_dataset(self, split: str, task_cfg: Any = None, **kwargs: Any) -> None:
        """Load the manifest DATA/SPLIT.tsv; what is broken in it is reported, skipped and counted."""
        cfg = task_cfg or self.cfg
        labels = None
        if cfg.label_dir:
            path = os.path.join(make_absolute(cfg.label_dir), f"{split}.km")
            labels = UnitLabels(path, self.label_dictionary, self._frame_layers, cfg.sample_rate)
        settings = AudioSettings(
            sample_rate=cfg.sample_rate,
            max_sample_size=cfg.max_sample_size,
            min_sample_size=max(cfg.min_sample_size or 0, self._min_samples),
            pad=cfg.enable_padding,
            normalize=bool(cfg.normalize),
            num_buckets=cfg.num_batch_buckets,
            max_broken=cfg.max_broken,
            seed=self.find_seed(split),
        )
        manifest = os.path.join(make_absolute(cfg.data), f"{split}.tsv")
        self.datasets[split] = load_audio_dataset(manifest, settings, labels)

    def build_model(self, model_cfg: Any, from_checkpoint: bool = False):
        """Build the student; in a new run, fit its heads and its data to the teacher first."""
        criterion = read_run_settings(model_cfg, "criterion", SpeechDistillationCriterionConfig())
        teachers: List[EncoderCheckpoint] = []
        if not from_checkpoint:
            check_section(criterion, SpeechDistillationCriterionConfig, "criterion")
            check_model(model_cfg)
            run = find_run(model_cfg)
            if model_cfg.get("prune"):
                check_optimizer(run)
            settle_update_freq(run, self.cfg)
            teachers = [read_checkpoint(path) for path in self.teacher_paths()]
            fit_to_teachers(teachers, self.cfg, model_cfg, criterion)
        model = super().build_model(model_cfg, from_checkpoint)
        captures = Objective.from_settings(criterion).captures
        self.plan = model.plan = replace(model.plan, teachers=count_separate(self.cfg), captures=captures)
        self._min_samples = model.cfg.shortest_wave
        self._frame_layers = model.cfg.frame_layers
        if not from_checkpoint:
            predicts_units = bool(criterion.masked_prediction)
            model.freeze_unreached(bool(criterion.masking) or predicts_units, whole=predicts_units)
            check_strides(teachers, model.cfg.conv_layers)
        return model

    def compute_targets(
        self, source: Tensor, padding_mask: Optional[Tensor] = None, mask_indices: Optional[Tensor] = None
    ) -> GroupStates:
        """`Teacher.compute_targets` for a batch of waves (batch, samples); loads the teacher the first time."""
        if self._teacher is None:
            dtype, plan = TEACHER_DTYPES[str(self.cfg.teacher_dtype)], self.plan
            self._teacher = Teacher(
                self.teacher_paths(), plan.teacher_groups, dtype, plan.captures, separate=plan.teachers > 1
            )
        return self._teacher.compute_targets(source, padding_mask, mask_indices)

    def teacher_paths(self) -> List[str]:
        """Absolute paths of the teachers' checkpoints."""
        return [find_checkpoint(path, "task.teacher") for path in list_teachers(self.cfg)]
