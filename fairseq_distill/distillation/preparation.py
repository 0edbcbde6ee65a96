"""What a run settles before its student is built: whatever follows from the teacher, and the steps of an update."""

import logging
import os
from typing import Any, List, Sequence

import torch

from ..checkpoints.reading import EncoderCheckpoint, read_checkpoint
from ..encoder.config import EncoderConfig
from ..encoder.conv_spec import ConvLayer, total_stride
from ..encoder.layer_groups import Group, describe_groups, match_student_layers, parse_groups
from ..errors import UserError
from ..initialization.start import check_rate
from ..run.paths import find_checkpoint, find_file, make_absolute
from ..run.settings import find_run, settle
from .checks import check_labels, check_same
from .objective import check_objective
from .plan import PredictionPlan

logger = logging.getLogger(__name__)


def list_teachers(task_cfg: Any) -> List[str]:
    """The paths in `task.teacher`, as typed: one, several with commas between them, or a list."""
    given = task_cfg.teacher
    return [path.strip() for path in (given.split(",") if isinstance(given, str) else given)]


def count_separate(task_cfg: Any) -> int:
    """How many times each group is predicted: once, or once for each teacher."""
    return len(list_teachers(task_cfg)) if str(task_cfg.combine_teachers) == "heads" else 1


def fit_to_teachers(
    teachers: Sequence[EncoderCheckpoint], task_cfg: Any, model_cfg: Any, criterion: Any
) -> PredictionPlan:
    """Settle what the teachers decide, and check that the rest of the settings goes with it.

    Args:
        teachers: at least one.
        task_cfg: the task's settings as fairseq handed them over; the run's own are written too.
        model_cfg: the student's, likewise.
        criterion: settings of the criterion.

    Returns:
        What the student predicts, as it was written into the model's settings.

    Raises:
        UserError: settings contradict each other or the teachers.
    """
    run, first = find_run(model_cfg), teachers[0]
    for teacher in teachers[1:]:
        check_same(first, teacher)
    _settle_waves(run, task_cfg, first)
    if len(teachers) > 1 and model_cfg.get("init") == task_cfg.teacher:
        settle(run, "model", {"init": first.path}, "the first teacher; model.init may name another", model_cfg)
    depth = min(teacher.config.encoder_layers for teacher in teachers)
    groups = parse_groups(choose_groups([str(t.path) for t in teachers], task_cfg, model_cfg, criterion), depth)
    student_groups: List[Group] = []
    if str(criterion.predict_from) == "layers":
        student_depth = _find_student_depth(model_cfg)
        student_groups = match_student_layers(groups, student_depth, depth, criterion.student_average)
    check_objective(criterion, [*groups, *student_groups], model_cfg)
    check_labels(criterion, task_cfg.label_dir, model_cfg)
    logger.info(f"teacher layers and what predicts them: {describe_groups(groups, student_groups)}")
    plan = PredictionPlan.for_teachers(groups, student_groups, first.config.encoder_embed_dim, count_separate(task_cfg))
    settle(run, "model", plan.to_settings(), "from criterion.groups and the teacher", model_cfg)
    return plan


def choose_groups(paths: List[str], task_cfg: Any, model_cfg: Any, criterion: Any) -> Any:
    """Groups as `parse_groups` takes them: given, out of a file, or clusters of the layers of teachers at `paths`."""
    # imported where needed: scipy and scikit-learn take a second, in every process
    if criterion.groups_file:
        from ..layer_clusters.storage import read_groups

        return read_groups(find_file(criterion.groups_file, "criterion.groups_file"))
    if criterion.groups != "auto":
        return criterion.groups
    init = model_cfg.get("init")
    if init and init != task_cfg.teacher:  # a pruned student goes on with the groups that it was trained for
        settings = read_checkpoint(find_checkpoint(init, "model.init")).settings.get("model", {})
        trained_for = settings.get("prediction_groups")
        if trained_for:
            logger.info(f"criterion.groups=auto: the groups that {init} was trained for")
            return trained_for
    from ..layer_clusters.automatic import ClusterRequest, find_groups

    run = find_run(model_cfg)
    manifest = os.path.join(make_absolute(task_cfg.data), f"{run.dataset.train_subset}.tsv")
    request = ClusterRequest(
        paths,
        manifest,
        task_cfg.cluster_seconds,
        criterion.clusters,
        str(criterion.cluster_linkage),
        criterion.cluster_adjacent,
    )
    use_gpu = torch.cuda.is_available() and not run.common.cpu
    return find_groups(request, run.checkpoint.save_dir, "cuda" if use_gpu else "cpu")


def settle_update_freq(run: Any, task_cfg: Any) -> None:
    """Gradient accumulation that makes an update of `task.update_seconds`, whatever the number of GPUs.

    Raises:
        UserError: what fits on one GPU is not given.
    """
    if not task_cfg.update_seconds:
        return
    if not run.dataset.max_tokens:
        raise UserError("task.update_seconds needs dataset.max_tokens: the samples that fit on one GPU")
    gpus = run.distributed_training.distributed_world_size
    seconds = run.dataset.max_tokens / task_cfg.sample_rate
    update_freq = max(1, round(task_cfg.update_seconds / (seconds * gpus)))
    reason = (
        f"an update is {update_freq} x {gpus} batches of up to {seconds:g} s = {update_freq * gpus * seconds:g} s of "
        f"audio, task.update_seconds={task_cfg.update_seconds:g}"
    )
    settle(run, "optimization", {"update_freq": [update_freq]}, reason)


def check_strides(teachers: Sequence[EncoderCheckpoint], conv_layers: List[ConvLayer]) -> None:
    """Raise UserError where the student's convolutions make frames at another rate than a teacher's."""
    student = total_stride(conv_layers)
    for teacher in teachers:
        stride = teacher.config.frame_stride
        if stride != student:
            raise UserError(
                f"the student makes a frame every {student} samples, {teacher.path} every {stride}: give "
                "model.conv_feature_layers strides with the same product"
            )


def _settle_waves(run: Any, task_cfg: Any, teacher: EncoderCheckpoint) -> None:
    wanted = teacher.config.normalize
    if task_cfg.normalize is not None and bool(task_cfg.normalize) != wanted:
        raise UserError(
            f"task.normalize={task_cfg.normalize}, but {teacher.path} was trained with normalize={wanted}: "
            "leave task.normalize out"
        )
    check_rate(task_cfg.sample_rate, teacher.sample_rate, f"task.teacher={teacher.path}")
    settle(run, "task", {"normalize": wanted}, "as the teacher was trained", task_cfg)


def _find_student_depth(model_cfg: Any) -> int:
    if str(model_cfg.get("like_init", "none")) == "all":
        return read_checkpoint(find_checkpoint(model_cfg.init, "model.init")).config.encoder_layers
    return model_cfg.get("encoder_layers", EncoderConfig.encoder_layers)
