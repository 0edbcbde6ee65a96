"""`fairseq-distill manifest voxceleb`: unseen test speakers with their trials, or the identification split."""

import pytest

from fairseq_distill.cli.main import main
from fairseq_distill.data.labels import read_labels
from fairseq_distill.data.manifest import check_audio, read_manifest
from fairseq_distill.evaluation.trials import check_speakers, read_trials

from .layouts import RATE, VOICES, read_lines, read_manifest_rows, write_audio, write_voxceleb

TRIALS = [
    ("1", "id10270/video0/00001.wav", "id10270/video1/00002.wav"),
    ("0", "id10270/video0/00001.wav", "id10300/video0/00001.wav"),
    ("0", "id10300/video0/00002.wav", "id10270/video1/00001.wav"),
]


def run(source, out, *words):
    return main(["manifest", "voxceleb", str(source), "--out", str(out), *map(str, words)])


def write_list(path, rows):
    path.write_text("".join(" ".join(row) + "\n" for row in rows))
    return path


@pytest.fixture()
def corpus(tmp_path):
    return write_voxceleb(tmp_path / "VoxCeleb1")


def name_files(speaker, videos, root="wav"):
    return {f"{root}/{speaker}/video{video}/{file:05}.wav": 1000 + file for video in videos for file in (1, 2)}


def test_verification_holds_out_speakers_and_for_valid_the_last_video(corpus, tmp_path, capsys):
    write_list(corpus / "veri_test.txt", TRIALS)
    out = tmp_path / "out"
    assert run(corpus, out) == 0
    test = {**name_files("id10270", [0, 1]), **name_files("id10300", [0])}
    train = {**name_files("id10001", [0, 1]), **name_files("id10002", [0]), **name_files("id10003", [0])}
    valid = {**name_files("id10001", [2]), **name_files("id10002", [1])}
    for split, expected in (("train", train), ("valid", valid), ("test", test)):
        assert read_manifest_rows(out / f"{split}.tsv") == expected
        manifest = read_manifest(out / f"{split}.tsv")
        assert manifest.root == str(corpus) and check_audio(manifest, RATE, 400).num_bad == 0
        assert read_labels(out / f"{split}.speaker", len(expected)) == [path.split("/")[1] for path in manifest.paths]
    assert read_lines(out / "test.trials") == [f"{label} wav/{first} wav/{second}" for label, first, second in TRIALS]
    manifest = read_manifest(out / "test.tsv")
    trials = read_trials(out / "test.trials", manifest)
    check_speakers(out / "test.trials", trials, read_lines(out / "test.speaker"))
    assert trials.same.tolist() == [True, False, False]
    printed = capsys.readouterr().out
    assert f"3 of 3 trials of {corpus / 'veri_test.txt'}, 1 of the same speaker" in printed
    assert "left out: nothing" in printed


def test_the_corrected_list_goes_before_the_first_one_and_a_given_one_before_both(corpus, tmp_path):
    write_list(corpus / "veri_test.txt", TRIALS)
    write_list(corpus / "veri_test2.txt", TRIALS[:2])
    given = write_list(tmp_path / "own.txt", [("1", "id10002/video0/00001.wav", "id10002/video1/00001.wav")])
    assert run(corpus, tmp_path / "both") == 0 and len(read_lines(tmp_path / "both" / "test.trials")) == 2
    assert run(corpus, tmp_path / "given", "--trials", given) == 0
    assert set(read_lines(tmp_path / "given" / "test.speaker")) == {"id10002"}
    assert {"id10270", "id10300"} <= set(read_lines(tmp_path / "given" / "train.speaker"))


def test_without_a_list_the_speakers_of_letter_e_are_held_out(corpus, tmp_path, capsys):
    assert run(corpus, tmp_path / "out") == 0
    assert set(read_lines(tmp_path / "out" / "test.speaker")) == {"id10270", "id10300"}
    assert not (tmp_path / "out" / "test.trials").exists()
    assert "no test.trials: neither veri_test2.txt nor veri_test.txt in" in capsys.readouterr().out


