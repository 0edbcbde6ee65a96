"""The folder that `fairseq-distill manifest` writes: whole or not at all, and never over another one."""

import pytest

from fairseq_distill.cli.main import main
from fairseq_distill.corpora.output import make_folder
from fairseq_distill.errors import UserError

from .layouts import write_audio, write_librispeech, write_voxceleb


def test_an_empty_folder_is_filled_and_a_second_run_refused(tmp_path, capsys):
    source = write_librispeech(tmp_path / "libri")
    out = tmp_path / "out"
    out.mkdir()
    words = ["manifest", "librispeech", str(source), "--out", str(out)]
    assert main(words) == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert main(words) == 1
    assert "out is not empty (dict.ltr.txt is there): give a new folder by --out" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert {path.name for path in tmp_path.iterdir()} == {"libri", "out"}


def test_files_of_others_are_kept(tmp_path, capsys):
    source = write_voxceleb(tmp_path / "vox")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine, too")
    for name in ("out", "file"):
        assert main(["manifest", "voxceleb", str(source), "--out", str(tmp_path / name)]) == 1
    errors = capsys.readouterr().err
    assert "notes.txt is there" in errors and "file cannot be replaced" in errors
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine" and (tmp_path / "file").read_text() == "mine, too"


@pytest.mark.parametrize("error", [UserError("not this"), KeyboardInterrupt(), RuntimeError("a defect")])
def test_an_error_in_the_middle_leaves_nothing(error, tmp_path):
    (tmp_path / "empty").mkdir()
    for out in (tmp_path / "new", tmp_path / "empty"):
        with pytest.raises(type(error)), make_folder(out) as folder:
            folder.write_text("train.tsv", ["/", "a\t1"])
            assert (folder.partial / "train.tsv").read_text() == "/\na\t1\n" and folder.final == out
            raise error
    assert list(tmp_path.rglob("*")) == [tmp_path / "empty"]


def test_a_disk_error_is_a_sentence(tmp_path):
    with pytest.raises(UserError, match="out cannot be made: .*No space left"), make_folder(tmp_path / "out"):
        raise OSError(28, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_a_split_without_usable_audio_stops_with_the_reasons(tmp_path, capsys):
    source = write_librispeech(tmp_path / "libri")
    for path in (source / "dev-clean").glob("*/*/*.flac"):
        write_audio(path, rate=8000)
    assert main(["manifest", "librispeech", str(source), "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert "nothing is left for valid" in error and "1 of valid: wrong sample rate, such as dev-clean/84/121" in error
    assert not (tmp_path / "out").exists()


def test_the_corpus_must_be_a_folder(tmp_path, capsys):
    for corpus in ("speech-commands", "voxceleb", "librispeech"):
        assert main(["manifest", corpus, str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")]) == 1
        assert "nowhere is no folder" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
