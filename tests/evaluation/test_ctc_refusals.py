"""Files that `evaluate ctc` cannot use, each named with the way out; and what it leaves out, counted."""

import json
from argparse import Namespace

import numpy as np
import pytest
import soundfile
import torch

from fairseq_distill.cli.main import main
from fairseq_distill.errors import UserError
from fairseq_distill.evaluation.ctc import evaluate_ctc, load_recogniser

from ..builders import write_data
from ..checkpoints import layouts
from ..checkpoints.ctc_layouts import FineTuned, make_dictionary

SYMBOLS = [*"ENO|"]


@pytest.fixture(scope="module")
def tuned():
    return FineTuned("wav2vec2", SYMBOLS, task="audio_pretraining")


@pytest.fixture()
def data(tmp_path):
    """Three waves, the second without a transcript."""
    write_data(tmp_path, lengths=(4000, 4100, 4200), copies=1, splits=("test",))
    (tmp_path / "test.ltr").write_text("O N |\n\nN O |\n")
    return tmp_path


def change(path, **entries):
    """Rewrite a checkpoint with other entries."""
    torch.save({**torch.load(path, weights_only=False), **entries}, path)
    return path


def test_sequence_to_sequence_is_refused_by_its_name(tmp_path):
    weights = {"encoder.w2v_model.mask_emb": torch.zeros(3), "decoder.embed_tokens.weight": torch.zeros(3, 3)}
    for args in (Namespace(arch="wav2vec_seq2seq", task="audio_pretraining"), Namespace(arch="hubert_seq2seq")):
        path = layouts.write_fairseq(tmp_path / "s.pt", weights, args=args)
        with pytest.raises(UserError, match=f"s.pt is the model {args.arch}: its decoder writes.*fine-tuned by CTC"):
            load_recogniser(path, tmp_path)


@pytest.mark.parametrize("content", [{"model": {}}, {"model": 3}, [1], {"cfg": {"a": 1}, "model": {}}])
def test_files_without_a_fine_tuned_model_are_refused(content, tmp_path):
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(UserError, match="x.pt is the model without a name: it has no output layer"):
        load_recogniser(tmp_path / "x.pt", tmp_path)


def test_other_criterions_are_refused_by_their_name(tuned, tmp_path):
    path = tuned.write_hydra(tmp_path / "a.pt", criterion="cross_entropy")
    with pytest.raises(UserError, match="a.pt was trained by the criterion cross_entropy: .* trained by ctc"):
        load_recogniser(path, tmp_path)
    load_recogniser(tuned.write_hydra(tmp_path / "a.pt", criterion="ctc_of_my_own"), tmp_path)
    path = tuned.write_argparse(tmp_path / "b.pt")
    args = torch.load(path, weights_only=False)["args"]
    args.criterion = "model"
    with pytest.raises(UserError, match="b.pt was trained by the criterion model"):
        load_recogniser(change(path, args=args), tmp_path)


def test_weights_that_are_not_computed_are_refused_by_their_name(tuned, tmp_path):
    weights = {**tuned.network.state_dict(), "w2v_encoder.lstm.weight": torch.zeros(2)}
    path = change(tuned.write_hydra(tmp_path / "a.pt"), model=weights)
    with pytest.raises(UserError, match="a.pt is the model wav2vec_ctc, with weights .*: w2v_encoder.lstm.weight"):
        load_recogniser(path, tmp_path)
    weights.pop("w2v_encoder.lstm.weight")
    weights["w2v_encoder.proj.weight"] = torch.zeros(8, 3)
    with pytest.raises(UserError, match=r"a.pt: its output layer .* \(tokens, 48\) and a bias, but has .*\(8, 3\)"):
        load_recogniser(change(path, model=weights), tmp_path)


@pytest.mark.parametrize("settings", [{"blank_weight": 1.0, "blank_mode": "mul"}, {"blank_weight": "1"}])
def test_weights_of_the_blank_that_fairseq_refuses(settings, tuned, tmp_path):
    with pytest.raises(UserError, match="a.pt: model.blank_weight=1.* is not a number with add or set"):
        load_recogniser(tuned.write_hydra(tmp_path / "a.pt", **settings), tmp_path)


