"""Files that libraries read in odd ways: none stops a run."""

import pytest
import soundfile

from fairseq_distill.data import audio_file
from fairseq_distill.data.audio_dataset import load_audio_dataset
from fairseq_distill.data.audio_file import BrokenAudio, Fault, open_audio, read_wave
from fairseq_distill.data.labels import read_labels
from fairseq_distill.data.manifest import read_manifest
from fairseq_distill.errors import UserError

from .broken_audio import RATE, make_noise, write_good, write_manifest


@pytest.mark.parametrize("subtype", ["GSM610", "IMA_ADPCM", "MS_ADPCM", "ULAW", "ALAW"])
def test_codecs_of_telephones_are_read_whole(tmp_path, subtype):
    """GSM 6.10 cannot be sought in, and is read only by a number of frames."""
    soundfile.write(tmp_path / "call.wav", make_noise(24_000, 1), RATE, subtype=subtype)
    frames = soundfile.info(tmp_path / "call.wav").frames
    wave = read_wave(str(tmp_path / "call.wav"), RATE, frames, 400)
    assert wave.shape == (frames,) and wave.std() > 0.01
    rows = [write_good(tmp_path, f"good{i}.wav", 24_000) for i in range(2)]
    dataset = load_audio_dataset(str(write_manifest(tmp_path, [*rows, ("call.wav", frames)])), min_sample_size=400)
    assert sorted(len(dataset[i]["source"]) for i in range(3)) == [24_000, 24_000, frames]


@pytest.mark.parametrize(
    "error",
    [ValueError, TypeError, RuntimeError, OSError, EOFError, MemoryError, IndexError, OverflowError, AssertionError],
)
@pytest.mark.parametrize("place", ["open", "read"])
def test_whatever_a_library_raises_counts_as_a_broken_file(tmp_path, monkeypatch, error, place):
    name, samples = write_good(tmp_path, "good.wav", 8000)

    class Raising(soundfile.SoundFile):
        def __init__(self, *args, **kwargs):
            if place == "open":
                raise error("from within")
            super().__init__(*args, **kwargs)

        def read(self, *args, **kwargs):
            raise error("from within")

    monkeypatch.setattr(audio_file.soundfile, "SoundFile", Raising)
    with pytest.raises(BrokenAudio, match="from within") as broken:
        read_wave(str(tmp_path / name), RATE, samples, 400)
    assert broken.value.fault == Fault.UNREADABLE


def test_what_stops_a_run_is_not_counted_as_a_broken_file(tmp_path):
    name, samples = write_good(tmp_path, "good.wav", 8000)
    for stop in (KeyboardInterrupt, SystemExit):
        with pytest.raises(stop), open_audio(str(tmp_path / name), RATE, samples, 400):
            raise stop


def test_a_byte_order_mark_is_named_in_manifests_and_read_over_in_labels(tmp_path):
    rows = [write_good(tmp_path, f"{i}.wav", 8000) for i in range(2)]
    path = write_manifest(tmp_path, rows)
    path.write_text(path.read_text(), encoding="utf-8-sig")
    with pytest.raises(UserError, match="train.tsv begins with a byte order mark"):
        read_manifest(path)
    labels = tmp_path / "train.keyword"
    labels.write_text("yes\nno\n", encoding="utf-8-sig")
    assert read_labels(labels, 2) == ["yes", "no"]
