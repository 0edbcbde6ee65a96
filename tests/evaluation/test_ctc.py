"""Greedy decoding and error rates by hand, and a student that the recipe fine-tunes, beside fairseq's own criterion."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from fairseq import checkpoint_utils
from omegaconf import OmegaConf

from fairseq_distill.checkpoints.reading import read_checkpoint
from fairseq_distill.checkpoints.saving import save_pruned
from fairseq_distill.cli.configs import find_recipes
from fairseq_distill.cli.main import main
from fairseq_distill.data.token_dictionary import TokenDictionary
from fairseq_distill.errors import UserError
from fairseq_distill.evaluation.ctc import Recogniser, choose_examples, count_errors, decode, load_recogniser
from fairseq_distill.evaluation.transcripts import Reference, Utterance
from fairseq_distill.pruning.surgery import PrunedEncoder

from ..builders import write_data, write_teacher
from ..runs import command, run
from .edits import count_edits

WORDS = ["ON", "NO", "ONE", "NONE"]


class Model(torch.nn.Module):
    """Finds the symbols `best`, one a frame, whatever it hears."""

    def __init__(self, scores):
        super().__init__()
        self.scores = scores

    def forward(self, source):
        return self.scores[None].repeat(len(source), 1, 1)


def make_recogniser(symbols, best):
    """A recogniser of the tokens `symbols`, behind fairseq's own, that finds the tokens `best`, one a frame."""
    symbols = ["<s>", "<pad>", "</s>", "<unk>", *symbols]
    scores = torch.full((len(best), len(symbols)), -5.0)
    for frame, symbol in enumerate(best):
        scores[frame, symbols.index(symbol)] = -0.1
    return Recogniser(Model(scores), TokenDictionary(symbols, 0, 2), "ltr")


@pytest.mark.parametrize(
    "best, units",
    [
        (["<s>", "O", "O", "<s>", "N", "|"], "O N |"),
        (["N", "<s>", "N", "N", "O", "O"], "N N O"),  # a blank between makes two of it
        (["<s>", "<s>"], ""),
        (["N", "O", "N", "O"], "N O N O"),
        (["N", "</s>", "<pad>", "<unk>"], "N </s> <pad> <unk>"),  # what nobody can have said is an error each
        (["N", "<ctc_blank>", "N", "<s>", "O"], "N N O"),
    ],
)
def test_repeats_collapse_and_blanks_go(best, units):
    recogniser = make_recogniser(["<ctc_blank>", *"NO|"], best)
    found = decode(recogniser, torch.zeros(500))
    assert [recogniser.dictionary.symbols[number] for number in found] == units.split()


def spell(text):
    """A text in letters, with | behind each word."""
    return [*text.replace(" ", "|"), "|"]


def make_utterance(path, said, found):
    """An utterance of words in letters."""
    return Utterance(path, Reference(spell(said), said, True), spell(found), found)


def test_errors_of_an_utterance():
    utterance = make_utterance("a.wav", "THE CAT SAT", "A CAT SAT ON")
    assert (utterance.words, utterance.word_errors) == (3, 2)
    assert (utterance.characters, utterance.character_errors) == (11, count_edits("A CAT SAT ON", "THE CAT SAT"))
    assert (utterance.units, utterance.unit_errors) == (12, count_edits("A|CAT|SAT|ON|", "THE|CAT|SAT|"))
    assert make_utterance("b.wav", "NO", "").word_errors == 1


def test_what_a_reference_has_not_is_not_counted():
    phones = Utterance("a.wav", Reference(["s", "ih", "t"], None, False), ["s", "t"], None)
    assert (phones.units, phones.unit_errors, phones.words, phones.characters) == (3, 1, None, None)
    assert (phones.reference, phones.hypothesis) == ("s ih t", "s t")
    pronounced = Utterance("a.wav", Reference(["s", "ih", "|"], "sih", False), ["s", "|"], "s")
    assert (pronounced.unit_errors, pronounced.word_errors, pronounced.characters) == (1, 1, None)
    found = count_errors([phones])
    assert (found["uer"], found["wer"], found["wer_interval"], found["words"]) == (1 / 3, None, None, None)


def test_worst_are_by_rate_and_random_ones_repeat():
    utterances = [make_utterance(str(n), "A B C D", " ".join("ABCD"[:n])) for n in (4, 0, 3, 1, 2)]
    examples = choose_examples(utterances, 2)
    assert [example["path"] for example in examples["worst"]] == ["0", "1"]
    assert examples == choose_examples(utterances, 2) and len(examples["random"]) == 2
    assert len(choose_examples(utterances, 9)["random"]) == 5
    phones = [Utterance(str(n), Reference(["s"] * 4, None, False), ["s"] * n, None) for n in (4, 1, 2)]
    assert [example["path"] for example in choose_examples(phones, 1)["worst"]] == ["1"]


