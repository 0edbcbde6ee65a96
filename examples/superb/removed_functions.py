"""What s3prl 0.4.18 calls and newer libraries no longer have, put back in memory where it is missing.

torchaudio 2.9 lost its backends, `info` and `sox_effects`, and needs torchcodec to load; huggingface_hub 1.0 lost
`HfFolder` and `Repository`; torch 2.6 loads no class that it was not told of.
"""

import argparse
import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, List, Optional, Sequence, Tuple, Union

import soundfile
import torch
import torchaudio
from torch import Tensor

from fairseq_distill.errors import UserError

PathLike = Union[str, Path]


def install() -> None:
    """Put back what is missing; what a library still has stays as it is."""
    _restore_torchaudio()
    _restore_huggingface_hub()
    # in s3prl's own checkpoints, which it reads back to go on or to evaluate
    torch.serialization.add_safe_globals([argparse.Namespace])


def _restore_torchaudio() -> None:
    if not hasattr(torchaudio, "set_audio_backend"):
        torchaudio.set_audio_backend = lambda backend: None
    if not hasattr(torchaudio, "info"):
        torchaudio.info = info
    if importlib.util.find_spec("torchcodec") is None and hasattr(torchaudio, "load_with_torchcodec"):
        torchaudio.load, torchaudio.save = load, save
    if importlib.util.find_spec("torchaudio.sox_effects") is None:
        module = ModuleType("torchaudio.sox_effects")
        vars(module).update(apply_effects_tensor=apply_effects_tensor, apply_effects_file=apply_effects_file)
        sys.modules[module.__name__] = torchaudio.sox_effects = module


def _restore_huggingface_hub() -> None:
    if importlib.util.find_spec("huggingface_hub") is None:
        return  # s3prl says itself that it is missing
    import huggingface_hub

    for name in ("HfFolder", "Repository"):
        try:
            getattr(huggingface_hub, name)
        except AttributeError:
            setattr(huggingface_hub, name, _make_removed(name))


def _make_removed(name: str) -> Any:
    """Stands for a class of huggingface_hub that only s3prl's uploads use."""

    class Removed:
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.refuse()

        @staticmethod
        def refuse(*args: Any, **kwargs: Any) -> None:
            raise UserError(
                f"s3prl's --hub huggingface and --push_to_hf_hub call {name}, which huggingface_hub 1.0 and later no "
                "longer have: leave these options out"
            )

        save_token = get_token = refuse

    return Removed


def info(uri: PathLike, **kwargs: Any) -> SimpleNamespace:
    """A file's sample_rate, num_frames, num_channels, bits_per_sample (0 = not known) and encoding, by soundfile."""
    found = soundfile.info(str(uri))
    bits = {"PCM_S8": 8, "PCM_U8": 8, "PCM_16": 16, "PCM_24": 24, "PCM_32": 32, "FLOAT": 32, "DOUBLE": 64}
    return SimpleNamespace(
        sample_rate=found.samplerate,
        num_frames=found.frames,
        num_channels=found.channels,
        bits_per_sample=bits.get(found.subtype, 0),
        encoding=found.subtype,
    )


def load(
    uri: PathLike,
    frame_offset: int = 0,
    num_frames: int = -1,
    normalize: bool = True,
    channels_first: bool = True,
    **kwargs: Any,
) -> Tuple[Tensor, int]:
    """A file by soundfile, as torchaudio's `load` has it: (channels, frames) float32 in -1..1, and its sample rate."""
    if not normalize:
        raise UserError(f"{uri}: torchaudio.load without normalisation needs torchcodec: pip install torchcodec")
    data, rate = soundfile.read(str(uri), num_frames, frame_offset, dtype="float32", always_2d=True)
    wave = torch.from_numpy(data)
    return (wave.t().contiguous() if channels_first else wave), rate


def save(uri: PathLike, src: Tensor, sample_rate: int, channels_first: bool = True, **kwargs: Any) -> None:
    """Write a wave by soundfile, as torchaudio's `save` does: 16 bits, or what its format has by default."""
    wave = src.detach().cpu()
    soundfile.write(str(uri), (wave.t() if channels_first else wave).numpy(), sample_rate)


def apply_effects_file(
    path: PathLike,
    effects: Sequence[Sequence[str]],
    normalize: bool = True,
    channels_first: bool = True,
    format: Optional[str] = None,
) -> Tuple[Tensor, int]:
    """`apply_effects_tensor` of a file."""
    wave, rate = load(path, normalize=normalize, channels_first=channels_first)
    return apply_effects_tensor(wave, rate, effects, channels_first)


def apply_effects_tensor(
    tensor: Tensor, sample_rate: int, effects: Sequence[Sequence[str]], channels_first: bool = True
) -> Tuple[Tensor, int]:
    """SoX's effects that SUPERB's recipes use, in torch: channels 1, rate, gain, norm.

    `rate` is torchaudio's resampling, whose filter is not SoX's: where the rate changes, the wave is slightly another.

    Args:
        tensor: (channels, frames), or (frames, channels).
        sample_rate: its samples a second.
        effects: a list of words for each effect, as SoX's command line has them.
        channels_first: which of the two shapes.

    Returns:
        The wave in the same layout, clipped to -1..1 as SoX does, and its sample rate.

    Raises:
        UserError: another effect.
    """
    wave = tensor if channels_first else tensor.t()
    for effect in effects:
        wave, sample_rate = _apply_effect(wave, sample_rate, list(effect))
        wave = wave.clamp(-1, 1)
    return (wave if channels_first else wave.t()), sample_rate


def _apply_effect(wave: Tensor, sample_rate: int, effect: List[str]) -> Tuple[Tensor, int]:
    name, arguments = effect[0], effect[1:]
    if name == "channels" and arguments == ["1"]:
        return wave.mean(0, keepdim=True), sample_rate
    if name == "rate" and len(arguments) == 1:
        rate = int(float(arguments[0]))
        return torchaudio.functional.resample(wave, sample_rate, rate), rate
    if name == "gain" and len(arguments) == 1 and not arguments[0].startswith("-n"):
        return wave * 10 ** (float(arguments[0]) / 20), sample_rate
    if name == "norm" and len(arguments) <= 1:
        peak = wave.abs().max().clamp(min=torch.finfo(wave.dtype).tiny)
        return wave / peak * 10 ** (float(arguments[0] if arguments else 0) / 20), sample_rate
    raise UserError(
        f"SoX's effect '{' '.join(effect)}' is not in torchaudio {torchaudio.__version__}, which has SoX no longer; "
        "2.8 has it: run this recipe in an environment with torch and torchaudio 2.8"
    )
