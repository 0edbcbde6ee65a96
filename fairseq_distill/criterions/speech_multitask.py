"""The registered criterion `speech_multitask`: the losses of all tasks, weighted and added."""

from dataclasses import dataclass, field
from typing import Any, Dict, List

import torch
import torch.nn.functional as F
from fairseq import metrics
from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.dataclass import ChoiceEnum, FairseqDataclass

from ..distillation.distances import DISTANCES
from ..multitask.distillation import measure_distances
from ..multitask.heads import NO_LABEL

WEIGHTINGS = ("fixed", "uncertainty")


@dataclass
class SpeechMultitaskCriterionConfig(FairseqDataclass):
    """How the tasks' losses are added; their weights are those of `task.tasks`."""

    weighting: ChoiceEnum(WEIGHTINGS) = field(
        default="fixed",
        metadata={
            "help": "fixed = weight * loss; uncertainty = weight * (exp(-s) * loss + s / 2) with a learned s for each task "
            "(Kendall et al., 1705.07115)"
        },
    )
    distillation: float = field(
        default=0.0,
        metadata={
            "help": "weight of the distances to layers of task.teacher, predicted from the encoder's final output on the "
            "same waves (OS-KDFT, 2305.17394: 1); 0 = none"
        },
    )
    groups: Any = field(
        default="[[4],[8],[12]]",
        metadata={
            "help": "with distillation: groups of teacher layers, each averaged into one target, see speech_distillation"
        },
    )
    l1: float = field(default=1.0, metadata={"help": "with distillation: weight of the mean absolute difference"})
    mse: float = field(default=0.0, metadata={"help": "with distillation: weight of the mean squared difference"})
    cosine: float = field(default=0.0, metadata={"help": "with distillation: weight of minus the cosine similarity"})
    log_sigmoid_cosine: float = field(
        default=1.0, metadata={"help": "with distillation: weight of minus log sigmoid of the cosine similarity"}
    )


@register_criterion("speech_multitask", dataclass=SpeechMultitaskCriterionConfig)
class SpeechMultitaskCriterion(FairseqCriterion):
    """Weighted sum over tasks of the mean cross-entropy of the batch's utterances that have a label for the task.

    With `distillation`, plus the mean over frames and groups of the distances to the teacher's layers.

    The loss handed to fairseq is that times the number of utterances, which is `sample_size`: with gradient accumulation
    and several GPUs, batches weigh by their size. Loss and accuracy of each task are logged from sums and counts over its
    labelled utterances, so they are exact however the data was cut into batches.
    """

    def __init__(self, cfg: SpeechMultitaskCriterionConfig, task: Any):
        super().__init__(task)
        self.weighting, self.distillation = str(cfg.weighting), cfg.distillation
        self.distances = {name: getattr(cfg, name) for name in DISTANCES}

    def forward(self, model: torch.nn.Module, sample: Dict[str, Any], reduce: bool = True):
        """Returns (loss times utterances, number of utterances, logging outputs as tensors)."""
        source, targets = sample["net_input"]["source"], sample["targets"]
        padding_mask = sample["net_input"].get("padding_mask")
        output = model(source, padding_mask, labelled=targets != NO_LABEL, predict=bool(self.distillation))
        utterances = source.size(0)
        logging_output = {"sample_size": utterances, "nsentences": utterances, "ntokens": source.numel()}
        loss = torch.zeros((), device=source.device)
        for index, task in enumerate(self.task.tasks):
            target, scores = targets[:, index], output.scores[task.name]
            labelled = target != NO_LABEL
            count = labelled.sum()
            with_margin = model.heads[task.name].add_margin(scores, target)
            total = F.cross_entropy(with_margin, target, ignore_index=NO_LABEL, reduction="sum")
            mean = total / count.clamp(min=1)
            if self.weighting == "uncertainty":
                log_variance = output.log_variance[index]
                mean = torch.exp(-log_variance) * mean + 0.5 * log_variance * (count > 0)
                logging_output[f"{task.name}/factor"] = utterances * torch.exp(-log_variance).detach()
            loss = loss + task.weight * mean
            correct = ((scores.argmax(-1) == target) & labelled).sum()
            logging_output.update(
                {f"{task.name}/loss": total.detach(), f"{task.name}/correct": correct, f"{task.name}/count": count}
            )
        if self.distillation:
            targets_of_teacher = self.task.compute_targets(source, padding_mask)
            groups = model.prediction_groups
            distances = measure_distances(output.predictions, targets_of_teacher, groups, self.distances)
            loss = loss + self.distillation * distances.total / distances.frames
            logging_output["frames"] = distances.frames
            logging_output.update({f"distance/{name}": value for name, value in distances.parts.items()})
        loss = utterances * loss
        logging_output["loss"] = loss.detach()
        return loss, utterances, logging_output

    @staticmethod
    def reduce_metrics(logging_outputs: List[Dict[str, Any]]) -> None:
        """Log the loss, and for each task loss, accuracy and, where it is learned, the factor of its loss."""
        utterances = sum(log["sample_size"] for log in logging_outputs)
        metrics.log_scalar("loss", sum(log["loss"] for log in logging_outputs) / utterances, utterances, round=4)
        for name in [key[: -len("/count")] for key in logging_outputs[0] if key.endswith("/count")]:
            parts = ("loss", "correct", "count")
            sums = {part: sum(log[f"{name}/{part}"] for log in logging_outputs) for part in parts}
            count = sums["count"]
            if count > 0:
                metrics.log_scalar(f"{name}_loss", sums["loss"] / count, count, round=4)
                metrics.log_scalar(f"{name}_accuracy", sums["correct"] / count, count, round=4)
            if f"{name}/factor" in logging_outputs[0]:
                factor = sum(log[f"{name}/factor"] for log in logging_outputs)
                metrics.log_scalar(f"{name}_factor", factor / utterances, utterances, round=4)

        for name in (key for key in logging_outputs[0] if key.startswith("distance/")):
            frames = sum(log["frames"] for log in logging_outputs)
            value = sum(log[name] for log in logging_outputs) / frames
            metrics.log_scalar(name[len("distance/") :], value, frames, round=4)

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        """All entries are sums."""
        return True
