"""The registered task `speech_multitask`: labelled audio for several tasks, in one manifest or several."""

import logging
from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional

from fairseq.tasks import register_task
from omegaconf import MISSING
from torch import Tensor

from ..checkpoints.reading import read_checkpoint
from ..data.audio_settings import AudioSettings
from ..distillation.plan import PredictionPlan
from ..distillation.states import GroupStates
from ..distillation.teacher import Teacher
from ..encoder.layer_groups import parse_groups
from ..errors import UserError
from ..initialization.start import check_rate
from ..multitask.augmentation import Augmentation, NoiseManifest, check_lists
from ..multitask.dataset import load_multitask_dataset
from ..multitask.distillation import check_teacher
from ..multitask.labels import collect_classes
from ..multitask.settings import SpeechMultitaskCriterionConfig
from ..multitask.task_list import parse_tasks
from ..run.audio_task import AudioTask, AudioTaskConfig
from ..run.paths import find_checkpoint, find_file, make_absolute
from ..run.ranges import PROBABILITY
from ..run.settings import check_model, check_section, find_run, find_section, read_run_settings, settle

logger = logging.getLogger(__name__)


@dataclass
class SpeechMultitaskTaskConfig(AudioTaskConfig):
    """Labelled audio, what is done to it in training, and the list of tasks."""

    data: str = field(
        default=MISSING,
        metadata={
            "help": "folder with train.tsv and valid.tsv, and label files such as train.keyword beside them, for all "
            "tasks that name no other"
        },
    )
    tasks: Any = field(
        default=MISSING,
        metadata={
            "help": "a list with a mapping for each task: name, kind (classification or verification), label (ending "
            "of its label files, default the name), data (other folders), weight (of its loss), sampling (how often "
            "it is drawn), balanced (classes equally often), layers (sum or last), batch_norm (of pooled vectors); "
            "classification: hidden, activation; verification: pooling, embedding_dim, softmax (am or aam), scale, "
            "margin"
        },
    )
    teacher: str = field(
        default="", metadata={"help": "with criterion.distillation: checkpoint of the teacher, anything that loads"}
    )
    enable_padding: bool = field(
        default=True, metadata={"help": "pad a batch to its longest wave; otherwise crop it to its shortest"}
    )
    group_by_length: bool = field(
        default=False,
        metadata={
            "help": "in training, make batches of waves of like length: less padding, but tasks whose waves differ in "
            "length then seldom meet in a batch"
        },
    )
    speeds: List[float] = field(
        default_factory=list,
        metadata={
            "help": "in training, play each wave at one of these speeds, such as [0.9,1.0,1.1]; empty = as it is"
        },
    )
    noise: str = field(
        default="", metadata={"help": "in training, add noise from the files of this manifest; empty = none"}
    )
    noise_snr: List[float] = field(
        default_factory=lambda: [0.0, 15.0],
        metadata={"help": "lowest and highest ratio of speech to noise in dB; drawn evenly between"},
    )
    noise_probability: float = field(
        default=1.0, metadata={"help": "share of the training waves that get noise", "range": PROBABILITY}
    )