def write_letters(folder):
    """Seconds of noise, with words nobody said; the dictionary lies beside them."""
    write_data(folder, splits=("train", "valid"))
    random = np.random.default_rng(3)
    for split in ("train", "valid"):
        rows = len((folder / f"{split}.tsv").read_text().splitlines()) - 1
        texts = [" ".join(random.choice(WORDS, 1 + n % 2)) for n in range(rows)]
        (folder / f"{split}.ltr").write_text("".join(" ".join(text.replace(" ", "|")) + " |\n" for text in texts))
    (folder / "dict.ltr.txt").write_text("".join(f"{letter} 1\n" for letter in "ENO|"))
    return folder


def fine_tune(folder, data, updates, **changes):
    """Fine-tune a student by ctc_letters with settings changed; (last checkpoint, logs); the student is deleted."""
    teacher = read_checkpoint(write_teacher(folder))
    weights = {key: value for key, value in teacher.weights.items() if not key.startswith(("final_proj", "label_embs"))}
    save_pruned(folder / "student.pt", teacher, PrunedEncoder(teacher.config, weights))
    settings = {
        "+machine": "cpu",
        "task.data": data,
        "model.w2v_path": folder / "student.pt",
        "model.mask_channel_length": 8,
        "dataset.max_tokens": 20_000,
        "dataset.num_workers": 0,
        "optimization.max_update": updates,
        "optimization.update_freq": "[1]",
        "optimization.lr": "[0.003]",
        "common.log_interval": 1,
        "common.tensorboard_logdir": "null",
        "hydra.run.dir": folder / "run",
        **{key.replace("__", "."): value for key, value in changes.items()},
    }
    _, logs = run(command(find_recipes("finetune"), "ctc_letters", settings))
    (folder / "student.pt").unlink()
    return folder / "run" / "checkpoints" / "checkpoint_last.pt", logs


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """(checkpoint, data) of a student that ctc_letters fine-tunes for a few updates; its own file is deleted."""
    folder = tmp_path_factory.mktemp("ctc")
    data = write_letters(folder / "data")
    checkpoint, logs = fine_tune(folder, data, updates=6)
    assert [name for name, _ in logs].count("train_inner") == 6 and any("valid_wer" in values for _, values in logs)
    (data / "dict.ltr.txt").unlink()  # the checkpoint has its own
    return checkpoint, data


