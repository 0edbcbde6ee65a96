"""The registered criterion `speech_distillation`: the student's predictions against groups of teacher layers."""

from typing import Any, Dict, List

import numpy as np
from fairseq import metrics
from fairseq.criterions import FairseqCriterion, register_criterion

from ..distillation.objective import TERMS, Objective, log_means
from ..distillation.settings import SpeechDistillationCriterionConfig
from ..distillation.unit_prediction import UnitTargets
from ..run.logs import read_numbers
from ..run.moment import Clock
from ..run.settings import find_seed


@register_criterion("speech_distillation", dataclass=SpeechDistillationCriterionConfig)
class SpeechDistillationCriterion(FairseqCriterion):
    """Weighted distances per group, averaged (or summed) over groups, averaged over the frames that are not padding.

    With `masking`, validation masks nothing: held-out losses of all recipes are of whole waves.

    The loss handed to fairseq is summed over frames, and `sample_size` is the number of frames: batches of different
    length, gradient accumulation and several GPUs weigh every frame the same.
    """

    def __init__(self, cfg: SpeechDistillationCriterionConfig, task: Any):
        super().__init__(task)
        self.objective, self.clock = Objective.from_settings(cfg), Clock(find_seed(cfg))
        self.masking, self.masked_prediction = cfg.masking, cfg.masked_prediction
        if not self.objective.weights:
            raise ValueError(
                f"criterion: every weight ({', '.join(TERMS)}) is 0; nothing would be learned of the teacher (masked "
                "prediction alone needs none: see the recipe dicehubert)"
            )

    def forward(self, model: Any, sample: Dict[str, Any], reduce: bool = True):
        """Returns (loss summed over frames, number of frames, logging outputs as tensors).

        Args:
            model: a `SpeechStudent`, or what fairseq wraps it in for several GPUs.
            sample: a batch of the task's data set.
            reduce: fairseq's; sums are returned in any case.
        """
        net_input = sample["net_input"]
        source, padding_mask = net_input["source"], net_input.get("padding_mask")
        generator = self.begin_batch(model, sample)
        masked = self.masking and model.training
        mask_indices = model.sample_mask(source, padding_mask, generator) if masked else None
        units = self.find_units(model, sample, generator) if self.masked_prediction else None
        targets = self.task.compute_targets(source, padding_mask, mask_indices)
        output = model(source, padding_mask=padding_mask, predict=True, mask_indices=mask_indices, units=units)
        distance = self.objective.measure(output.states, targets, self.task.plan)

        loss, frames = distance.total, distance.frames
        logging_output = {"sample_size": frames, "ntokens": frames, "nsentences": source.size(0), **distance.to_log()}
        if self.masked_prediction:
            scores = output.unit_scores
            loss = loss + self.masked_prediction * frames * scores.loss
            logging_output["distance/masked_prediction"] = (frames * scores.loss).detach()
            logging_output.update(units_correct=scores.correct, units_predicted=scores.count)
        for extra, name in zip(*model.get_extra_losses(output)):
            loss = loss + frames * extra
            logging_output[f"extra/{name}_loss"] = frames * extra.detach()
        for name, value in model.describe_gates().items() if self.training else ():
            logging_output[f"gates/{name}"] = frames * value
        logging_output["loss"] = loss.detach()
        return loss, frames, logging_output

    def train(self, mode: bool = True) -> "SpeechDistillationCriterion":
        """Fairseq's trainer calls this where an update begins, before its micro-batches."""
        self.clock.begin_update()
        return super().train(mode)

    def begin_batch(self, model: Any, sample: Dict[str, Any]) -> np.random.Generator:
        """Seed a batch's gates; returns what its masks are drawn from: in validation the same for all checkpoints."""
        if not getattr(model, "training", False):  # a student may be any callable that predicts
            return np.random.default_rng(sample["id"].tolist() if self.masked_prediction else 0)
        moment = self.clock.tick(model.num_updates)
        model.begin_update(moment)
        return moment.make_generator()

    def find_units(self, model: Any, sample: Dict[str, Any], generator: np.random.Generator) -> UnitTargets:
        """What masked prediction predicts of a batch, with a mask from `generator`."""
        source, padding_mask = sample["net_input"]["source"], sample["net_input"].get("padding_mask")
        mask_indices = model.sample_mask(source, padding_mask, generator)
        return UnitTargets(sample["target_list"][0], mask_indices, self.task.label_dictionary.pad())

    @staticmethod
    def reduce_metrics(logging_outputs: List[Dict[str, Any]]) -> None:
        """Log the loss, every distance of every group and what gates do, each averaged over frames."""
        sums = read_numbers(logging_outputs)
        frames = max(sums["sample_size"], 1)
        metrics.log_scalar("loss", sums["loss"] / frames, frames, round=4)
        log_means(sums, frames, "distance", "extra", "gates")
        predicted = sums.get("units_predicted")
        if predicted:
            metrics.log_scalar("unit_accuracy", sums["units_correct"] / predicted, predicted, round=4)

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        """All entries are sums."""
        return True