@register_task("speech_multitask", dataclass=SpeechMultitaskTaskConfig)
class SpeechMultitaskTask(AudioTask):
    """Batches of waves with classes for several tasks.

    The classes, which are the labels of the training set, are kept in the checkpoint: it opens without the data.
    """

    cfg: SpeechMultitaskTaskConfig

    def __init__(self, cfg: SpeechMultitaskTaskConfig):
        super().__init__(cfg)
        check_section(cfg, SpeechMultitaskTaskConfig, "task")
        self.tasks = parse_tasks(cfg.tasks)
        self.min_samples, self.normalize = 1, False
        self._teacher: Optional[Teacher] = None
        self.plan = PredictionPlan()
        self._exact_padding = False
        self.state.add_factory("classes", self._collect_classes)

    @property
    def classes(self) -> Dict[str, List[str]]:
        """The labels of each task, sorted: from the checkpoint, or in a new run from the training set."""
        return self.state.classes

    def load_dataset(self, split: str, task_cfg: Any = None, **kwargs: Any) -> None:
        """Load the manifests SPLIT.tsv and their labels; what is broken in them is reported, skipped and counted."""
        cfg = task_cfg or self.cfg
        training = split == self.train_split
        if not training and (find_section(find_run(self.cfg), "dataset") or {}).get("disable_validation"):
            return  # fairseq loads it, and never looks at it
        min_samples = max(cfg.min_sample_size or 0, self.min_samples)
        self.datasets[split] = load_multitask_dataset(
            split,
            self.tasks,
            self._find_folders(),
            self.classes,
            AudioSettings(
                sample_rate=cfg.sample_rate,
                min_sample_size=min_samples,
                max_sample_size=cfg.max_sample_size,
                pad=cfg.enable_padding,
                normalize=self.normalize,
                max_broken=cfg.max_broken,
                seed=self.find_seed(split),
            ),
            augmentation=self._build_augmentation(min_samples) if training else None,
            training=training,
            group_by_length=cfg.group_by_length,
        )

    def build_model(self, model_cfg: Any, from_checkpoint: bool = False):
        """Build the model, and fit the data to its encoder."""
        teacher = None
        if not from_checkpoint:
            self._check_init(model_cfg)
            run = find_run(model_cfg)
            criterion = read_run_settings(model_cfg, "criterion", SpeechMultitaskCriterionConfig())
            check_section(criterion, SpeechMultitaskCriterionConfig, "criterion")
            check_model(model_cfg)
            check_lists(list(self.cfg.speeds), list(self.cfg.noise_snr))
            learn = str(criterion.weighting) == "uncertainty"
            reason = f"criterion.weighting={criterion.weighting}"
            settle(run, "model", {"learn_task_weights": learn}, reason, model_cfg)
            if bool(criterion.distillation) != bool(self.cfg.teacher):
                raise UserError(
                    f"criterion.distillation={criterion.distillation:g} with "
                    f"task.teacher={self.cfg.teacher or 'nothing'}: give both or none"
                )
            if criterion.distillation:
                teacher = read_checkpoint(find_checkpoint(self.cfg.teacher, "task.teacher"))
                groups = parse_groups(criterion.groups, teacher.config.encoder_layers)
                plan = PredictionPlan(groups, width=teacher.config.encoder_embed_dim)
                settle(run, "model", plan.to_settings(), "from criterion.groups and the teacher", model_cfg)
        model = super().build_model(model_cfg, from_checkpoint)
        if teacher is not None:
            check_teacher(teacher, model.cfg)
        self.adopt(model)
        return model

    def adopt(self, model: Any) -> None:
        """Make data and targets what this SpeechMultitask needs."""
        self.min_samples, self.normalize = model.cfg.shortest_wave, model.cfg.normalize
        self.plan, self._exact_padding = model.plan, model.encoder.exact_padding

    def compute_targets(self, source: Tensor, padding_mask: Optional[Tensor] = None) -> GroupStates:
        """`Teacher.compute_targets` for a batch of waves (batch, samples); loads the teacher the first time."""
        if self._teacher is None:
            path = find_checkpoint(self.cfg.teacher, "task.teacher")
            self._teacher = Teacher([path], self.plan.teacher_groups, exact_padding=self._exact_padding)
        return self._teacher.compute_targets(source, padding_mask)

    def _collect_classes(self) -> Dict[str, List[str]]:
        found = {}
        for task, folders in zip(self.tasks, self._find_folders()):
            found[task.name] = collect_classes(task, folders, self.train_split)
            count = len(found[task.name])
            logger.info(f"task {task.name}: {task.kind} of {count} classes, the labels of {self.train_split}")
        return found

    def _find_folders(self) -> List[List[str]]:
        """Absolute folders of each task's manifests."""
        folders = [list(task.data) or [self.cfg.data] for task in self.tasks]
        return [[make_absolute(folder) for folder in own] for own in folders]

    def _build_augmentation(self, min_samples: int) -> Optional[Augmentation]:
        cfg = self.cfg
        if not cfg.speeds and not cfg.noise:
            return None
        noise = None
        if cfg.noise:
            noise = NoiseManifest(find_file(cfg.noise, "task.noise"), cfg.sample_rate, cfg.max_broken)
        return Augmentation(list(cfg.speeds), noise, list(cfg.noise_snr), cfg.noise_probability, min_samples)

    def _check_init(self, model_cfg: Any) -> None:
        if model_cfg.get("init"):
            path = find_checkpoint(model_cfg.init, "model.init")
            check_rate(self.cfg.sample_rate, read_checkpoint(path).sample_rate, f"model.init={path}")
