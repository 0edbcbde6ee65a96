"""Crops of long files: the samples that reading all of the file and cropping it gives, without reading all of it."""

import numpy as np
import pytest
import soundfile
import torch
import torch.nn.functional as F
from fairseq.data import FileAudioDataset

from fairseq_distill.data import long_wave, speech_sample
from fairseq_distill.data.audio_dataset import load_audio_dataset
from fairseq_distill.data.audio_file import BrokenAudio, Fault, open_audio, read_part, read_wave
from fairseq_distill.data.long_wave import LongWave, open_wave
from fairseq_distill.data.speech_sample import SpeechSample
from fairseq_distill.encoder.config import EncoderConfig
from fairseq_distill.errors import UserError

from ..builders import SMALL
from .broken_audio import RATE, make_noise, write_good, write_manifest

EXACT = {"wav": "PCM_16", "flac": "PCM_16", "aiff": "PCM_24", "au": "FLOAT"}
IN_PASSING = {"ogg": "VORBIS", "mp3": "MPEG_LAYER_III", "gsm.wav": "GSM610"}


@pytest.fixture(autouse=True)
def half_a_second_is_long(monkeypatch):
    monkeypatch.setattr(long_wave, "WHOLE", 0.5)


@pytest.fixture
def samples_read(monkeypatch):
    """How many samples each reading call asked a file for."""
    asked, read = [], soundfile.SoundFile.read

    def count(self, frames=-1, *args, **kwargs):
        asked.append(frames)
        return read(self, frames, *args, **kwargs)

    monkeypatch.setattr(soundfile.SoundFile, "read", count)
    return asked


def write(folder, ending, subtype, samples=40_000, channels=1):
    """A file of noise with an offset, and its manifest row."""
    name = f"long.{ending}"
    wave = make_noise(samples * channels, 5).reshape(samples, channels) + 0.05
    soundfile.write(folder / name, wave, RATE, subtype=subtype)
    return name, soundfile.info(folder / name).frames


@pytest.mark.parametrize("ending, subtype", {**EXACT, **IN_PASSING}.items())
def test_a_part_is_what_the_whole_has_there(tmp_path, ending, subtype):
    name, samples = write(tmp_path, ending, subtype)
    whole = read_wave(str(tmp_path / name), RATE, samples, 400)
    for start, count in [(0, 500), (12_345, 7000), (samples - 300, 300), (samples - 300, 900)]:
        with open_audio(str(tmp_path / name), RATE, samples, 400) as audio:
            part = read_part(audio, start, count)
        expected = whole[start : start + count].numpy()
        rounding = 1e-7 if ending == "mp3" else 0
        assert part.shape == expected.shape and np.abs(part - expected).max() <= rounding, (start, count)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("normalize", [False, True])
def test_a_cut_is_that_of_the_whole_wave_also_where_that_is_normalised(tmp_path, monkeypatch, channels, normalize):
    monkeypatch.setattr(long_wave, "BLOCK", 7001)
    name, samples = write(tmp_path, "flac", "PCM_16", channels=channels)
    path = str(tmp_path / name)
    whole = read_wave(path, RATE, samples, 400)
    whole = F.layer_norm(whole.double(), whole.shape) if normalize else whole
    wave = open_wave(path, RATE, samples, 400, 1000, normalize)
    assert isinstance(wave, LongWave) and len(wave) == samples
    part = wave.cut(12_000, 1000)
    assert part.dtype == torch.float32 and part.shape == (1000,)
    if normalize:
        assert (part - whole[12_000:13_000]).abs().max() < 1e-5
    else:
        assert torch.equal(part, whole[12_000:13_000])


def test_what_is_short_or_wanted_whole_or_not_to_be_sought_in_is_read_whole(tmp_path):
    name, samples = write(tmp_path, "wav", "PCM_16")
    short, few = write_good(tmp_path, "short.wav", 7000)
    assert torch.is_tensor(open_wave(str(tmp_path / short), RATE, few, 400, 1000))
    assert torch.is_tensor(open_wave(str(tmp_path / name), RATE, samples, 400, samples))
    for ending, subtype in IN_PASSING.items():
        name, samples = write(tmp_path, ending, subtype)
        assert torch.is_tensor(open_wave(str(tmp_path / name), RATE, samples, 400, 1000))


