"""Registered models; fairseq imports every plain file in this folder."""

from .speech_multitask import SpeechMultitask
from .speech_student import SpeechStudent

__all__ = ["SpeechMultitask", "SpeechStudent"]
