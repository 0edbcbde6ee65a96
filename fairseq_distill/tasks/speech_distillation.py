"""The registered task `speech_distillation`: audio without labels, and a teacher that is loaded when first needed."""

import logging
import os
from dataclasses import dataclass, field
from typing import Any, List, Optional, Sequence

import torch
from fairseq.data import Dictionary
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.tasks import register_task
from omegaconf import MISSING

from ..checkpoints.reading import EncoderCheckpoint, read_checkpoint
from ..criterions.speech_distillation import SpeechDistillationCriterionConfig
from ..data.audio_dataset import load_audio_dataset
from ..data.audio_settings import AudioSettings
from ..data.unit_labels import UnitLabels, read_dictionary
from ..distillation.checks import check_heads, check_labels, check_relations, check_same
from ..distillation.states import Capture
from ..distillation.teacher import Targets, Teacher
from ..encoder.config import EncoderConfig
from ..encoder.conv_spec import ConvLayer, total_stride
from ..encoder.layer_groups import Group, describe_groups, format_groups, match_student_layers, name_group, parse_groups
from ..errors import UserError
from ..pruning.optimizer import check_optimizer
from ..run.audio_task import AudioTask
from ..run.paths import find_file, make_absolute
from ..run.settings import find_run, read_run_settings, update_run_settings

logger = logging.getLogger(__name__)

TEACHER_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "student": None}


@dataclass
class SpeechDistillationConfig(FairseqDataclass):
    """Audio without labels, and a teacher; names and meanings of the audio's settings are fairseq's.

    Not a subclass of fairseq's AudioPretrainingConfig: its fields differ from version to version, and a student's file must
    open in all of them.
    """

    data: str = field(default=MISSING, metadata={"help": "folder with the manifests train.tsv and valid.tsv"})
    teacher: Any = field(
        default=MISSING,
        metadata={
            "help": "checkpoint of the teacher: HuBERT, wav2vec 2.0, data2vec, WavLM or one of our students, as released; "
            "several, separated by commas, are combined"
        },
    )
    combine_teachers: ChoiceEnum(["average", "heads"]) = field(
        default="average",
        metadata={"help": "several teachers: average = one target, their mean; heads = a head and a target for each"},
    )
    label_dir: str = field(
        default="",
        metadata={
            "help": "with criterion.masked_prediction: folder that fairseq-distill units wrote (train.km, valid.km, dict.km.txt)"
        },
    )
    normalize: Optional[bool] = field(
        default=None,
        metadata={"help": "zero mean and unit variance per wave; empty = as the teacher was trained"},
    )
    sample_rate: int = field(default=16_000, metadata={"help": "samples a second; files at another rate are not used"})
    enable_padding: bool = field(
        default=False, metadata={"help": "pad a batch to its longest wave; otherwise crop it to its shortest"}
    )
    max_sample_size: Optional[int] = field(
        default=None, metadata={"help": "longer waves are cropped to this many samples"}
    )
    min_sample_size: Optional[int] = field(
        default=None, metadata={"help": "shorter waves are left out; at least the receptive field of the student"}
    )
    num_batch_buckets: int = field(
        default=0, metadata={"help": "pad to this many lengths instead of any (with enable_padding); 0 = any"}
    )
    teacher_dtype: ChoiceEnum(list(TEACHER_DTYPES)) = field(
        default="float32",
        metadata={"help": "precision the teacher runs in; student = that of the run (half precision with common.fp16)"},
    )
    cluster_seconds: float = field(
        default=600.0, metadata={"help": "with criterion.groups=auto: seconds of training speech to compare layers on"}
    )
    update_seconds: Optional[float] = field(
        default=None,
        metadata={
            "help": "seconds of audio in an update over all GPUs: optimization.update_freq is set to what dataset.max_tokens "
            "(samples on each GPU) needs for it; empty = update_freq as given"
        },
    )
    max_broken: float = field(
        default=0.01,
        metadata={"help": "fraction of a set's files that may be unreadable before the run stops; they are skipped"},
    )


