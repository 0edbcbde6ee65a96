"""Registered criterions; fairseq does not scan this folder, the package's `__init__` imports it."""

from .speech_distillation import SpeechDistillationCriterion
from .speech_multitask import SpeechMultitaskCriterion

__all__ = ["SpeechDistillationCriterion", "SpeechMultitaskCriterion"]