def test_dictionaries_of_another_size_are_refused(tuned, tmp_path):
    path = tuned.write_argparse(tmp_path / "a.pt")
    with pytest.raises(
        UserError, match="a.pt has no dictionary inside, and there is no .*dict.ltr.txt: .* give --dict"
    ):
        load_recogniser(path, tmp_path)
    make_dictionary([*"ENOT|"]).save(str(tmp_path / "dict.ltr.txt"))
    with pytest.raises(UserError, match="dictionary in .*dict.ltr.txt has 9 tokens, .* but .*a.pt scores 8: .*--dict"):
        load_recogniser(path, tmp_path)
    tuned.dictionary.save(str(tmp_path / "mine.txt"))
    assert load_recogniser(path, tmp_path, dictionary=tmp_path / "mine.txt").dictionary.symbols[4:] == SYMBOLS
    inside = tuned.write_hydra(tmp_path / "b.pt")
    other = make_dictionary([*"abcd"])
    other.save(str(tmp_path / "other.txt"))  # what is given goes before what is inside
    assert load_recogniser(inside, tmp_path, dictionary=tmp_path / "other.txt").dictionary.symbols[4:] == [*"abcd"]
    with pytest.raises(UserError, match=r"the dictionary in .*b.pt \(task_state\) has 9 tokens"):
        load_recogniser(change(inside, task_state={"target_dictionary": make_dictionary("ENOT|")}), tmp_path)


def test_labels_are_given_where_the_file_has_none(tuned, data):
    path = tuned.write_hydra(data / "a.pt")
    cfg = torch.load(path, weights_only=False)["cfg"]
    cfg["task"].pop("labels")
    change(path, cfg=cfg)
    with pytest.raises(UserError, match=r"a.pt does not say what labels it was trained on .* --labels"):
        evaluate_ctc(path, data)
    assert evaluate_ctc(path, data, labels="ltr")["labels"] == "ltr"


def test_transcripts_that_have_no_rate_are_refused(tuned, data):
    path = tuned.write_hydra(data / "a.pt")
    (data / "test.none").write_text("\n \n\n")
    with pytest.raises(UserError, match="test.none is empty: without references there is no error rate"):
        evaluate_ctc(path, data, labels="none")
    (data / "test.phn").write_text("sil ah\n\nsil\n")
    with pytest.raises(UserError, match=r"no token of .*test.phn is in the dictionary of .*a.pt \(E N O \| ...\)"):
        evaluate_ctc(path, data, labels="phn")
    with pytest.raises(UserError, match=r"cannot read the labels .*test.xyz: .*\(--labels chooses the ending\)"):
        evaluate_ctc(path, data, labels="xyz")
    (data / "test.one").write_text("O |\n\n\n")
    first = data / "audio" / "test0.flac"
    soundfile.write(first, np.zeros(4000), 16_000)
    with pytest.raises(UserError, match="1 of 3 files cannot be used, the first: test0.flac"):
        evaluate_ctc(path, data, labels="one")


def test_what_is_left_out_is_counted(tuned, data, capsys, caplog):
    """A wave too short for the convolutions, an empty line, letters that the dictionary has not."""
    path = tuned.write_hydra(data / "a.pt")
    rows = (data / "test.tsv").read_text().splitlines()
    (data / "test.tsv").write_text("\n".join([*rows, "short.flac\t30"]) + "\n")
    soundfile.write(data / "audio" / "short.flac", np.random.default_rng(1).standard_normal(30) / 10, 16_000)
    (data / "test.ltr").write_text("O N |\n\nN O T |\nE |\n")
    assert main(["evaluate", "ctc", str(path), "--data", str(data), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["skipped"] == {"unreadable": 1, "unlabelled": 1} and result["utterances"] == 2
    assert (result["units"], result["unknown_units"], result["words"]) == (7, 1, 2)
    assert main(["evaluate", "ctc", str(path), "--data", str(data), "--show", "1"]) == 0
    printed = capsys.readouterr().out
    assert "1 letters are not in the model's dictionary" in printed and "1 unreadable, 1 unlabelled" in printed
    assert "short.flac (it holds 30 samples, at least" in caplog.text
