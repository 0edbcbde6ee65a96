"""The registered criterion `speech_distillation`: the student's predictions against groups of teacher layers."""

from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional

import torch
from fairseq import metrics
from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.data.data_utils import numpy_seed
from fairseq.dataclass import ChoiceEnum, FairseqDataclass

from ..distillation.distances import DISTANCES, count_frames_that_count, sum_distances
from ..distillation.relations import RELATIONS, needed_for, sum_relations
from ..distillation.unit_prediction import UnitTargets
from ..layer_clusters import LINKAGES


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
        default="",
        metadata={"help": "file that fairseq-distill clusters --out wrote: its groups instead of criterion.groups"},
    )
    clusters: Optional[int] = field(default=None, metadata={"help": "with groups=auto: number of groups"})
    cluster_linkage: ChoiceEnum(LINKAGES) = field(
        default="average", metadata={"help": "with groups=auto: distance of two clusters"}
    )
    cluster_adjacent: bool = field(
        default=False,
        metadata={"help": "with groups=auto: merge only neighbouring layers, so that groups have no gaps"},
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
    masking: bool = field(
        default=False,
        metadata={
            "help": "in training, mask frames of the student's input (model.mask_prob, ...); masked frames are compared with a "
            "teacher that sees them, the others with one that does not (ARMHuBERT)"
        },
    )
    l1: float = field(default=1.0, metadata={"help": "weight of the mean absolute difference"})
    mse: float = field(default=0.0, metadata={"help": "weight of the mean squared difference"})
    cosine: float = field(default=1.0, metadata={"help": "weight of minus the cosine similarity"})
    log_sigmoid_cosine: float = field(
        default=0.0, metadata={"help": "weight of minus log sigmoid of the cosine similarity"}
    )
    hint: float = field(default=1.0, metadata={"help": "weight of every group but the last (FitHuBERT: 0.1)"})
    reduce_groups: ChoiceEnum(["mean", "sum"]) = field(
        default="mean", metadata={"help": "of the groups' weighted distances: mean, or sum (FitHuBERT)"}
    )
    temporal_relations: float = field(
        default=0.0,
        metadata={
            "help": "weight of the distance of Gram matrices over frames, of each group in student and teacher (STaR)"
        },
    )
    layer_relations: float = field(
        default=0.0,
        metadata={"help": "weight of the same for the input and output of each group's deepest layer (STaR)"},
    )
    attention_maps: float = field(
        default=0.0,
        metadata={"help": "weight of the divergence of head-averaged attention maps of each group's deepest layer"},
    )
    masked_prediction: float = field(
        default=0.0,
        metadata={
            "help": "weight of HuBERT's own objective: the unit in task.label_dir of each frame that is masked "
            "(model.mask_prob, ...), in a second pass of the student (DiceHuBERT)"
        },
    )


@register_criterion("speech_distillation", dataclass=SpeechDistillationCriterionConfig)
class SpeechDistillationCriterion(FairseqCriterion):
    """Weighted distances per group, averaged (or summed) over groups, averaged over the frames that are not padding.

    With `masking`, validation masks nothing: held-out losses of all recipes are of whole waves.

    The loss handed to fairseq is summed over frames, and `sample_size` is the number of frames: batches of different
    length, gradient accumulation and several GPUs weigh every frame the same.
    """

    def __init__(self, cfg: SpeechDistillationCriterionConfig, task: Any):
        super().__init__(task)
        self.weights: Dict[str, float] = {name: getattr(cfg, name) for name in DISTANCES if getattr(cfg, name)}
        self.relations: Dict[str, float] = {name: getattr(cfg, name) for name in RELATIONS if getattr(cfg, name)}
        self.masked_prediction = cfg.masked_prediction
        if not self.weights and not self.relations:
            names = ", ".join([*DISTANCES, *RELATIONS])
            raise ValueError(
                f"criterion: every weight ({names}) is 0; nothing would be learned of the teacher (masked prediction alone needs "
                "none: see the recipe dicehubert)"
            )
        self.hint, self.reduce_groups, self.masking = cfg.hint, str(cfg.reduce_groups), cfg.masking
        self.capture = needed_for(self.relations)

    def forward(self, model: torch.nn.Module, sample: Dict[str, Any], reduce: bool = True):
        """Returns (loss summed over frames, number of frames, logging outputs as tensors)."""
        net_input = sample["net_input"]
        source, padding_mask = net_input["source"], net_input.get("padding_mask")
        mask_indices = model.sample_mask(source, padding_mask) if self.masking and model.training else None
        targets = self.task.compute_targets(source, padding_mask, self.capture, mask_indices)
        predictions = model(
            source,
            padding_mask=padding_mask,
            predict=True,
            capture=self.capture,
            mask_indices=mask_indices,
            units=self.find_units(model, sample) if self.masked_prediction else None,
        )
        targets = targets.cut(predictions.values[0].size(1))
        frame_mask = predictions.padding_mask
        if frame_mask is not None:
            frame_mask = frame_mask | targets.padding_mask  # families round the length of padded audio differently

        frames = count_frames_that_count(predictions.values[0], frame_mask)
        logging_output = {"sample_size": frames, "ntokens": frames, "nsentences": source.size(0)}
        loss = predictions.values[0].new_zeros((), dtype=torch.float32)
        weights = {**self.weights, **self.relations}
        for index, group in enumerate(self.task.group_names):
            sums = sum_distances(predictions.values[index], targets.values[index], frame_mask, self.weights)
            sums.update(sum_relations(predictions, targets, index, frame_mask, self.relations))
            for name, value in sums.items():
                loss = loss + weights[name] * self.group_weight(index) * value
                logging_output[f"distance/{name}_{group}"] = value.detach()
        if self.masked_prediction:
            scores = predictions.unit_scores
            loss = loss + self.masked_prediction * frames * scores.loss
            logging_output["distance/masked_prediction"] = (frames * scores.loss).detach()
            logging_output.update(units_correct=scores.correct, units_predicted=scores.count)
        for extra, name in zip(*model.get_extra_losses(predictions)):
            loss = loss + frames * extra
            logging_output[f"extra/{name}_loss"] = frames * extra.detach()
        for name, value in model.describe_gates().items() if self.training else ():
            logging_output[f"gates/{name}"] = frames * value
        logging_output["loss"] = loss.detach()
        return loss, frames, logging_output

    def group_weight(self, index: int) -> float:
        """A group's weight in the loss; with a head for each teacher, the last group of each teacher is no hint."""
        count = len(self.task.groups)
        hint = 1.0 if (index + 1) % (count // self.task.num_heads) == 0 else self.hint
        return hint / count if self.reduce_groups == "mean" else hint

    def find_units(self, model: torch.nn.Module, sample: Dict[str, Any]) -> UnitTargets:
        """What masked prediction predicts; in validation the masks follow from the rows, so that all checkpoints have the same."""
        source, padding_mask = sample["net_input"]["source"], sample["net_input"].get("padding_mask")
        with nullcontext() if model.training else numpy_seed(*sample["id"].tolist()):
            mask_indices = model.sample_mask(source, padding_mask)
        return UnitTargets(sample["target_list"][0], mask_indices, self.task.label_dictionary.pad())

    @staticmethod
    def reduce_metrics(logging_outputs: List[Dict[str, Any]]) -> None:
        """Log the loss, every distance of every group and what gates do, each averaged over frames."""
        frames = sum(log["sample_size"] for log in logging_outputs)
        for name in (name for name in logging_outputs[0] if name == "loss" or "/" in name):
            total = sum(log[name] for log in logging_outputs)
            metrics.log_scalar(name.split("/")[-1], total / frames, frames, round=4)
        predicted = sum(log.get("units_predicted", 0) for log in logging_outputs)
        if predicted:
            correct = sum(log["units_correct"] for log in logging_outputs)
            metrics.log_scalar("unit_accuracy", correct / predicted, predicted, round=4)

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        """All entries are sums."""
        return True
