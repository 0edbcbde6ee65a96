"""`fairseq-distill manifest librispeech`: subsets, words, letters and sentencepiece units that stock fairseq reads."""

import itertools
import sys

import pytest
import sentencepiece
import torch
from fairseq.data.data_utils import post_process
from fairseq.tasks.audio_finetuning import AudioFinetuningConfig, AudioFinetuningTask
from omegaconf import OmegaConf

from fairseq_distill.cli.main import main
from fairseq_distill.data.labels import read_labels
from fairseq_distill.data.manifest import check_audio, read_manifest

from .layouts import RATE, TEXTS, read_lines, read_manifest_rows, write_audio, write_librispeech

SUBSETS = {"train": ("train-clean-100", "train-other-500"), "valid": ("dev-clean",), "test": ("test-clean",)}
PIECES = 28  # the most that sentencepiece finds in these texts


def run(source, out, *words):
    return main(["manifest", "librispeech", str(source), "--out", str(out), *map(str, words)])


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("libri")
    write_librispeech(folder / "LibriSpeech")
    return folder


@pytest.fixture(scope="module")
def out(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("written") / "letters"
    assert run(corpus, folder, "--pieces", PIECES) == 0
    return folder


def expect_rows(subsets):
    """path -> (speaker, words), from the table that the corpus was made of."""
    rows = {}
    for subset in subsets:
        for chapter, texts in TEXTS[subset].items():
            for number, text in enumerate(texts):
                rows[f"{subset}/{chapter.replace('-', '/')}/{chapter}-{number:04}.flac"] = (chapter.split("-")[0], text)
    return rows


@pytest.mark.parametrize("split", SUBSETS)
def test_rows_speakers_words_and_letters(corpus, out, split):
    expected = expect_rows(SUBSETS[split])
    manifest = read_manifest(out / f"{split}.tsv")
    assert manifest.root == str(corpus / "LibriSpeech") and set(manifest.paths) == set(expected)
    assert check_audio(manifest, RATE, 400).num_bad == 0
    for ending in ("speaker", "wrd", "ltr", "spm"):
        assert len(read_labels(out / f"{split}.{ending}", len(expected))) == len(expected)
    rows = zip(manifest.paths, read_lines(out / f"{split}.speaker"), read_lines(out / f"{split}.wrd"))
    assert {path: (speaker, words) for path, speaker, words in rows} == expected
    for words, letters in zip(read_lines(out / f"{split}.wrd"), read_lines(out / f"{split}.ltr")):
        assert letters.endswith(" |") and "  " not in letters
        assert all(len(unit) == 1 for unit in letters.split(" "))
        assert post_process(letters, "letter") == words
    assert "T H E | B E E | A N D | T H E | A N T |" in read_lines(out / "train.ltr")


def test_letter_dictionary_is_that_of_train_commonest_first(out):
    counts = [line.split(" ") for line in read_lines(out / "dict.ltr.txt")]
    text = "".join(itertools.chain(*read_lines(out / "train.ltr"))).replace(" ", "")
    assert {unit: int(count) for unit, count in counts} == {unit: text.count(unit) for unit in set(text)}
    values = [int(count) for _, count in counts]
    assert values == sorted(values, reverse=True)


def test_pieces_are_those_of_the_model_that_is_kept(out):
    model = sentencepiece.SentencePieceProcessor(model_file=str(out / "spm.model"))
    assert model.get_piece_size() == PIECES
    units = [line.split(" ")[0] for line in read_lines(out / "dict.spm.txt")]
    assert units == [model.id_to_piece(number) for number in range(3, PIECES)]
    counts = {line.split(" ")[0]: int(line.split(" ")[1]) for line in read_lines(out / "dict.spm.txt")}
    train = [unit for line in read_lines(out / "train.spm") for unit in line.split(" ")]
    assert counts == {unit: train.count(unit) for unit in units}
    for split in SUBSETS:
        for words, pieces in zip(read_lines(out / f"{split}.wrd"), read_lines(out / f"{split}.spm")):
            assert model.decode(pieces.split(" ")) == words == post_process(pieces, "sentencepiece")


@pytest.mark.parametrize("labels, undo", [("ltr", "letter"), ("spm", "sentencepiece")])
def test_stock_fine_tuning_task_reads_them(out, labels, undo):
    """Every row of every split comes back as its words, out of fairseq's own dataset and dictionary."""
    told = {"data": str(out), "labels": labels, "enable_padding": True, "tpu": False}
    cfg = OmegaConf.merge(OmegaConf.structured(AudioFinetuningConfig()), told)
    task = AudioFinetuningTask.setup_task(cfg)
    dictionary = task.target_dictionary
    assert len(dictionary) == 4 + len(read_lines(out / f"dict.{labels}.txt"))
    for split in SUBSETS:
        task.load_dataset(split)
        dataset, words = task.datasets[split], read_lines(out / f"{split}.wrd")
        assert len(dataset) == len(words)
        batch = dataset.collater([dataset[row] for row in range(len(dataset))])
        assert batch["net_input"]["source"].size(0) == len(words) and torch.isfinite(batch["net_input"]["source"]).all()
        for row, target, length in zip(batch["id"].tolist(), batch["target"], batch["target_lengths"].tolist()):
            if split == "train":
                assert dictionary.unk() not in target[:length].tolist()
                assert post_process(dictionary.string(target[:length]), undo) == words[row]


def test_subsets_are_taken_as_told_and_a_missing_split_is_named(tmp_path, capsys):
    source = write_librispeech(tmp_path / "libri", {name: TEXTS[name] for name in ("train-clean-100", "dev-other")})
    assert run(source, tmp_path / "default") == 0
    printed = capsys.readouterr().out
    assert f"no test: {source} has no test-*" in printed and "valid: dev-other" in printed
    assert not (tmp_path / "default" / "test.tsv").exists() and not (tmp_path / "default" / "spm.model").exists()
    told = ("--train", "dev-other", "--valid", "train-clean-100")
    assert run(source, tmp_path / "told", *told) == 0
    assert set(read_manifest_rows(tmp_path / "told" / "train.tsv")) == set(expect_rows(["dev-other"]))
    printed = capsys.readouterr().out
    text = " ".join(words for _, words in expect_rows(["train-clean-100"]).values())
    unknown = sorted(set(text) - set("AS I APPROACHED "))
    assert f"valid.ltr: fairseq will read <unk> for what train does not have, {' '.join(unknown)}\n" in printed


def test_what_has_no_audio_or_no_words_is_counted(tmp_path, capsys):
    source = write_librispeech(tmp_path / "libri")
    chapter = source / "train-clean-100/19/198"
    write_audio(chapter / "19-198-0007.flac", 1600)
    (chapter / "19-198.trans.txt").open("a").write("19-198-0008 NOBODY SAYS THIS\n19-198-0009\n")
    write_audio(chapter / "19-198-0009.flac", 1600)
    (source / "train-other-500/20/205/20-205.trans.txt").unlink()
    broken = source / "train-clean-100/26/495/26-495-0000.flac"
    broken.write_bytes(broken.read_bytes()[:20])
    write_audio(source / "dev-clean/84/121/84-121-0001.flac", 1600, rate=8000)
    (source / "dev-clean/84/121/84-121.trans.txt").open("a").write("84-121-0001 SLOWLY\n")
    assert run(source, tmp_path / "out") == 0
    printed = capsys.readouterr().out
    for line in (
        "2 of train: no transcript, such as train-clean-100/19/198/19-198-0007.flac",
        "1 of train: empty transcript, such as train-clean-100/19/198/19-198-0009.flac",
        "1 of train: a transcript without audio, such as train-clean-100/19/198/19-198-0008",
        "1 of train: unreadable, such as train-clean-100/26/495/26-495-0000.flac",
        "1 of valid: wrong sample rate, such as dev-clean/84/121/84-121-0001.flac",
    ):
        assert line in printed
    assert read_lines(tmp_path / "out" / "train.wrd") == TEXTS["train-clean-100"]["19-198"]
    assert read_lines(tmp_path / "out" / "valid.wrd") == ["GO ON THEN"]
    assert "K" in "".join(read_lines(tmp_path / "out" / "dict.ltr.txt")), "of `WORK'S`"
    assert "B 3" not in read_lines(tmp_path / "out" / "dict.ltr.txt"), "counts are of what was kept"


@pytest.mark.parametrize(
    "words, sentence",
    [
        (("--train", "train-clean-360"), "--train train-clean-360"),
        (("--train", "dev-clean"), "dev-clean is given twice"),
        (("--pieces", "5000"), "--pieces 5000: sentencepiece cannot train on 4 transcripts"),
    ],
)
def test_what_cannot_be_made_is_refused(words, sentence, corpus, tmp_path, capsys):
    assert run(corpus, tmp_path / "out", *words) == 1
    assert sentence in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_training_subset_and_sentencepiece_are_needed(corpus, tmp_path, capsys, monkeypatch):
    source = write_librispeech(tmp_path / "libri", {"test-clean": TEXTS["test-clean"]})
    assert run(source, tmp_path / "out") == 1
    assert "has no train-* subset" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    assert run(corpus, tmp_path / "out", "--pieces", 20) == 1
    assert "pip install sentencepiece" in capsys.readouterr().err
    assert run(corpus, tmp_path / "out") == 0, "letters do without"