def test_dev_and_test_may_be_unpacked_beside_each_other(tmp_path):
    source = write_voxceleb(tmp_path / "VoxCeleb1", "dev/wav", "test/wav")
    write_list(source / "veri_test.txt", TRIALS)
    assert run(source, tmp_path / "out") == 0
    rows = read_manifest_rows(tmp_path / "out" / "test.tsv")
    assert rows == {**name_files("id10270", [0, 1], "test/wav"), **name_files("id10300", [0], "test/wav")}
    assert read_lines(tmp_path / "out" / "test.trials")[0].split()[1] == "test/wav/id10270/video0/00001.wav"
    assert all(path.startswith("dev/wav/") for path in read_manifest_rows(tmp_path / "out" / "train.tsv"))


def test_identification_follows_its_list(corpus, tmp_path, capsys):
    files = [path[4:] for speaker, videos in VOICES.items() for path in name_files(speaker, range(videos))]
    parts = {file: str(1 + number % 3) for number, file in enumerate(files)}
    unlisted = files.pop()
    write_list(corpus / "iden_split.txt", [(parts[file], file) for file in files] + [("2", "id10001/video9/00001.wav")])
    out = tmp_path / "out"
    assert run(corpus, out, "--protocol", "identification") == 0
    for part, split in (("1", "train"), ("2", "valid"), ("3", "test")):
        assert set(read_manifest_rows(out / f"{split}.tsv")) == {f"wav/{file}" for file in files if parts[file] == part}
    printed = capsys.readouterr().out
    assert "1 of valid: missing, though in iden_split.txt, such as id10001/video9/00001.wav" in printed
    assert f"1 of all: not in iden_split.txt, such as wav/{unlisted}" in printed
    assert not (out / "test.trials").exists()


def test_trials_of_files_that_cannot_be_used_are_counted(corpus, tmp_path, capsys):
    write_list(corpus / "veri_test.txt", TRIALS)
    write_audio(corpus / "wav/id10300/video0/00002.wav", rate=8000)
    assert run(corpus, tmp_path / "out") == 0
    printed = capsys.readouterr().out
    assert "1 of test: wrong sample rate, such as wav/id10300/video0/00002.wav: 8000 Hz" in printed
    assert "1 of trials: a file is not in test.tsv, such as id10300/video0/00002.wav" in printed
    assert "2 of 3 trials" in printed
    assert len(read_lines(tmp_path / "out" / "test.trials")) == 2


@pytest.mark.parametrize(
    "rows, words, sentence",
    [
        ([("same", *TRIALS[0][1:])], (), "line 1: expected 0 or 1 and two files"),
        ([TRIALS[0], ("1", "id10270/00001.wav", "id10270/00002.wav")], (), "line 2: expected 0 or 1 and two files"),
        ([], (), "veri_test.txt is empty"),
        ([("1", f"{name}/video0/00001.wav", f"{name}/video0/00002.wav") for name in VOICES], (), "VoxCeleb1-E and -H"),
        (
            [("1", "id10270/video7/00001.wav", "id10270/video0/00001.wav")],
            (),
            "no trial has both its files in test.tsv",
        ),
        (TRIALS, ("--protocol", "identification"), "iden_split.txt"),
        (TRIALS, ("--protocol", "identification", "--trials", "x"), "--trials is for --protocol verification"),
        (TRIALS, ("--trials", "nowhere.txt"), "cannot read nowhere.txt"),
    ],
)
def test_what_cannot_be_followed_is_refused(rows, words, sentence, corpus, tmp_path, capsys):
    write_list(corpus / "veri_test.txt", rows)
    assert run(corpus, tmp_path / "out", *words) == 1
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_refused(tmp_path, capsys):
    write_audio(tmp_path / "other" / "a.wav")
    assert run(tmp_path / "other", tmp_path / "out") == 1
    assert "has no wav/SPEAKER/VIDEO/FILE.wav" in capsys.readouterr().err
