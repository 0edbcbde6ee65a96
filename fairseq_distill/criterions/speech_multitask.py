"""The registered criterion `speech_multitask`: the losses of all tasks, weighted and added."""

from typing import Any, Dict, List

import torch
import torch.nn.functional as F
from fairseq import metrics
from fairseq.criterions import FairseqCriterion, register_criterion

from ..distillation.distances import DISTANCES
from ..distillation.objective import Objective, log_means
from ..multitask.heads import NO_LABEL
from ..multitask.settings import SpeechMultitaskCriterionConfig
from ..run.logs import read_numbers


@register_criterion("speech_multitask", dataclass=SpeechMultitaskCriterionConfig)
class SpeechMultitaskCriterion(FairseqCriterion):
    """Weighted sum over tasks of the mean cross-entropy of the batch's utterances that have a label for the task.

    With `distillation`, plus the mean over frames and groups of the distances to the teacher's layers.

    The loss handed to fairseq is that times the number of utterances, which is `sample_size`: with gradient
    accumulation and several GPUs, batches weigh by their size. Loss and accuracy of each task are logged from sums and
    counts over its labelled utterances, so they are exact however the data was cut into batches.
    """

    def __init__(self, cfg: SpeechMultitaskCriterionConfig, task: Any):
        super().__init__(task)
        self.weighting, self.distillation = str(cfg.weighting), cfg.distillation
        self.objective = Objective({name: getattr(cfg, name) for name in DISTANCES})

    def forward(self, model: Any, sample: Dict[str, Any], reduce: bool = True):
        """Returns (loss times utterances, number of utterances, logging outputs as tensors).

        Args:
            model: a `MultitaskModel`, or what fairseq wraps it in for several GPUs.
            sample: a batch of the task's data set.
            reduce: fairseq's; sums are returned in any case.
        """
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
            teacher = self.task.compute_targets(source, padding_mask)
            distance = self.objective.measure(output.states, teacher, model.plan)
            loss = loss + self.distillation * distance.total / distance.frames
            logging_output.update(distance.to_log(), frames=distance.frames)
        loss = utterances * loss
        logging_output["loss"] = loss.detach()
        return loss, utterances, logging_output

    @staticmethod
    def reduce_metrics(logging_outputs: List[Dict[str, Any]]) -> None:
        """Log the loss, and for each task loss, accuracy and, where it is learned, the factor of its loss."""
        sums = read_numbers(logging_outputs)
        utterances = max(sums["sample_size"], 1)
        metrics.log_scalar("loss", sums["loss"] / utterances, utterances, round=4)
        for name in [key[: -len("/count")] for key in sums if key.endswith("/count")]:
            count = sums[f"{name}/count"]
            if count > 0:
                metrics.log_scalar(f"{name}_loss", sums[f"{name}/loss"] / count, count, round=4)
                metrics.log_scalar(f"{name}_accuracy", sums[f"{name}/correct"] / count, count, round=4)
            if f"{name}/factor" in sums:
                metrics.log_scalar(f"{name}_factor", sums[f"{name}/factor"] / utterances, utterances, round=4)
        if "frames" in sums:
            log_means(sums, max(sums["frames"], 1))

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        """All entries are sums."""
        return True
