"""Masking distillation: which frames are masked, and what masked and other frames are compared with."""

import numpy as np
import pytest
import torch

from fairseq_distill import load_encoder
from fairseq_distill.distillation.masking import sample_mask
from fairseq_distill.distillation.teacher import Teacher
from fairseq_distill.distillation.unit_prediction import UnitTargets
from fairseq_distill.models.speech_student import SpeechStudent, SpeechStudentConfig

from ..builders import SMALL, build_dictionary, make_waves, save_teacher


def test_masked_frames_see_the_whole_teacher_and_the_others_the_masked_one(tmp_path):
    path = save_teacher(tmp_path / "teacher.pt")
    encoder = load_encoder(path)
    waves, padding_mask = make_waves(padded=True)
    with torch.no_grad():
        whole = encoder(waves, padding_mask=padding_mask)
        indices = torch.rand(whole.features.shape[:2], generator=torch.Generator().manual_seed(0)) < 0.4
        masked = encoder.encode(waves, padding_mask, mask_indices=indices)
    targets = Teacher([path], [["f"], [1, 3]]).compute_targets(waves, padding_mask, indices)
    assert indices.any() and not indices.all()
    for target, of_whole, of_masked in (
        (targets.hidden[0], whole.features, masked.features),
        (targets.hidden[1], (whole.hidden[1] + whole.hidden[3]) / 2, (masked.hidden[1] + masked.hidden[3]) / 2),
    ):
        torch.testing.assert_close(target[indices], of_whole[indices])
        torch.testing.assert_close(target[~indices], of_masked[~indices])
    assert (whole.hidden[3] - masked.hidden[3]).abs().max() > 0.01


def test_masks_follow_the_settings_and_spare_padding():
    cfg = SpeechStudentConfig(**{**SMALL, "mask_prob": 0.5, "mask_length": 3})
    student = SpeechStudent(cfg)
    waves, padding_mask = make_waves(padded=True)
    frames = student.encode(waves, padding_mask).padding_mask
    generator = np.random.default_rng(0)
    drawn = torch.stack([sample_mask(student, waves, padding_mask, generator) for _ in range(50)])
    assert drawn.shape[1:] == frames.shape and frames.any()
    assert not drawn[:, frames].any(), "a padded frame was masked"
    share = drawn[:, ~frames].float().mean()
    assert 0.2 < share < 0.6 and not torch.equal(drawn[0], drawn[1])
    student.cfg.mask_prob = 0.1
    fewer = torch.stack([sample_mask(student, waves, padding_mask, generator) for _ in range(50)])
    assert fewer[:, ~frames].float().mean() < share


def test_student_predicts_from_masked_frames():
    cfg = SpeechStudentConfig(**SMALL, prediction_groups="[[1]]", prediction_layers="[[1]]", prediction_dim=8)
    student = SpeechStudent(cfg).eval()
    waves, _ = make_waves()
    indices = sample_mask(student, waves)
    with torch.no_grad():
        plain = student(waves, predict=True).states
        masked = student(waves, predict=True, mask_indices=indices).states
        features = student.encode(waves, mask_indices=indices).hidden[1]
    assert (plain.predictions[0] - masked.predictions[0]).abs().max() > 1e-3
    torch.testing.assert_close(masked.hidden[0], features)
    student.freeze_unreached()
    assert not student.mask_emb.requires_grad
    student.freeze_unreached(masked=True)
    assert student.mask_emb.requires_grad


@pytest.mark.parametrize("own", [True, False])
def test_masks_follow_from_the_seed(own):
    """From a generator, or else from torch's, which fairseq seeds for each update; NumPy's matters for neither."""
    student = SpeechStudent(SpeechStudentConfig(**{**SMALL, "mask_prob": 0.5, "mask_length": 3}))
    waves, _ = make_waves()
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        np.random.seed()
        state = np.random.get_state()[1].copy()
        drawn.append(sample_mask(student, waves, None, np.random.default_rng(seed) if own else None))
        assert np.array_equal(np.random.get_state()[1], state)
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0][0], drawn[0][1])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("samples", [440, 480, 800, 1400])
def test_short_waves_are_masked_in_part(samples, seed):
    """1 frame: nothing; up to 24, spans of 10 that cover 80 % would leave none, where fairseq's main branch stops."""
    student = SpeechStudent(SpeechStudentConfig(**{**SMALL, "mask_prob": 0.8, "mask_length": 10}))
    frames = student.encode(torch.randn(1, samples)).features.size(1)
    mask = sample_mask(student, torch.randn(3, samples), None, np.random.default_rng(seed))
    assert mask.shape == (3, frames) and not mask.all(1).any()
    if frames > 3:
        assert mask.any(1).all()


def test_masked_prediction_of_short_waves_has_those_masks_too():
    cfg = SpeechStudentConfig(**{**SMALL, "mask_prob": 0.8, "mask_length": 10, "label_rate": 400.0})
    student = SpeechStudent(cfg, dictionaries=[build_dictionary()])
    frames = student.encode(torch.randn(1, 800)).features.size(1)
    units = torch.full((2, frames), 5)
    for seed in range(5):
        torch.manual_seed(seed)
        out = student(torch.randn(2, 800), torch.zeros(2, 800, dtype=torch.bool), target_list=[units])
        assert 0 < len(out["logit_m_list"][0]) < 2 * frames


def count_calls(encoder, monkeypatch):
    """A list that grows with every pass through the encoder's convolutions."""
    calls, stock = [], encoder.forward_features
    monkeypatch.setattr(encoder, "forward_features", lambda *waves: calls.append(1) or stock(*waves))
    return calls


def test_two_passes_through_the_layers_share_the_convolutions(tmp_path, monkeypatch):
    teacher = Teacher([save_teacher(tmp_path / "teacher.pt")], [[1], [3]])
    settings = {**SMALL, "prediction_groups": "[[3]]", "prediction_layers": "[[3]]", "prediction_dim": 48}
    student = SpeechStudent(SpeechStudentConfig(**settings), dictionaries=[build_dictionary()])
    waves, _ = make_waves()
    mask = sample_mask(student, waves)
    calls = count_calls(teacher.encoders[0], monkeypatch)
    teacher.compute_targets(waves, mask_indices=mask)
    assert len(calls) == 1
    calls = count_calls(student, monkeypatch)
    scores = student.predict(waves, units=UnitTargets(torch.full(mask.shape, 5), mask, 1)).unit_scores
    assert len(calls) == 1 and scores.count == mask.sum()
