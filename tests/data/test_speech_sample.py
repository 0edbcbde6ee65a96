"""Speech drawn from a manifest: how much, which, and what is said of it."""

import hashlib

import numpy as np
import pytest
import soundfile

from fairseq_distill.data import speech_sample
from fairseq_distill.data.speech_sample import SpeechSample
from fairseq_distill.encoder.config import EncoderConfig
from fairseq_distill.errors import UserError

from ..builders import SMALL, write_data

CONFIG = EncoderConfig.from_settings(SMALL)


@pytest.fixture()
def manifest(tmp_path):
    """20 waves of 1.5 and 2 seconds, one in a row that is too short for a frame."""
    return write_data(tmp_path, lengths=(24_000, 32_000), copies=10, splits=("train",)) / "train.tsv"


def read(manifest, seconds=10.0, seed=0):
    sample = SpeechSample(manifest, seconds, seed, CONFIG)
    return sample, [wave for wave, mask in sample if mask is None]


def test_reads_the_seconds_asked_for_in_whole_utterances_but_the_last(manifest):
    sample, waves = read(manifest)
    assert sum(wave.size(1) for wave in waves) == 160_000
    assert {wave.size(1) for wave in waves[:-1]} == {24_000, 32_000}
    facts = sample.describe()
    assert (facts["seconds"], facts["utterances"], facts["unreadable"]) == (10.0, len(waves), 0)
    everything, waves = read(manifest, seconds=1000)
    assert everything.describe()["utterances"] == 20 and everything.seconds == pytest.approx(35)


def test_a_rest_below_a_second_is_not_filled_up(manifest):
    assert read(manifest, seconds=2.4)[0].utterances == 1
    assert read(manifest, seconds=0.3)[0].seconds == pytest.approx(0.3)


def test_the_fingerprint_is_that_of_the_samples_and_the_seed_decides_them(manifest):
    (one, waves), (again, _), (other, _) = (read(manifest, seed=seed) for seed in (3, 3, 4))
    assert one.fingerprint == again.fingerprint != other.fingerprint
    assert one.fingerprint == hashlib.sha256(b"".join(wave.numpy().tobytes() for wave in waves)).hexdigest()


def test_long_waves_are_cut_at_a_random_place(manifest, monkeypatch):
    monkeypatch.setattr(speech_sample, "LONGEST", 1)
    _, waves = read(manifest, seconds=5)
    assert [wave.size(1) for wave in waves] == [16_000] * 5
    files = [soundfile.read(file, dtype="float32")[0] for file in sorted((manifest.parent / "audio").iterdir())]
    starts = [np.flatnonzero(file[:-15_999] == wave[0, 0].item()) for wave in waves for file in files]
    assert len({int(start[0]) for start in starts if len(start)}) > 3


def test_broken_files_are_counted_up_to_one_in_a_hundred(manifest, caplog):
    row = manifest.read_text().splitlines()[1].split("\t")[0]
    (manifest.parent / "audio" / row).write_bytes(b"no sound")
    sample, waves = read(manifest, seconds=1000)
    assert len(waves) == 19 and sample.describe()["unreadable"] == 1
    assert "1 of 20 files cannot be used" in caplog.text
    for row in (2, 3):
        (manifest.parent / "audio" / f"train{row}.flac").unlink()
    with pytest.raises(UserError, match="of the 20 files drawn is too many"):
        read(manifest, seconds=1000)


def test_rows_too_short_for_a_frame_are_left_out_with_a_count(manifest, caplog):
    manifest.write_text(manifest.read_text() + "short.flac\t30\n")
    assert len(read(manifest, seconds=1000)[1]) == 20
    assert "1 of 21 rows are shorter than the" in caplog.text
    manifest.write_text("\n".join([manifest.read_text().splitlines()[0], "short.flac\t30\n"]))
    with pytest.raises(UserError, match="all rows are shorter"):
        read(manifest)


def test_no_seconds_are_refused(manifest):
    for seconds in (0.0, -1.0, float("nan")):
        with pytest.raises(UserError, match="must be above 0"):
            read(manifest, seconds)
