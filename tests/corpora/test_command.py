"""`fairseq-distill manifest`: each corpus brings its own arguments and its own help."""

import re

import pytest
import soundfile

from fairseq_distill.cli.main import main

from .layouts import read_manifest_rows, write_librispeech, write_speech_commands, write_voxceleb

OPTIONS = {
    "speech-commands": {"--classes", "--test-set"},
    "voxceleb": {"--protocol", "--trials"},
    "librispeech": {"--train", "--valid", "--test", "--pieces"},
}


def show_help(capsys, *words):
    with pytest.raises(SystemExit) as stopped:
        main(["manifest", *words, "--help"])
    assert stopped.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("corpus", OPTIONS)
def test_a_corpus_declares_its_own_options_and_says_what_it_reads_and_writes(capsys, corpus):
    usage, text = show_help(capsys, corpus).split("\n\n", 1)
    assert (
        set(re.findall(r"--[a-z-]+", usage)) - {"--help"} == {"--out", "--sample-rate", *OPTIONS[corpus]}
        and "DIR" in usage
    )
    assert "Writes " in text and f"fairseq-distill manifest {corpus} " in text


def test_the_help_names_every_corpus(capsys):
    text = show_help(capsys)
    for corpus in OPTIONS:
        assert re.search(rf"^    {corpus}\s", text, re.MULTILINE) and f"fairseq-distill manifest {corpus} " in text


def test_options_of_another_corpus_are_refused(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["manifest", "voxceleb", "vox", "--out", "out", "--pieces", "100"])
    assert stopped.value.code == 2 and "unrecognized arguments: --pieces 100" in capsys.readouterr().err


WRITERS = {"speech-commands": write_speech_commands, "voxceleb": write_voxceleb, "librispeech": write_librispeech}


def resample(root, rate):
    """Every audio file of a corpus as if it were of another rate, with the samples that it has."""
    for path in [*root.rglob("*.wav"), *root.rglob("*.flac")]:
        wave, _ = soundfile.read(str(path), dtype="int16")
        soundfile.write(str(path), wave, rate, subtype="PCM_16")


@pytest.mark.parametrize("corpus", WRITERS)
def test_a_resampled_copy_is_written_with_its_rate_and_refused_without(corpus, tmp_path, capsys):
    source = WRITERS[corpus](tmp_path / "corpus")
    words = ["manifest", corpus, str(source), "--out"]
    assert main([*words, str(tmp_path / "16k")]) == 0
    assert "task.sample_rate" not in capsys.readouterr().out
    resample(source, 8000)
    assert main([*words, str(tmp_path / "refused")]) == 1
    message = capsys.readouterr().err
    assert "It needs mono files at 16000 Hz (--sample-rate gives another)" in message
    assert "8000 Hz instead of 16000 Hz: resample it, ffmpeg -i IN -ar 16000 OUT" in message
    assert main([*words, str(tmp_path / "8k"), "--sample-rate", "8000"]) == 0
    assert "8k task.sample_rate=8000" in capsys.readouterr().out
    for split in ("train", "valid", "test"):
        low, high = (read_manifest_rows(tmp_path / rate / f"{split}.tsv") for rate in ("8k", "16k"))
        silence = {path: size for path, size in low.items() if "silence" in path}
        assert {path: size for path, size in low.items() if path not in silence} == {
            path: size for path, size in high.items() if "silence" not in path
        }
        assert bool(silence) == (corpus == "speech-commands") and set(silence.values()) <= {8000}
        assert all(soundfile.info(path).samplerate == soundfile.info(path).frames == 8000 for path in silence)


def test_what_is_too_short_is_told_in_seconds(tmp_path, capsys):
    """25 ms are 200 samples at 8 kHz."""
    source = write_voxceleb(tmp_path / "vox")
    resample(source, 8000)
    for samples, name in ((199, "00001.wav"), (200, "00002.wav")):
        path = source / "wav" / "id10001" / "video0" / name
        soundfile.write(str(path), soundfile.read(str(path))[0][:samples], 8000)
    assert main(["manifest", "voxceleb", str(source), "--out", str(tmp_path / "out"), "--sample-rate", "8000"]) == 0
    assert (
        "1 of train: too short, such as wav/id10001/video0/00001.wav: it holds 199 samples" in capsys.readouterr().out
    )
    assert read_manifest_rows(tmp_path / "out" / "train.tsv")["wav/id10001/video0/00002.wav"] == 200
    assert main(["manifest", "voxceleb", str(source), "--out", str(tmp_path / "none"), "--sample-rate", "0"]) == 1
    assert "--sample-rate 0: give a number of samples a second" in capsys.readouterr().err
