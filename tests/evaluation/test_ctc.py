"""Greedy decoding and error rates by hand, and a student that the recipe fine-tunes, beside fairseq's own criterion."""

import json
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from fairseq import checkpoint_utils
from fairseq.data import Dictionary
from omegaconf import OmegaConf

from fairseq_distill.checkpoints.reading import read_checkpoint
from fairseq_distill.checkpoints.saving import save_pruned
from fairseq_distill.cli.configs import find_recipes
from fairseq_distill.cli.main import main
from fairseq_distill.errors import UserError
from fairseq_distill.evaluation.ctc import Recogniser, Utterance, choose_examples, decode, join_tokens, load_recogniser
from fairseq_distill.pruning.surgery import PrunedEncoder

from ..builders import write_data, write_teacher
from ..checkpoints import layouts
from ..runs import command, run

WORDS = ["ON", "NO", "ONE", "NONE"]


def count_edits(found, wanted):
    """Levenshtein's distance by the textbook's table."""
    table = np.zeros((len(found) + 1, len(wanted) + 1), dtype=int)
    table[:, 0], table[0] = np.arange(len(found) + 1), np.arange(len(wanted) + 1)
    for i, a in enumerate(found, start=1):
        for j, b in enumerate(wanted, start=1):
            table[i, j] = min(table[i - 1, j] + 1, table[i, j - 1] + 1, table[i - 1, j - 1] + (a != b))
    return table[-1, -1]


def make_recogniser(units, best, normalize=False):
    """A recogniser whose model finds the symbols `best`, one a frame, whatever it hears, and keeps what it heard."""
    dictionary = Dictionary()
    for unit in units:
        dictionary.add_symbol(unit)
    scores = torch.full((len(best), 1, len(dictionary)), -5.0)
    for frame, symbol in enumerate(best):
        scores[frame, 0, dictionary.index(symbol)] = -0.1

    class Model(torch.nn.Module):
        def forward(self, source, padding_mask):
            self.heard = source
            return scores

        def get_normalized_probs(self, out, log_probs):
            return out

    return Recogniser(Model(), dictionary, dictionary.index("<s>"), normalize, 16_000, 400, "ltr")


@pytest.mark.parametrize(
    "best, units",
    [
        (["<s>", "O", "O", "<s>", "N", "|"], "O N |"),
        (["N", "<s>", "N", "N", "O", "O"], "N N O"),  # a blank between makes two of it
        (["<s>", "<s>"], ""),
        (["N", "O", "N", "O"], "N O N O"),
    ],
)
def test_repeats_collapse_and_blanks_go(best, units):
    assert decode(make_recogniser("NO|", best), torch.zeros(500)) == units


def test_waves_are_normalised_where_training_did():
    wave = 3 + 2 * torch.randn(1000)
    plain, normalised = make_recogniser("N|", ["N"]), make_recogniser("N|", ["N"], normalize=True)
    decode(plain, wave), decode(normalised, wave)
    assert torch.equal(plain.model.heard[0], wave)
    expected = (wave - wave.mean()) / wave.std(unbiased=False)
    torch.testing.assert_close(normalised.model.heard[0], expected, atol=1e-4, rtol=0)


def test_tokens_become_words():
    assert join_tokens(["T H E | C A T |", "| A | |", ""], "x") == ["THE CAT", "A", ""]
    assert join_tokens(["\u2581THE \u2581C A T", "\u2581 A"], "x") == ["THE CAT", "A"]
    assert join_tokens(["A"], "x", symbols=["<s>", "A", "\u2581B"]) == ["A"]
    with pytest.raises(UserError, match="x has neither letters with | .* nor pieces"):
        join_tokens(["AH0 B"], "x")


def test_errors_of_an_utterance():
    utterance = Utterance("a.wav", "THE CAT SAT", "A CAT SAT ON")
    assert (utterance.words, utterance.word_errors) == (3, 2)
    assert (utterance.characters, utterance.character_errors) == (11, count_edits("A CAT SAT ON", "THE CAT SAT"))
    assert Utterance("b.wav", "NO", "").word_errors == 1


def test_worst_are_by_rate_and_random_ones_repeat():
    utterances = [Utterance(str(n), "A B C D", " ".join("ABCD"[:n])) for n in (4, 0, 3, 1, 2)]
    examples = choose_examples(utterances, 2)
    assert [example["path"] for example in examples["worst"]] == ["0", "1"]
    assert examples == choose_examples(utterances, 2) and len(examples["random"]) == 2
    assert len(choose_examples(utterances, 9)["random"]) == 5


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


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """(checkpoint, data) of a student that ctc_letters fine-tunes for a few updates; its own file is deleted."""
    folder = tmp_path_factory.mktemp("ctc")
    data = write_letters(folder / "data")
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
        "optimization.max_update": 6,
        "optimization.update_freq": "[1]",
        "optimization.lr": "[0.003]",
        "common.log_interval": 1,
        "common.tensorboard_logdir": "null",
        "hydra.run.dir": folder / "run",
    }
    _, logs = run(command(find_recipes("finetune"), "ctc_letters", settings))
    assert [name for name, _ in logs].count("train_inner") == 6 and any("valid_wer" in values for _, values in logs)
    (folder / "student.pt").unlink()
    (data / "dict.ltr.txt").unlink()  # the checkpoint has its own
    return folder / "run" / "checkpoints" / "checkpoint_last.pt", data


