"""Manifests: every way of being malformed names its line, and the header check finds what headers show."""

import pytest
import soundfile

from fairseq_distill.data.audio_file import Fault
from fairseq_distill.data.manifest import MAX_CHECKED_FILES, Manifest, check_audio, read_manifest
from fairseq_distill.errors import UserError

from .broken_audio import RATE, make_noise, write_broken_set, write_good, write_manifest, write_zip


def test_reads_root_paths_and_sizes(tmp_path):
    manifest = read_manifest(write_manifest(tmp_path, [("a b.flac", 7), ("sub/c.wav", 0)]))
    assert (manifest.root, manifest.paths, manifest.sizes) == (str(tmp_path), ["a b.flac", "sub/c.wav"], [7, 0])
    assert manifest.path(1) == f"{tmp_path}/sub/c.wav"


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "line 1: empty"),
        ("\n/a.flac\t5\n", "line 1: empty"),
        ("{root}\n", "no row"),
        ("{root}/gone\na\t5\n", "line 1: the audio root .*/gone is no folder"),
        ("a.flac\t5\nb.flac\t6\n", "line 1: .*found the row"),
        ("{root}\na.flac\t5\nb.flac 6\n", "line 3: .*'b.flac 6'"),
        ("{root}\na.flac\t5.5\n", "line 2"),
        ("{root}\na.flac\t-5\n", "line 2"),
        ("{root}\na.flac\tx\n", "line 2"),
        ("{root}\na.flac\t5\n\nb.flac\t6\n", "line 3: .*found ''"),
        ("{root}\na.flac\t5\tx\n", "line 2"),
    ],
)
def test_malformed_manifest_names_file_and_line(tmp_path, text, message):
    path = tmp_path / "train.tsv"
    path.write_text(text.replace("{root}", str(tmp_path)))
    with pytest.raises(UserError, match=message) as caught:
        read_manifest(path)
    assert str(caught.value).startswith(str(path))


def test_missing_manifest_and_binary_manifest(tmp_path):
    with pytest.raises(UserError, match="train.tsv: no such manifest"):
        read_manifest(tmp_path / "train.tsv")
    (tmp_path / "train.tsv").write_bytes(b"\xff\xfe\x80\x81" * 100)
    with pytest.raises(UserError, match="not a text file"):
        read_manifest(tmp_path / "train.tsv")


def test_relative_root_explains_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "audio").mkdir()
    (tmp_path / "lists" / "train.tsv").write_text("audio\na.flac\t5\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        read_manifest("lists/train.tsv")
    message = str(caught.value)
    assert "hydra" in message and f"that makes {tmp_path}/audio." in message
    assert f"perhaps {tmp_path}/lists/audio" in message
    monkeypatch.chdir(tmp_path / "lists")
    assert read_manifest("train.tsv").paths == ["a.flac"]


def test_headers_show_these_faults(tmp_path):
    broken = write_broken_set(tmp_path)
    good = [write_good(tmp_path, f"good{i}.flac", 8000) for i in range(3)]
    soundfile.write(tmp_path / "stereo.wav", make_noise(16000).reshape(8000, 2), RATE)
    rows = good + broken + [("stereo.wav", 8000), ("dropped.wav", 100)]
    report = check_audio(read_manifest(write_manifest(tmp_path, rows)), RATE, min_samples=400)
    found = {path.split("/")[-1]: fault.label for fault, files in report.faults.items() for path, _ in files}
    only_decoding_shows = {"cut.flac", "cut.mp3", "silent.wav", "constant.wav", "cancels.wav", "nan.wav", "inf.wav"}
    assert found == {name: label for name, _, label in broken if name not in only_decoding_shows}
    assert report.num_files == report.num_checked == len(rows) - 1
    assert report.num_bad == 7 and report.num_bad / report.num_checked == 7 / 18
    assert report.num_stereo == 2  # stereo.wav and cancels.wav
    text = report.describe()
    assert "all 18 files" in text and "1 wrong length" in text and "half.wav: it holds 4000 samples" in text
    assert "8000 Hz instead of 16000 Hz" in text and "2 with several channels" in text


def test_report_shows_the_first_few_and_the_count(tmp_path):
    manifest = read_manifest(write_manifest(tmp_path, [(f"gone{i}.wav", 500) for i in range(9)]))
    text = check_audio(manifest, RATE, 400).describe()
    assert "9 missing" in text
    assert [f"gone{i}.wav" in text for i in range(9)] == [True] * 3 + [False] * 6


def test_a_long_manifest_is_checked_at_even_spaces(tmp_path):
    manifest = read_manifest(write_manifest(tmp_path, [(f"{i}.wav", 500) for i in range(101)]))
    report = check_audio(manifest, RATE, 400, limit_files=11)
    checked = [int(path.split("/")[-1][:-4]) for path, _ in report.faults[Fault.MISSING]]
    assert checked == list(range(0, 101, 10))
    assert "11 of 101, evenly spaced, files checked" in report.describe()


def test_zip_slices_are_checked(tmp_path):
    write_good(tmp_path, "a.flac", 5000)
    address = write_zip(tmp_path, "all.zip", "a.flac")
    rows = [(address, 5000), ("all.zip:3:40", 5000), ("all.zip:9", 5000), ("no.zip:0:40", 5000)]
    report = check_audio(read_manifest(write_manifest(tmp_path, rows)), RATE, 400)
    bad = {path.split("/")[-1]: fault for fault, files in report.faults.items() for path, _ in files}
    assert bad == {
        "all.zip:3:40": Fault.UNREADABLE,
        "all.zip:9": Fault.UNREADABLE,
        "no.zip:0:40": Fault.MISSING,
    }


def test_real_speech_passes(shared_data):
    for path in sorted((shared_data / "speech" / "manifest").glob("*/train.tsv")):
        rows = [line.split("\t") for line in path.read_text().splitlines()[1:]]
        manifest = Manifest(str(path), str(shared_data / "speech"), [r[0] for r in rows], [int(r[1]) for r in rows])
        report = check_audio(manifest, RATE, 400)
        assert report.num_bad == 0 and report.num_stereo == 0
        assert report.num_checked == min(len(rows), MAX_CHECKED_FILES)
