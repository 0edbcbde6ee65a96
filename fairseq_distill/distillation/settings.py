"""Settings of the criterion `speech_distillation`, and the weights of the objective's terms, made from their tables."""

from dataclasses import dataclass, field, make_dataclass
from typing import Any, Dict, Optional, Type

from fairseq.dataclass import ChoiceEnum, FairseqDataclass

from ..layer_clusters import LINKAGES
from ..run.ranges import COUNT, NOT_NEGATIVE
from .objective import TERMS
from .terms import Term


def make_weights(name: str, terms: Dict[str, Term], module: str, **defaults: float) -> Type[FairseqDataclass]:
    """A dataclass with the weight of each term as a field.

    Args:
        name: of the class.
        terms: the table.
        module: where the class is to be found.
        **defaults: of weights, where another than the table's.
    """
    members = []
    for term_name, term in terms.items():
        metadata = {"help": f"weight of {term.help}", "range": NOT_NEGATIVE}
        members.append((term_name, float, field(default=defaults.get(term_name, term.default), metadata=metadata)))
    made = make_dataclass(name, members, bases=(FairseqDataclass,))
    made.__module__ = module
    made.__doc__ = "Weights of the objective's terms; 0 = left out."
    return made


TermWeights: Any = make_weights("TermWeights", TERMS, __name__)


@dataclass
class SpeechDistillationCriterionConfig(TermWeights):
    """What is predicted, from where, and how far off it is."""

    groups: Any = field(
        default="[[4],[8],[12]]",
        metadata={
            "help": "groups of teacher layers, each averaged into one target: 0 = input of the first layer, l = output "
            "of layer l, f = projected features before the positional convolution; or a rule such as 'f, every 4' = a "
            "group for the features and for every fourth layer; or auto = clusters of the teacher's layers, found on "
            "the training data when training starts"
        },
    )
    groups_file: str = field(
        default="",
        metadata={"help": "file that fairseq-distill clusters --out wrote: its groups instead of criterion.groups"},
    )
    clusters: Optional[int] = field(
        default=None, metadata={"help": "with groups=auto: number of groups", "range": COUNT}
    )
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
            "help": "with predict_from=layers: predict a group from the mean of the student's layers at its depths, "
            "instead of from the deepest one"
        },
    )
    predict_from: ChoiceEnum(["layers", "last"]) = field(
        default="layers",
        metadata={"help": "layers = each group from the student layer at its depth; last = all from the final output"},
    )
    masking: bool = field(
        default=False,
        metadata={
            "help": "in training, mask frames of the student's input (model.mask_prob, ...); masked frames are "
            "compared with a teacher that sees them, the others with one that does not (ARMHuBERT)"
        },
    )
    hint: float = field(
        default=1.0, metadata={"help": "weight of every group but the last (FitHuBERT: 0.1)", "range": NOT_NEGATIVE}
    )
    reduce_groups: ChoiceEnum(["mean", "sum"]) = field(
        default="mean", metadata={"help": "of the groups' weighted distances: mean, or sum (FitHuBERT)"}
    )
    masked_prediction: float = field(
        default=0.0,
        metadata={
            "help": "weight of HuBERT's own objective: the unit in task.label_dir of each frame that is masked "
            "(model.mask_prob, ...), in a second pass of the student (DiceHuBERT)",
            "range": NOT_NEGATIVE,
        },
    )