def test_the_recipe_makes_a_model_that_is_recognised_with(tuned, capsys):
    checkpoint, data = tuned
    assert read_checkpoint(checkpoint).name == "speech_student"
    options = ["evaluate", "ctc", str(checkpoint), "--data", str(data), "--split", "valid", "--show", "2"]
    assert main([*options, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["utterances"] == 8 and result["labels"] == "ltr"
    assert result["skipped"] == {"unreadable": 0, "unlabelled": 0}
    for rate in ("wer", "cer"):
        low, high = result[f"{rate}_interval"]
        assert 0 < low <= result[rate] <= high
    assert len(result["worst"]) == len(result["random"]) == 2
    assert main(options) == 0
    table = capsys.readouterr().out
    assert "WER  " in table and "CER  " in table and table.count("  said  ") == 4 and "errors in" in table


def test_words_are_those_that_fairseqs_criterion_counts(tuned, capsys):
    checkpoint, data = tuned
    (model,), cfg, task = checkpoint_utils.load_model_ensemble_and_task([str(checkpoint)], {"data": str(data)})
    criterion = task.build_criterion(cfg.criterion)
    task.load_dataset("valid")
    dataset = task.dataset("valid")
    criterion.eval(), model.eval()
    totals = {"w_errors": 0, "w_total": 0}
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


def test_pieces_are_compared_as_words(tuned, tmp_path, capsys):
    """References in pieces are the same words as in letters."""
    checkpoint, data = tuned
    lines = (data / "valid.ltr").read_text().splitlines()
    texts = [" ".join(line.replace(" ", "").replace("|", " ").split()) for line in lines]
    pieces = [" ".join("\u2581" + word[:1] + " " + word[1:] for word in text.split()) for text in texts]
    (data / "valid.spm").write_text("".join(f"{line}\n" for line in pieces), encoding="utf-8")
    results = []
    options = ["evaluate", "ctc", str(checkpoint), "--data", str(data), "--split", "valid", "--json"]
    for labels in ("ltr", "spm"):
        assert main([*options, "--labels", labels]) == 0
        results.append(json.loads(capsys.readouterr().out))
    (data / "valid.spm").unlink()
    same = ("words", "word_errors", "characters", "character_errors", "wer_interval")
    assert [results[0][key] for key in same] == [results[1][key] for key in same] and results[1]["labels"] == "spm"


@pytest.mark.parametrize("kind", ["wav2vec_ctc", "hubert_ctc", "hubert_ctc of audio_finetuning"])
def test_stock_models_are_opened(kind, tmp_path):
    """wav2vec 2.0 and HuBERT as fairseq fine-tunes them; a HuBERT of the recipe has no dictionary of pre-training."""
    path = tmp_path / "stock.pt"
    if kind == "wav2vec_ctc":
        layouts.write_wav2vec_ctc(path, layouts.build_wav2vec2())
    else:
        layouts.write_hubert_ctc(path, layouts.build_hubert(), normalize=True)
    state = torch.load(path, weights_only=False)
    if kind.endswith("audio_finetuning"):
        state["cfg"]["task"] = {"_name": "audio_finetuning", "data": "/nowhere", "labels": "ltr", "normalize": True}
        state["task_state"].pop("dictionaries")
        torch.save(state, path)
    recogniser = load_recogniser(path, tmp_path)
    assert len(recogniser.dictionary) == 13 and recogniser.blank == 0
    assert recogniser.normalize == kind.startswith("hubert") and not recogniser.model.training
    for name, value in recogniser.model.state_dict().items():
        assert torch.equal(value, state["model"][name]), name
    assert recogniser.shortest == 10 + 2 * 5 + 2 * 10 + 1 * 20
    decode(recogniser, torch.randn(recogniser.shortest))


def test_checkpoints_that_recognise_nothing_are_refused(tuned, tmp_path):
    _, data = tuned
    teacher = write_teacher(tmp_path)
    with pytest.raises(UserError, match="teacher.pt is the model hubert of the task hubert_pretraining, but evaluate"):
        load_recogniser(teacher, data)
    old = {"args": Namespace(arch="wav2vec_ctc", task="audio_pretraining", labels="ltr"), "model": {}}
    torch.save(old, tmp_path / "old.pt")
    with pytest.raises(UserError, match="old.pt is the model wav2vec_ctc of the task audio_pretraining, but"):
        load_recogniser(tmp_path / "old.pt", data)
    state = torch.load(tuned[0], weights_only=False)
    state["task_state"] = {}
    torch.save(state, tmp_path / "bare.pt")
    with pytest.raises(UserError, match="bare.pt has no dictionary inside, and there is no .*dict.ltr.txt"):
        load_recogniser(tmp_path / "bare.pt", data)
    (tmp_path / "dict.ltr.txt").write_text("".join(f"{letter} 1\n" for letter in "ENO|"))
    assert len(load_recogniser(tmp_path / "bare.pt", tmp_path).dictionary) == 8


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
