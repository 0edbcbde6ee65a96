"""What a model predicts of its teacher, and from what: settled once when a run starts, kept in the model's settings."""

from dataclasses import dataclass, field
from typing import Any, Dict, FrozenSet, List, Sequence

from fairseq.dataclass import FairseqDataclass

from ..encoder.layer_groups import Group, format_groups, name_group, parse_groups
from ..run.ranges import MAX_WIDTH, Range


@dataclass
class PredictionSettings(FairseqDataclass):
    """A `PredictionPlan` as text in the settings of a model."""

    prediction_groups: str = field(
        default="",
        metadata={"help": "groups of teacher layers with a head each; the task writes it from criterion.groups"},
    )
    prediction_layers: str = field(
        default="",
        metadata={
            "help": "student layers whose mean each group is predicted from, empty = the last; the task writes it"
        },
    )
    prediction_dim: int = field(
        default=0, metadata={"help": "width of the teacher; the task writes it", "range": Range(0, MAX_WIDTH)}
    )


@dataclass(frozen=True)
class PredictionPlan:
    """One prediction for each group of teacher layers; without groups, nothing is predicted.

    Attributes:
        groups: of the teacher's layers, one for each prediction; with a head for each of several teachers, those of the
            first, then the same for the second, ...
        student_groups: layers of the student whose mean each group is predicted from; empty = all from its final
            output.
        width: of the teacher.
        teachers: how many times each group is there: once, or once for each teacher.
        captures: fields of `GroupStates` that the objective reads of each group's deepest layer.
    """

    groups: Sequence[Group] = ()
    student_groups: Sequence[Group] = ()
    width: int = 0
    teachers: int = 1
    captures: FrozenSet[str] = frozenset()

    @classmethod
    def for_teachers(
        cls, groups: Sequence[Group], student_groups: Sequence[Group], width: int, teachers: int
    ) -> "PredictionPlan":
        """The plan with each group once for each teacher."""
        return cls([*groups] * teachers, [*student_groups] * teachers, width, teachers)

    @classmethod
    def from_settings(cls, cfg: Any, depth: int) -> "PredictionPlan":
        """Read the plan out of a model's `PredictionSettings`.

        Args:
            cfg: the settings.
            depth: of the model's encoder. The teacher's was checked when the settings were written.
        """
        if not cfg.prediction_groups:
            return cls()
        student_groups = parse_groups(cfg.prediction_layers, depth) if cfg.prediction_layers else []
        return cls(parse_groups(cfg.prediction_groups), student_groups, cfg.prediction_dim)

    def to_settings(self) -> Dict[str, Any]:
        """The values of `PredictionSettings`."""
        return {
            "prediction_groups": format_groups(self.groups),
            "prediction_layers": format_groups(self.student_groups) if self.student_groups else "",
            "prediction_dim": self.width,
        }

    @property
    def teacher_groups(self) -> List[Group]:
        """The groups of one teacher."""
        return list(self.groups[: len(self.groups) // self.teachers])

    @property
    def names(self) -> List[str]:
        """Of each group, for logs: "4", "8-12"; with a head for each teacher "4_teacher1", "4_teacher2"."""
        names = [name_group(group) for group in self.groups]
        if self.teachers == 1:
            return names
        count = len(self.teacher_groups)
        return [f"{name}_teacher{index // count + 1}" for index, name in enumerate(names)]

    def is_last(self, index: int) -> bool:
        """Whether a group is the last one of its teacher."""
        return (index + 1) % len(self.teacher_groups) == 0
