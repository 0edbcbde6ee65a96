"""How often each utterance is drawn: tasks by their sampling weight, classes equally where a task is balanced."""

from typing import Optional, Sequence

import numpy as np

from .heads import NO_LABEL
from .task_list import TaskSettings


def compute_probabilities(targets: np.ndarray, tasks: Sequence[TaskSettings]) -> Optional[np.ndarray]:
    """Probability of each utterance in a draw.

    First a task is drawn, by `sampling`; if it is `balanced` then one of its classes, all equally likely; then one of
    the utterances labelled so. An utterance with labels for several tasks can be drawn for each and trains all of them.
    Where no task has `sampling`, tasks are drawn as often as they have labels; where some have, the others count 1.

    Args:
        targets: (utterances, tasks) classes, NO_LABEL where there is none.
        tasks: their settings.

    Returns:
        (utterances,) float64 of sum 1; None where no task asks for `sampling` or `balanced`: every utterance once an
        epoch.
    """
    if not any(task.balanced or task.sampling is not None for task in tasks):
        return None
    by_count = all(task.sampling is None for task in tasks)
    weights = np.zeros(len(targets))
    for task, column in zip(tasks, targets.T):
        labelled = column != NO_LABEL
        count = labelled.sum()
        if not count:
            continue
        share = count if by_count else 1.0 if task.sampling is None else task.sampling
        if task.balanced:
            per_class = np.bincount(column[labelled])
            weights[labelled] += share / (np.count_nonzero(per_class) * per_class[column[labelled]])
        else:
            weights[labelled] += share / count
    return weights / weights.sum()
