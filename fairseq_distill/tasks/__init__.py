"""Registered tasks; fairseq imports every plain file in this folder."""

from .speech_distillation import SpeechDistillationTask

__all__ = ["SpeechDistillationTask"]
