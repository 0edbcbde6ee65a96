"""What one term of the objective is; the terms are in `distances` and `relations`."""

from typing import Any, Callable, NamedTuple, Optional, Tuple

from torch import Tensor

from .states import GroupStates

Measure = Callable[[GroupStates, GroupStates, int, Optional[Tensor]], Tensor]


class Term(NamedTuple):
    """A comparison of student and teacher, frame by frame, with a weight of its own: `criterion.NAME`.

    Attributes:
        measure: (student's states, teacher's states, number of the group, padding mask (batch, frames) bool or None)
            to a value for each frame, (batch, frames) float32. Those of padding may be anything finite.
        help: what the weight is of, for the settings.
        check: (name, settings of the criterion, settings of the model); raises UserError where they do not go together.
        default: of the weight.
        captures: fields of `GroupStates` that it reads, beside `hidden` and `predictions`.
    """

    measure: Measure
    help: str
    check: Callable[[str, Any, Any], None]
    default: float = 0.0
    captures: Tuple[str, ...] = ()
