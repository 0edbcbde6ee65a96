"""Trial lists in VoxCeleb's and Kaldi's form, and a sentence for what does not fit."""

import numpy as np
import pytest

from fairseq_distill.data.manifest import Manifest
from fairseq_distill.errors import UserError
from fairseq_distill.evaluation.trials import Trials, check_speakers, pair_all, read_trials
from fairseq_distill.evaluation.verification import score_pairs, score_trials

PATHS = ["id1/x/1.wav", "id1/y/2.wav", "id2/z/1.wav"]
MANIFEST = Manifest("test.tsv", "/audio", PATHS, [16_000] * 3)


def write(tmp_path, *lines):
    path = tmp_path / "test.trials"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


@pytest.mark.parametrize(
    "lines",
    [
        ("1 id1/y/2.wav id1/x/1.wav", "0 id2/z/1.wav id1/x/1.wav"),
        ("id1/y/2.wav id1/x/1.wav target", "id2/z/1.wav\tid1/x/1.wav  nontarget"),
    ],
)
def test_both_forms(tmp_path, lines):
    trials = read_trials(write(tmp_path, *lines), MANIFEST)
    assert trials.enrol.tolist() == [1, 2] and trials.test.tolist() == [0, 0]
    assert trials.same.tolist() == [True, False] and trials.count() == (1, 1)


@pytest.mark.parametrize(
    "lines, message",
    [
        (("2 id1/x/1.wav id1/y/2.wav",), "line 1: expected '1 PATH PATH' or '0 PATH PATH', 'PATH PATH target'"),
        (("id1/x/1.wav id1/y/2.wav",), "line 1: expected"),
        (("1 id1/x/1.wav id1/y/2.wav", "id1/x/1.wav id1/y/2.wav target"), "line 2: expected '1 PATH PATH' or '0"),
        (("id1/x/1.wav id1/y/2.wav target", "id1/x/1.wav id1/y/2.wav 0"), "line 2: expected 'PATH PATH target' or"),
        (("0 id1/x/1.wav id2/z/1.wav", "1 a.wav b.wav", "0 a.wav id1/x/1.wav"), "2 of its paths, in 2 of its 3 trials"),
        (("1 a.wav id1/x/1.wav",), "a.wav; paths must be written as they stand there, such as id1/x/1.wav, which"),
        ((), "holds no trial"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, lines, message):
    with pytest.raises(UserError, match="test.trials") as error:
        read_trials(write(tmp_path, *lines), MANIFEST)
    assert message in str(error.value)


def test_a_missing_list_and_one_that_is_no_text(tmp_path):
    with pytest.raises(UserError, match="cannot read the trials .*none: No such file"):
        read_trials(tmp_path / "none", MANIFEST)
    (tmp_path / "list").write_bytes(b"1 \xff\xfe a")
    with pytest.raises(UserError, match="not UTF-8"):
        read_trials(tmp_path / "list", MANIFEST)


def test_rows_that_are_kept_are_numbered_anew():
    trials = Trials(np.array([0, 4, 2, 5]), np.array([2, 5, 3, 0]), np.array([True, False, False, True]))
    kept = trials.keep([0, 2, 5, 9])
    assert kept.enrol.tolist() == [0, 2] and kept.test.tolist() == [1, 0] and kept.same.tolist() == [True, True]
    assert trials.keep([]).count() == (0, 0)


def test_labels_that_contradict_the_list():
    trials = Trials(np.array([0, 0, 1]), np.array([1, 2, 2]), np.array([True, False, False]))
    check_speakers("t", trials, ["a", "a", "b"])
    check_speakers("t", trials, ["a", "", ""])  # unknown speakers contradict nothing
    with pytest.raises(UserError, match="contradict in 1 of 3 trials: in number 3 it says different .* say b and b"):
        check_speakers("t", Trials(trials.enrol, trials.test, np.array([False, False, False])), ["a", "b", "b"])


def test_scores_are_those_of_all_pairs():
    speakers = ["a", "b", "a", "c", "b"]
    embeddings = np.random.default_rng(0).standard_normal((5, 7))
    scores, same = score_pairs(embeddings, speakers)
    trials = pair_all(speakers)
    np.testing.assert_allclose(score_trials(embeddings, trials), scores, atol=1e-12)
    assert trials.same.tolist() == same.tolist()
    backwards = Trials(trials.test[::-1], trials.enrol[::-1], trials.same[::-1])
    np.testing.assert_allclose(score_trials(embeddings, backwards), scores[::-1], atol=1e-12)
