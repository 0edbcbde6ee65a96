"""Whatever a library raises while any part of the package reads audio: the file is counted, or named in a sentence."""

import errno
import re
import struct
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

import fairseq_distill
from fairseq_distill.cli.predict import run_model
from fairseq_distill.corpora.output import NewFolder
from fairseq_distill.corpora.speech_commands import _write_segments
from fairseq_distill.corpora.utterances import LeftOut, Utterance, keep_usable
from fairseq_distill.data import audio_dataset, audio_file, long_wave
from fairseq_distill.data.audio_dataset import load_audio_dataset
from fairseq_distill.data.audio_file import BrokenAudio, Fault, open_audio
from fairseq_distill.data.manifest import check_audio, read_manifest
from fairseq_distill.data.speech_sample import SpeechSample
from fairseq_distill.data.waves import process_waves
from fairseq_distill.encoder.config import EncoderConfig
from fairseq_distill.errors import UserError
from fairseq_distill.multitask.augmentation import NoiseManifest
from fairseq_distill.units.labelling import Labeller

from .broken_audio import RATE, write_good, write_manifest

CFG = EncoderConfig()
ERRORS = [
    *(OSError(number, "from the system") for number in (errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENODEV)),
    OSError("from a library"),
    PermissionError(errno.EACCES, "from the system"),
    FileNotFoundError(errno.ENOENT, "from the system"),
    TimeoutError(errno.ETIMEDOUT, "from the system"),
    ConnectionResetError(errno.ECONNRESET, "from the system"),
    *(soundfile.LibsndfileError(code) for code in (1, 2, 3, 40, 158, 9999)),
    soundfile.SoundFileRuntimeError("from soundfile"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "from a library"),
    struct.error("from a library"),
    *(
        kind("from a library")
        for kind in (
            Exception,
            ValueError,
            TypeError,
            RuntimeError,
            MemoryError,
            EOFError,
            IndexError,
            KeyError,
            AttributeError,
            OverflowError,
            AssertionError,
            NotImplementedError,
            RecursionError,
            StopIteration,
            ZeroDivisionError,
            BufferError,
        )
    ),
    ValueError(),
]
NAMES = [
    f"{type(error).__name__} {getattr(error, 'code', getattr(error, 'errno', '')) or ''}".strip() for error in ERRORS
]


@pytest.fixture(params=["open", "read"])
def place(request):
    """Where the library fails."""
    return request.param


@pytest.fixture
def manifest(tmp_path):
    """Two good files, and between them one at which the library fails."""
    return write_manifest(tmp_path, [write_good(tmp_path, name, 9000) for name in ("a.wav", "bad.wav", "c.wav")])


@pytest.fixture(params=ERRORS, ids=NAMES)
def error(request, place, monkeypatch):
    """An error that the library raises at bad.wav."""

    class Raising(soundfile.SoundFile):
        def __init__(self, file, *args, **kwargs):
            if place == "open" and str(file).endswith("bad.wav"):
                raise request.param
            super().__init__(file, *args, **kwargs)

        def read(self, *args, **kwargs):
            if place == "read" and str(self.name).endswith("bad.wav"):
                raise request.param
            return super().read(*args, **kwargs)

    monkeypatch.setattr(audio_file.soundfile, "SoundFile", Raising)
    monkeypatch.setattr(audio_dataset.time, "sleep", lambda seconds: None)
    return request.param


def test_training_counts_it(manifest, error, monkeypatch):
    for whole in (60, 0.1):  # read whole, and cropped from the file
        monkeypatch.setattr(long_wave, "WHOLE", whole)
        dataset = load_audio_dataset(manifest, min_sample_size=400, max_sample_size=2000, max_broken=0.5)
        batch = dataset.collater([dataset[row] for row in range(3)])
        assert batch["id"].tolist() == [0, 2] and dataset.num_broken == 1


