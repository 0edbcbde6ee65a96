"""Registered tasks; fairseq imports every plain file in this folder."""

from .speech_distillation import SpeechDistillationTask
from .speech_multitask import SpeechMultitaskTask

__all__ = ["SpeechDistillationTask", "SpeechMultitaskTask"]
