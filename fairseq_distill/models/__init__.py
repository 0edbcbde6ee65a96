"""Registered models; fairseq imports every plain file in this folder."""

from .speech_student import SpeechStudent
from .speech_multitask import SpeechMultitask

__all__ = ["SpeechMultitask", "SpeechStudent"]
