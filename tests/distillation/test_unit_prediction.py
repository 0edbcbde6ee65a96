"""Masked prediction of units beside features, against stock fairseq's HuBERT and criterion."""

from types import SimpleNamespace

import pytest
import torch
from fairseq.criterions.hubert_criterion import HubertCriterion
from fairseq.models.hubert import hubert

from fairseq_distill.distillation.unit_prediction import UnitTargets, predict_units
from fairseq_distill.encoder.config import EncoderConfig
from fairseq_distill.encoder.model import SpeechEncoder

from ..builders import SMALL, build_dictionary, build_stock_hubert, make_waves

PAD = build_dictionary().pad()


def build_both(**settings):
    """Stock HuBERT, and ours with its weights."""
    stock = build_stock_hubert(**settings)
    ours = SpeechEncoder(EncoderConfig(label_rate=400.0, **{**SMALL, **settings}), dictionaries=[build_dictionary()])
    ours.load_state_dict(stock.state_dict(), strict=False)
    return stock, ours.eval()


def draw(encoder, waves, seed=0):
    """(units, frames to mask), each (batch, frames)."""
    generator = torch.Generator().manual_seed(seed)
    shape = encoder.encode(waves).features.shape[:2]
    return torch.randint(4, 16, shape, generator=generator), torch.rand(shape, generator=generator) < 0.5


@pytest.mark.parametrize(
    "settings", [{}, {"target_glu": True}, {"layer_norm_first": True}], ids=["hubert", "glu", "pre-norm"]
)
@pytest.mark.parametrize("padded", [False, True])
def test_loss_and_accuracy_are_stock_fairseqs(monkeypatch, settings, padded):
    stock, ours = build_both(**settings)
    waves, padding_mask = make_waves(padded=padded)
    units, mask = draw(ours, waves)
    monkeypatch.setattr(hubert, "compute_mask_indices", lambda *args, **kwargs: mask.numpy())
    given = torch.zeros_like(waves, dtype=torch.bool) if padding_mask is None else padding_mask
    sample = {"net_input": {"source": waves, "padding_mask": given}, "target_list": [units], "id": torch.arange(3)}
    criterion = HubertCriterion(SimpleNamespace(), pred_masked_weight=1.0, pred_nomask_weight=0.0, loss_weights=[0.0])
    stock.forward = lambda target_list, source, padding_mask: hubert.HubertModel.forward(
        stock, source, target_list, padding_mask
    )
    with torch.no_grad():
        loss, count, logs = criterion(stock, sample)
        scores = predict_units(ours, ours.compute_features(waves, padding_mask), UnitTargets(units, mask, PAD))
    assert int(scores.count) == count > 20
    assert float(scores.loss) == pytest.approx(float(loss) / count, rel=1e-5)
    assert int(scores.correct) == logs["correct_m_0"] > 0


def test_frames_without_a_unit_do_not_count():
    _, ours = build_both()
    waves, _ = make_waves()
    units, mask = draw(ours, waves)
    with torch.no_grad():
        whole = predict_units(ours, ours.compute_features(waves[:1]), UnitTargets(units[:1], mask[:1], PAD))
        units[1:] = PAD
        together = predict_units(ours, ours.compute_features(waves), UnitTargets(units, mask, PAD))
        none = predict_units(ours, ours.compute_features(waves), UnitTargets(torch.full_like(units, PAD), mask, PAD))
    assert int(together.count) == int(whole.count) == int(mask[:1].sum())
    torch.testing.assert_close(together.loss, whole.loss)
    assert float(none.loss) == 0 and int(none.count) == 0


def test_gradients_reach_the_mask_embedding_and_the_units():
    _, ours = build_both()
    waves, _ = make_waves()
    units, mask = draw(ours, waves)
    predict_units(ours, ours.compute_features(waves), UnitTargets(units, mask, PAD)).loss.backward()
    for parameter in (
        ours.mask_emb,
        ours.label_embs_concat,
        ours.final_proj.weight,
        ours.encoder.layers[-1].fc2.weight,
    ):
        assert parameter.grad.abs().max() > 0