def test_commands_count_it(manifest, error, place, tmp_path):
    rows = read_manifest(manifest)
    found, unreadable = process_waves(rows, range(3), 16_000, 400, len, "lengths of")
    assert (found, list(unreadable.reasons)) == ({0: 9000, 2: 9000}, [1]) and unreadable.reasons[1]
    sample = SpeechSample(manifest, 60.0, 0, CFG)
    assert len(list(sample)) == 2 and list(sample.unreadable.reasons) == [1]
    labelled = dict(Labeller._read_ahead(SimpleNamespace(cfg=CFG), rows))
    assert [isinstance(labelled[row], BrokenAudio) for row in range(3)] == [False, True, False]
    assert check_audio(rows, RATE, 400).num_bad == (place == "open")
    left_out = LeftOut()
    utterances = [Utterance(name, {}) for name in rows.paths]
    kept = [utterance.path for utterance in keep_usable(tmp_path, "train", utterances, left_out, 16_000)]
    assert ("bad.wav" in kept) == (place == "read") and len(left_out.describe()) == (place == "open")
    noise = NoiseManifest(str(manifest), RATE, max_broken=0.5)
    drawn = noise.draw(500, SimpleNamespace(integers=lambda high: 1, random=lambda: 0.5))
    assert drawn.shape == (500,) and np.ptp(drawn) > 0


def test_where_nothing_is_counted_a_sentence_names_it(manifest, error, tmp_path):
    model = SimpleNamespace(cfg=CFG, run_wave=len)
    assert run_model(model, f"{tmp_path}/a.wav") == 9000
    with pytest.raises(UserError, match=f"{tmp_path}/bad.wav cannot be used: .") as refused:
        run_model(model, f"{tmp_path}/bad.wav")
    assert "\n" not in str(refused.value)
    noise = Utterance("bad.wav", {}, samples=9000)
    with pytest.raises(UserError, match=f"{tmp_path}/bad.wav cannot be read: ."):
        _write_segments(NewFolder(tmp_path / "out", tmp_path / "out"), tmp_path, "train", [(noise, 100)], 16_000)


@pytest.mark.parametrize(
    "number, fault, tries",
    [
        (errno.EACCES, Fault.NO_PERMISSION, 1),
        (errno.EPERM, Fault.NO_PERMISSION, 1),
        (errno.ENOENT, Fault.MISSING, 1),
        (errno.EIO, Fault.SYSTEM_ERROR, 3),
        (errno.ESTALE, Fault.SYSTEM_ERROR, 3),
    ],
)
def test_libsndfiles_system_error_is_told_apart_and_only_what_time_mends_is_tried_again(
    manifest, monkeypatch, number, fault, tries
):
    """libsndfile says "System error" of all; a file without permission was tried for three seconds."""
    opened, pauses = [], []

    def open_badly(source):
        opened.append(source)
        raise soundfile.LibsndfileError(2)

    def refuse(*args, **kwargs):
        raise OSError(number, "from the system")

    dataset = load_audio_dataset(manifest, min_sample_size=400, max_broken=1.0)
    monkeypatch.setattr(audio_file.soundfile, "SoundFile", open_badly)
    monkeypatch.setattr(audio_file, "open", refuse, raising=False)
    monkeypatch.setattr(audio_dataset.time, "sleep", pauses.append)
    assert dataset[1]["source"] is None and len(opened) == tries and len(pauses) == tries - 1
    assert f"1 {fault.label}" in dataset.describe_broken()


def test_errors_of_users_pass_through(manifest, tmp_path):
    with pytest.raises(UserError, match="mine"), open_audio(f"{tmp_path}/a.wav", RATE, None, 1):
        raise UserError("mine")


def test_audio_is_read_in_one_place():
    """Other modules may write it; all that read it are above."""
    package = Path(fairseq_distill.__file__).parent
    used = {str(file.relative_to(package)) for file in package.rglob("*.py") if "soundfile" in file.read_text()}
    assert used == {"data/audio_file.py", "data/long_wave.py", "corpora/speech_commands.py", "corpora/output.py"}
    for name in used - {"data/audio_file.py"}:
        calls = set(re.findall(r"soundfile\.(\w+)", (package / name).read_text()))
        assert calls <= {"SoundFile", "LibsndfileError", "write"} and "SoundFile(" not in (package / name).read_text()
    readers = {
        str(file.relative_to(package))
        for file in package.rglob("*.py")
        if re.search(r"\b(read_wave|open_wave|open_audio)\(", file.read_text())
    }
    assert readers == {
        "cli/predict.py",
        "corpora/speech_commands.py",
        "corpora/utterances.py",
        "data/audio_dataset.py",
        "data/audio_file.py",
        "data/long_wave.py",
        "data/manifest.py",
        "data/speech_sample.py",
        "data/waves.py",
        "multitask/augmentation.py",
        "units/labelling.py",
    }
