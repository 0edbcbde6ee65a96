"""The registered criterion `speech_distillation`: the student's predictions against groups of teacher layers."""

from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional

import torch

from fairseq import metrics
from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.dataclass import ChoiceEnum, FairseqDataclass

from ..distillation.groups import name_group
from ..distillation.losses import count_frames_that_count, sum_distances
from ..layers import LINKAGES


@dataclass
class SpeechDistillationCriterionConfig(FairseqDataclass):
    """What is predicted, from where, and how far off it is."""

    groups: Any = field(
        default="[[4],[8],[12]]",
        metadata={
            "help": "groups of teacher layers, each averaged into one target: 0 = input of the first layer, l = output of "
            "layer l, f = projected features before the positional convolution; auto = clusters of the teacher's layers, "
            "found on the training data when training starts"
        },
    )
    groups_file: str = field(
        default="", metadata={"help": "file that fairseq-distill clusters --out wrote: its groups instead of criterion.groups"}
    )
    clusters: Optional[int] = field(default=None, metadata={"help": "with groups=auto: number of groups"})
    cluster_linkage: ChoiceEnum(LINKAGES) = field(
        default="average", metadata={"help": "with groups=auto: distance of two clusters"}
    )
    cluster_adjacent: bool = field(
        default=False, metadata={"help": "with groups=auto: merge only neighbouring layers, so that groups have no gaps"}
    )
    student_average: bool = field(
        default=False,
        metadata={
            "help": "with predict_from=layers: predict a group from the mean of the student's layers at its depths, instead "
            "of from the deepest one"
        },
    )
    predict_from: ChoiceEnum(["layers", "last"]) = field(
        default="layers",
        metadata={"help": "layers = each group from the student layer at its depth; last = all from the final output"},
    )
    l1: float = field(default=1.0, metadata={"help": "weight of the mean absolute difference"})
    mse: float = field(default=0.0, metadata={"help": "weight of the mean squared difference"})
    cosine: float = field(default=1.0, metadata={"help": "weight of minus the cosine similarity"})
    log_sigmoid_cosine: float = field(default=0.0, metadata={"help": "weight of minus log sigmoid of the cosine similarity"})


@register_criterion("speech_distillation", dataclass=SpeechDistillationCriterionConfig)
class SpeechDistillationCriterion(FairseqCriterion):
    """Weighted distances per group, averaged over groups and over the frames that are not padding.

    The loss handed to fairseq is summed over frames, and `sample_size` is the number of frames: batches of different
    length, gradient accumulation and several GPUs weigh every frame the same.
    """

    def __init__(self, cfg: SpeechDistillationCriterionConfig, task: Any):
        super().__init__(task)
        self.weights: Dict[str, float] = {
            name: getattr(cfg, name) for name in ("l1", "mse", "cosine", "log_sigmoid_cosine") if getattr(cfg, name)
        }
        if not self.weights:
            raise ValueError("criterion: every weight (l1, mse, cosine, log_sigmoid_cosine) is 0; nothing would be learned")

    def forward(self, model: torch.nn.Module, sample: Dict[str, Any], reduce: bool = True):
        """Returns (loss summed over frames, number of frames, logging outputs as tensors)."""
        net_input = sample["net_input"]
        source, padding_mask = net_input["source"], net_input.get("padding_mask")
        targets = self.task.compute_targets(source, padding_mask)
        predictions = model(source, padding_mask=padding_mask, predict=True)
        frame_mask = predictions.padding_mask
        if frame_mask is not None:
            frame_mask = frame_mask | targets.padding_mask  # families round the length of padded audio differently

        frames = count_frames_that_count(predictions.values[0], frame_mask)
        logging_output = {"sample_size": frames, "ntokens": frames, "nsentences": source.size(0)}
        loss = predictions.values[0].new_zeros((), dtype=torch.float32)
        for group, prediction, target in zip(self.task.groups, predictions.values, targets.values):
            sums = sum_distances(prediction, target, frame_mask, self.weights)
            for name, value in sums.items():
                loss = loss + self.weights[name] / len(targets.values) * value
                logging_output[f"distance/{name}_{name_group(group)}"] = value.detach()
        for extra, name in zip(*model.get_extra_losses(predictions)):
            loss = loss + frames * extra
            logging_output[f"extra/{name}_loss"] = frames * extra.detach()
        for name, value in model.describe_gates().items() if self.training else ():
            logging_output[f"gates/{name}"] = frames * value
        logging_output["loss"] = loss.detach()
        return loss, frames, logging_output

    @staticmethod
    def reduce_metrics(logging_outputs: List[Dict[str, Any]]) -> None:
        """Log the loss, every distance of every group and what gates do, each averaged over frames."""
        frames = sum(log["sample_size"] for log in logging_outputs)
        for name in (name for name in logging_outputs[0] if name == "loss" or "/" in name):
            total = sum(log[name] for log in logging_outputs)
            metrics.log_scalar(name.split("/")[-1], total / frames, frames, round=4)

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        """All entries are sums."""
        return True