def test_the_recipe_makes_a_model_that_is_recognised_with(tuned, capsys):
    checkpoint, data = tuned
    assert read_checkpoint(checkpoint).name == "speech_student"
    options = ["evaluate", "ctc", str(checkpoint), "--data", str(data), "--split", "valid", "--show", "2"]
    assert main([*options, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["utterances"] == 8 and result["labels"] == "ltr"
    assert result["skipped"] == {"unreadable": 0, "unlabelled": 0}
    for rate in ("uer", "wer", "cer"):
        low, high = result[f"{rate}_interval"]
        assert 0 < low <= result[rate] <= high
    assert len(result["worst"]) == len(result["random"]) == 2
    assert main(options) == 0
    table = capsys.readouterr().out
    assert (
        all(f"{rate}  " in table for rate in ("UER", "WER", "CER"))
        and table.count("  said  ") == 4
        and "errors in" in table
    )


def test_words_and_units_are_those_that_fairseqs_criterion_counts(tuned, capsys):
    checkpoint, data = tuned
    (model,), cfg, task = checkpoint_utils.load_model_ensemble_and_task([str(checkpoint)], {"data": str(data)})
    criterion = task.build_criterion(cfg.criterion)
    task.load_dataset("valid")
    dataset = task.dataset("valid")
    criterion.eval(), model.eval()
    totals = dict.fromkeys(["w_errors", "w_total", "c_errors", "c_total"], 0)
    letters = []
    with torch.no_grad():
        for row in range(len(dataset)):  # one at a time, as padding changes what a group-norm extractor makes
            sample = dataset.collater([dataset[row]])
            _, _, logged = criterion(model, sample)
            totals = {key: value + logged[key] for key, value in totals.items()}
            out = model(**sample["net_input"])["encoder_out"][:, 0].argmax(-1).tolist()
            kept = [unit for n, unit in enumerate(out) if n == 0 or unit != out[n - 1]]
            letters.append("".join(task.target_dictionary[unit] for unit in kept if unit != 0))
    options = ["evaluate", "ctc", str(checkpoint), "--data", str(data), "--split", "valid"]
    assert main([*options, "--json", "--show", "8"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["word_errors"], result["words"]) == (totals["w_errors"], totals["w_total"])
    assert result["wer"] == pytest.approx(totals["w_errors"] / totals["w_total"])
    assert (result["unit_errors"], result["units"]) == (totals["c_errors"], totals["c_total"])
    said = [" ".join(text.replace("|", " ").split()) for text in letters]
    assert [example["hypothesis"] for example in result["random"]] == said and any(said)
    expected = sum(count_edits(example["hypothesis"], example["reference"]) for example in result["random"])
    assert result["character_errors"] == expected


def test_rows_without_transcript_and_broken_audio_are_counted(tuned, tmp_path, capsys):
    checkpoint, data = tuned
    lines = (data / "valid.ltr").read_text().splitlines()
    root, *rows = (data / "valid.tsv").read_text().splitlines()
    (tmp_path / "test.tsv").write_text("\n".join([root, *rows[:7], "missing.flac\t8000"]) + "\n")
    (tmp_path / "test.ltr").write_text("\n".join(["", *lines[1:]]) + "\n")
    assert main(["evaluate", "ctc", str(checkpoint), "--data", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "utterances  6 " in out and "1 unreadable, 1 unlabelled" in out
    (tmp_path / "test.tsv").write_text("\n".join([root, *rows[:6], "a.flac\t8000", "b.flac\t8000"]) + "\n")
    assert main(["evaluate", "ctc", str(checkpoint), "--data", str(tmp_path)]) == 1
    assert "2 of 8 files cannot be used, the first: a.flac (no such file)" in capsys.readouterr().err


@pytest.mark.parametrize("labels", ["spm", "wrd"])
def test_words_are_compared_with_those_of_another_kind(labels, tuned, capsys):
    """References in pieces or words are the same words as in letters, and spelled they are the same units."""
    checkpoint, data = tuned
    lines = (data / "valid.ltr").read_text().splitlines()
    texts = [" ".join(line.replace(" ", "").replace("|", " ").split()) for line in lines]
    if labels == "spm":
        texts = [" ".join("\u2581" + word[:1] + " " + word[1:] for word in text.split()) for text in texts]
    (data / f"valid.{labels}").write_text("\ufeff" + "".join(f"{line}\n" for line in texts), encoding="utf-8")
    results = []
    options = ["evaluate", "ctc", str(checkpoint), "--data", str(data), "--split", "valid", "--json"]
    for ending in ("ltr", labels):
        assert main([*options, "--labels", ending]) == 0
        results.append(json.loads(capsys.readouterr().out))
    (data / f"valid.{labels}").unlink()
    for result in results:
        result.pop("seconds")
    assert results[0] == {**results[1], "labels": "ltr"} and results[1]["labels"] == labels


def test_checkpoints_that_recognise_nothing_are_refused(tuned, tmp_path):
    _, data = tuned
    teacher = write_teacher(tmp_path)
    with pytest.raises(UserError, match="teacher.pt is the model hubert: it has no output layer .*, but evaluate ctc"):
        load_recogniser(teacher, data)
    state = torch.load(tuned[0], weights_only=False)
    torch.save({**state, "task_state": {}}, tmp_path / "bare.pt")
    with pytest.raises(UserError, match="bare.pt has no dictionary inside, and there is no .*dict.ltr.txt: .* --dict"):
        load_recogniser(tmp_path / "bare.pt", data)
    (tmp_path / "dict.ltr.txt").write_text("".join(f"{letter} 1\n" for letter in "ENO|"))
    assert len(load_recogniser(tmp_path / "bare.pt", tmp_path).dictionary.symbols) == 8


def test_the_recipe_takes_labels_of_any_ending(tmp_path, capsys):
    """Phonemes, whose best checkpoint is chosen by the unit error rate."""
    data = write_data(tmp_path / "data")
    for split in ("train", "valid"):
        (data / f"{split}.phn").write_text("sil\nsil ah f\n" * 4)
    (data / "dict.phn.txt").write_text("sil 1\nah 1\nf 1\n")
    settings = {"task__labels": "phn", "criterion__post_process": "none", "checkpoint__best_checkpoint_metric": "uer"}
    checkpoint, logs = fine_tune(tmp_path, data, updates=2, **settings)
    assert any("valid_uer" in values for _, values in logs)
    assert checkpoint.with_name("checkpoint_best.pt").is_file()
    assert main(["evaluate", "ctc", str(checkpoint), "--data", str(data), "--split", "valid", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["labels"], result["unit"], result["units"], result["wer"]) == ("phn", "tokens", 16, None)
    assert result["unknown_units"] == 0 and result["uer"] > 0


def test_both_recipes_differ_in_their_units_alone():
    recipes = (find_recipes("finetune") / f"ctc_{name}.yaml" for name in ("letters", "pieces"))
    letters, pieces = map(OmegaConf.load, recipes)
    assert (pieces.task.labels, pieces.criterion.post_process) == ("spm", "sentencepiece")
    pieces.task.labels, pieces.criterion.post_process = "ltr", "letter"
    assert pieces == letters


def test_recipes_for_fine_tuning_are_found_with_their_overlays(capsys):
    assert main(["configs", "finetune"]) == 0
    folder = Path(capsys.readouterr().out.strip())
    assert (folder / "ctc_letters.yaml").is_file() and folder == find_recipes("finetune")
    overlays = {file.name: file.read_text() for file in (find_recipes() / "machine").glob("*.yaml")}
    assert set(overlays) == {"cpu.yaml", "gpu1.yaml", "gpu4.yaml"}
    assert overlays == {file.name: file.read_text() for file in (folder / "machine").glob("*.yaml")}
