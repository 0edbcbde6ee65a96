"""A small multi-task model without a file behind it."""

import torch

from fairseq_distill.models.speech_multitask import SpeechMultitask, SpeechMultitaskConfig
from fairseq_distill.multitask.task_list import parse_tasks

from ..encoder.builders import SMALL, randomize

CLASSES = {"keyword": ["no", "yes", "maybe"], "speaker": ["ann", "bob", "cid", "dan"]}
TASKS = [
    {"name": "keyword", "kind": "classification", "batch_norm": True},
    {"name": "speaker", "kind": "verification", "embedding_dim": 12},
]


def build_multitask(tasks=TASKS, **settings) -> SpeechMultitask:
    """A model of SMALL shape with weights that make every branch matter."""
    torch.manual_seed(0)
    cfg = SpeechMultitaskConfig(**{**SMALL, **settings})
    return randomize(SpeechMultitask(cfg, parse_tasks(tasks), CLASSES))
