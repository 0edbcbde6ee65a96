"""The kinds of runs that are killed: a tiny one of each, of several epochs, with crops and whatever else is random."""

from pathlib import Path
from typing import Any, Callable, Dict, List

from fairseq_distill.cli.main import main

from ..builders import write_data, write_teacher
from ..runs import FAST_GATES, GROUPS, distil_line, fine_tune_line, last, train_line, write_labelled

UPDATES, EVERY = 14, 2
LENGTHS = (9000, 8000, 7000, 8500, 12_000, 10_000)

Line = Callable[[Path], List[str]]  # from the folder of a run to its command line


def write_inputs(folder: Path) -> None:
    """Data, teachers and labels that the kinds share."""
    write_data(folder / "data", lengths=LENGTHS)
    write_labelled(folder / "labelled")
    teacher = write_teacher(folder)
    write_teacher(folder, "other.pt", seed=5)
    manifests = [str(folder / "data" / f"{split}.tsv") for split in ("train", "valid")]
    units = ["units", teacher, *manifests, "--layer", "2", "--clusters", "6", "--out", str(folder / "units")]
    assert main(units) == 0


def describe_kinds(folder: Path, run: Callable[[List[str]], None]) -> Dict[str, Line]:
    """The command lines of all kinds.

    Args:
        folder: where `write_inputs` has written.
        run: runs a command line to its end, for what a kind starts from.
    """
    data, teacher = folder / "data", str(folder / "teacher.pt")
    common: Dict[str, Any] = {
        "optimization.max_update": UPDATES,
        "checkpoint.save_interval_updates": EVERY,
        "dataset.validate_interval_updates": 1000,
        "common.seed": 3,
    }
    crops = {"task.max_sample_size": 7500}
    schedules = {
        f"optimizer.groups.{group}.lr_scheduler.total_num_update": UPDATES
        for group in ("default", "gates", "multipliers")
    }
    gated = {**common, **crops, **schedules, "optimization.update_freq": "[2]"}

    def stage_2(out: Path) -> List[str]:
        pruned = folder / "pruned.pt"
        if not pruned.exists():
            run(train_line(folder / "for_stage_2", data, teacher, **{"optimization.max_update": 30}))
            assert main(["prune", str(last(folder / "for_stage_2")), str(pruned)]) == 0
        return train_line(out, data, teacher, "dphubert_stage2", model__init=pruned, **common, **crops)

    auto = {"criterion.clusters": 2, "task.cluster_seconds": 3, **FAST_GATES, "criterion.groups": "auto"}
    masking = {"+criterion.masking": "true", "+model.mask_prob": 0.6, "+model.mask_length": 3}
    units = {"+criterion.masked_prediction": 1.0, "+task.label_dir": folder / "units", "+model.final_dim": 16}
    both = f"'{teacher},{folder / 'other.pt'}'"
    half = {"common.bf16": "true", "common.fp16_no_flatten_grads": "true"}
    padded = {"task.enable_padding": "true", "task.max_sample_size": "null"}
    multitask = {
        "task.max_sample_size": 6000,
        "task.speeds": "[0.9,1.0,1.1]",
        "criterion.weighting": "uncertainty",
        "dataset.batch_size": 3,
        "lr_scheduler.total_num_update": UPDATES,
        "lr_scheduler.warmup_updates": 1,
        "model.freeze_updates": 3,
    }
    return {
        "stage 1": lambda out: train_line(out, data, teacher, **gated),
        "stage 2": stage_2,
        "auto clusters": lambda out: train_line(out, data, teacher, "skill", **{**gated, **GROUPS, **auto}),
        "masking": lambda out: distil_line(out, data, teacher, **common, **crops, **masking),
        "masked prediction": lambda out: distil_line(out, data, teacher, **common, **crops, **units),
        "time reduction": lambda out: distil_line(
            out, data, teacher, **common, **padded, **{"+model.time_reduction": 2}
        ),
        "several teachers": lambda out: distil_line(
            out, data, both, "ensemble", {"criterion.groups": "[[1],[3]]"}, **common, **crops
        ),
        "loader workers": lambda out: distil_line(
            out, data, teacher, **common, **crops, **{"dataset.num_workers": 2, "dataset.data_buffer_size": 2}
        ),
        "multitask": lambda out: fine_tune_line(out, folder / "labelled", teacher, **common, **multitask),
        "half precision": lambda out: train_line(out, data, teacher, **gated, **half),
    }