@pytest.mark.parametrize("pad", [False, True])
@pytest.mark.parametrize("normalize", [False, True])
def test_batches_are_those_of_stock_fairseq_which_reads_all(tmp_path, monkeypatch, samples_read, pad, normalize):
    rows = [write(tmp_path, *kind) for kind in EXACT.items()] + [write_good(tmp_path, "short.wav", 3000)]
    kwargs = dict(min_sample_size=400, max_sample_size=2500, pad=pad, normalize=normalize)
    path = write_manifest(tmp_path, rows)
    ours, stock = load_audio_dataset(path, **kwargs), FileAudioDataset(path, RATE, **kwargs)
    ids = list(range(len(rows)))
    # fairseq draws other places: it gets ours, of the seed, the epoch and the row
    starts = iter(
        int(np.random.default_rng([0, 1, row]).integers(size - 2500 + 1)) for row, (_, size) in enumerate(rows)
    )
    monkeypatch.setattr(stock, "crop_to_max_size", lambda wave, size: wave.narrow(0, next(starts), size))
    expected = stock.collater([stock[i] for i in ids])["net_input"]["source"]
    assert next(starts, None) is None
    samples_read.clear()
    source = ours.collater([ours[i] for i in ids])["net_input"]["source"]
    assert source.shape == (5, 2500)
    if normalize:
        assert torch.allclose(source, expected, atol=1e-5)
    else:
        assert torch.equal(source, expected)
        assert sorted(samples_read) == [2500] * 4 + [3000]


def test_a_long_file_that_is_broken_where_it_is_cut_is_counted_and_its_batch_filled(tmp_path):
    samples = 40_000
    nan = make_noise(samples)
    nan[:] = np.nan
    soundfile.write(tmp_path / "nan.wav", nan, RATE, subtype="FLOAT")
    rows = [("nan.wav", samples), write(tmp_path, "wav", "PCM_16")]
    kwargs = dict(min_sample_size=400, max_sample_size=2500, max_broken=0.5)
    dataset = load_audio_dataset(write_manifest(tmp_path, rows), **kwargs)
    assert dataset.collater([dataset[0], dataset[1]])["id"].tolist() == [1] and dataset.num_broken == 1
    dataset = load_audio_dataset(tmp_path / "train.tsv", **kwargs)
    batch = dataset.collater([dataset[0]])
    assert batch["id"].tolist() == [1] and dataset.num_broken == 1
    dataset = load_audio_dataset(
        write_manifest(tmp_path, [rows[0], ("nan.wav", samples)]), **{**kwargs, "max_broken": 1}
    )
    with pytest.raises(UserError, match="no usable file is left"):
        dataset.collater([dataset[0]])


def test_silence_within_a_long_file_is_a_part_of_it(tmp_path):
    wave = make_noise(40_000)
    wave[10_000:20_000] = 0
    soundfile.write(tmp_path / "pause.wav", wave, RATE)
    part = open_wave(str(tmp_path / "pause.wav"), RATE, 40_000, 400, 1000).cut(12_000, 1000)
    assert part.shape == (1000,) and not part.any()


def test_a_file_that_shrinks_is_cut_short(tmp_path):
    name, samples = write(tmp_path, "flac", "PCM_16")
    wave = open_wave(str(tmp_path / name), RATE, samples, 400, 1000)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(BrokenAudio) as broken:
        wave.cut(35_000, 1000)
    assert broken.value.fault in (Fault.LENGTH, Fault.UNREADABLE)


def test_speech_for_commands_is_the_same_sample(tmp_path, monkeypatch, samples_read):
    monkeypatch.setattr(speech_sample, "LONGEST", 1)
    rows = [write(tmp_path, *kind) for kind in EXACT.items()]
    path = write_manifest(tmp_path, rows)

    def read():
        samples_read.clear()
        sample = SpeechSample(path, 100.0, 3, EncoderConfig.from_settings(SMALL))
        return [wave for wave, _ in sample], sample.fingerprint, list(samples_read)

    parts, fingerprint, asked = read()
    monkeypatch.setattr(long_wave, "WHOLE", 60)
    whole, same, all_asked = read()
    assert fingerprint == same and all(torch.equal(a, b) for a, b in zip(parts, whole)) and len(parts) == 4
    assert asked == [16_000] * 4 and min(all_asked) >= 40_000