@register_task("speech_distillation", dataclass=SpeechDistillationConfig)
class SpeechDistillationTask(AudioTask):
    """Batches of waves, and targets for them from the teacher.

    Loading a student (for inference or fine-tuning) sets this task up without touching the teacher's file.

    Attributes:
        num_heads: how many times each group has a head: once, or once for each teacher.
    """

    cfg: SpeechDistillationConfig

    def __init__(self, cfg: SpeechDistillationConfig):
        super().__init__(cfg)
        self._teacher: Optional[Teacher] = None
        self.groups: List[Group] = []
        self.num_heads = len(self._list_teachers()) if str(cfg.combine_teachers) == "heads" else 1
        self.min_samples = 1
        self._frame_layers: List[ConvLayer] = []
        if cfg.label_dir:  # kept in the student's file, so that it opens without the folder
            self.state.add_factory("dictionaries", lambda: [read_dictionary(make_absolute(cfg.label_dir))])

    @property
    def label_dictionary(self) -> Dictionary:
        """The units of masked prediction."""
        return self.state.dictionaries[0]

    @property
    def group_names(self) -> List[str]:
        """Of each group, for logs: "4", "8-12"; with a head for each teacher "4_teacher1", "4_teacher2"."""
        count = len(self.groups) // self.num_heads
        names = [name_group(group) for group in self.groups]
        return names if self.num_heads == 1 else [f"{name}_teacher{i // count + 1}" for i, name in enumerate(names)]

    def load_dataset(self, split: str, task_cfg: Any = None, **kwargs: Any) -> None:
        """Load the manifest DATA/SPLIT.tsv; what is broken in it is reported, skipped and counted."""
        cfg = task_cfg or self.cfg
        labels = None
        if cfg.label_dir:
            path = os.path.join(make_absolute(cfg.label_dir), f"{split}.km")
            labels = UnitLabels(path, self.label_dictionary, self._frame_layers, cfg.sample_rate)
        settings = AudioSettings(
            sample_rate=cfg.sample_rate,
            min_sample_size=max(cfg.min_sample_size or 0, self.min_samples),
            max_sample_size=cfg.max_sample_size,
            pad=cfg.enable_padding,
            normalize=bool(cfg.normalize),
            num_buckets=cfg.num_batch_buckets,
            max_broken=cfg.max_broken,
        )
        manifest = os.path.join(make_absolute(cfg.data), f"{split}.tsv")
        self.datasets[split] = load_audio_dataset(manifest, settings, labels)

    def build_model(self, model_cfg: Any, from_checkpoint: bool = False):
        """Build the student; in a new run, fit its heads and its data to the teacher first."""
        if not from_checkpoint:
            run = find_run(model_cfg)
            if model_cfg.get("prune"):
                check_optimizer(run)
            self._settle_update_freq(run)
            self._fit_to_teacher(model_cfg)
        model = super().build_model(model_cfg, from_checkpoint)
        self.groups = model.prediction_groups
        self.min_samples = model.cfg.shortest_wave
        self._frame_layers = model.cfg.frame_layers
        if not from_checkpoint:
            criterion = read_run_settings(model_cfg, "criterion", SpeechDistillationCriterionConfig())
            predicts_units = bool(criterion.masked_prediction)
            model.freeze_unreached(bool(criterion.masking) or predicts_units, whole=predicts_units)
            self._check_strides(model.cfg.conv_layers)
        return model

    def compute_targets(
        self,
        source: torch.Tensor,
        padding_mask: Optional[torch.Tensor] = None,
        capture: Capture = Capture(),
        mask_indices: Optional[torch.Tensor] = None,
    ) -> Targets:
        """`Teacher.compute_targets` for a batch of waves (batch, samples); loads the teacher the first time."""
        if self._teacher is None:
            dtype = TEACHER_DTYPES[str(self.cfg.teacher_dtype)]
            groups = self.groups[: len(self.groups) // self.num_heads]
            self._teacher = Teacher(self.teacher_paths(), groups, dtype, capture, separate=self.num_heads > 1)
        return self._teacher.compute_targets(source, padding_mask, mask_indices)

    def teacher_paths(self) -> List[str]:
        """Absolute paths of the teachers' checkpoints."""
        return [find_file(path, "task.teacher") for path in self._list_teachers()]

    def _list_teachers(self) -> List[str]:
        given = self.cfg.teacher
        return [path.strip() for path in (given.split(",") if isinstance(given, str) else given)]

    def _fit_to_teacher(self, model_cfg: Any) -> None:
        teachers = self._teacher_checkpoints = [read_checkpoint(path) for path in self.teacher_paths()]
        first = teachers[0].config
        for teacher in teachers[1:]:
            check_same(teachers[0], teacher)
        self._settle_normalisation(model_cfg, teachers)
        if len(teachers) > 1 and model_cfg.get("init") == self.cfg.teacher:
            logger.info(f"the student starts from the first teacher, {teachers[0].path} (model.init names another)")
            update_run_settings(model_cfg, "model", {"init": teachers[0].path})
        criterion = read_run_settings(model_cfg, "criterion", SpeechDistillationCriterionConfig())
        depth = min(t.config.encoder_layers for t in teachers)
        groups = parse_groups(self._choose_groups(model_cfg, criterion), depth)
        student_groups: Sequence[Group] = []
        if str(criterion.predict_from) == "layers":
            student_groups = match_student_layers(
                groups, self._student_depth(model_cfg), depth, criterion.student_average
            )
        check_heads(criterion, model_cfg)
        check_relations(criterion, [*groups, *student_groups], model_cfg)
        check_labels(criterion, self.cfg.label_dir, model_cfg)
        logger.info(f"teacher layers and what predicts them: {describe_groups(groups, student_groups)}")
        heads = self.num_heads
        settings = {
            "prediction_groups": format_groups([*groups] * heads),
            "prediction_layers": format_groups([*student_groups] * heads) if student_groups else "",
            "prediction_dim": first.encoder_embed_dim,
        }
        update_run_settings(model_cfg, "model", settings)

    def _choose_groups(self, model_cfg: Any, criterion: Any) -> Any:
        """Groups as `parse_groups` takes them: given, out of a file, or clusters of the teachers' layers."""
        # imported where needed: scipy and scikit-learn take a second, in every process
        if criterion.groups_file:
            from ..layer_clusters.storage import read_groups

            return read_groups(find_file(criterion.groups_file, "criterion.groups_file"))
        if criterion.groups != "auto":
            return criterion.groups
        init = model_cfg.get("init")
        if init and init != self.cfg.teacher:  # a pruned student goes on with the groups that it was trained for
            trained_for = (
                read_checkpoint(find_file(init, "model.init")).settings.get("model", {}).get("prediction_groups")
            )
            if trained_for:
                logger.info(f"criterion.groups=auto: the groups that {init} was trained for")
                return trained_for
        from ..layer_clusters.automatic import ClusterRequest, find_groups

        run = find_run(model_cfg)
        manifest = os.path.join(make_absolute(self.cfg.data), f"{run.dataset.train_subset}.tsv")
        request = ClusterRequest(
            self.teacher_paths(),
            manifest,
            self.cfg.cluster_seconds,
            criterion.clusters,
            str(criterion.cluster_linkage),
            criterion.cluster_adjacent,
        )
        use_gpu = torch.cuda.is_available() and not run.common.cpu
        return find_groups(request, run.checkpoint.save_dir, "cuda" if use_gpu else "cpu")

    def _settle_update_freq(self, run: Any) -> None:
        """Gradient accumulation that makes an update of `update_seconds`, whatever the number of GPUs."""
        if not self.cfg.update_seconds:
            return
        if not run.dataset.max_tokens:
            raise UserError("task.update_seconds needs dataset.max_tokens: the samples that fit on one GPU")
        gpus = run.distributed_training.distributed_world_size
        seconds = run.dataset.max_tokens / self.cfg.sample_rate
        update_freq = max(1, round(self.cfg.update_seconds / (seconds * gpus)))
        logger.info(
            f"an update is {update_freq} x {gpus} batches of up to {seconds:g} s = {update_freq * gpus * seconds:g} s of audio "
            f"(task.update_seconds={self.cfg.update_seconds:g})"
        )
        run.optimization.update_freq = [update_freq]

    def _settle_normalisation(self, model_cfg: Any, teachers: Sequence[EncoderCheckpoint]) -> None:
        wanted = teachers[0].config.normalize
        if self.cfg.normalize is not None and bool(self.cfg.normalize) != wanted:
            raise UserError(
                f"task.normalize={self.cfg.normalize}, but {teachers[0].path} was trained with normalize={wanted}: "
                "leave task.normalize out"
            )
        rate = teachers[0].sample_rate
        if self.cfg.sample_rate != rate:
            raise UserError(f"task.sample_rate={self.cfg.sample_rate}, but {teachers[0].path} was trained at {rate} Hz")
        self.cfg.normalize = wanted
        update_run_settings(model_cfg, "task", {"normalize": wanted})

    def _student_depth(self, model_cfg: Any) -> int:
        if str(model_cfg.get("like_init", "none")) == "all":
            return read_checkpoint(find_file(model_cfg.init, "model.init")).config.encoder_layers
        return model_cfg.get("encoder_layers", EncoderConfig.encoder_layers)

    def _check_strides(self, conv_layers: List[ConvLayer]) -> None:
        student = total_stride(conv_layers)
        for teacher in self._teacher_checkpoints:
            stride = teacher.config.frame_stride
            if stride != student:
                raise UserError(
                    f"the student makes a frame every {student} samples, {teacher.path} every {stride}: give "
                    "model.conv_feature_layers strides with the same product"
                )
