"""Layers that reuse the attention map of the layer before them: against plain torch, with dropout, gates and size."""

from dataclasses import replace

import pytest
import torch
from fairseq import checkpoint_utils

from fairseq_distill import load_encoder
from fairseq_distill.cli.info import describe
from fairseq_distill.encoder import attention, transformer
from fairseq_distill.encoder.attention import AttentionInput
from fairseq_distill.encoder.config import EncoderConfig
from fairseq_distill.encoder.model import SpeechEncoder
from fairseq_distill.encoder.size import count_parameters, count_size
from fairseq_distill.errors import UserError
from fairseq_distill.models.speech_student import SpeechStudent, SpeechStudentConfig
from fairseq_distill.pruning.expected_size import ExpectedSize
from fairseq_distill.pruning.gates import Gates, add_gates
from fairseq_distill.pruning.surgery import prune_encoder

from ..builders import KINDS, SMALL, TINY, build_encoder, build_gated, make_waves, randomize, spread_gates
from .plain_layers import run_plain

FIVE = dict(encoder_layers=5, reuse_attention=[2, 3, 5])  # 2 and 3 take over 1's map, 5 takes over 4's
POST_AND_PRE_NORM = ["hubert", "large", "wavlm", "wavlm large"]


@pytest.mark.parametrize("kind", POST_AND_PRE_NORM)
@torch.no_grad()
def test_hidden_states_are_those_of_plain_torch(kind):
    encoder = build_encoder(**FIVE, **KINDS[kind])
    names = {name.split(".")[4] for name in encoder.state_dict() if name.startswith("encoder.layers.2.self_attn.")}
    assert names == {"v_proj", "out_proj"}
    waves, mask = make_waves(samples=1600, padded=True)
    out = encoder(waves, padding_mask=mask)
    plain = run_plain(encoder, out.hidden[0], out.padding_mask)
    valid = ~out.padding_mask
    for ours, expected in zip(out.hidden, plain.hidden):
        torch.testing.assert_close(ours[valid], expected[valid], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("recompute", [False, True], ids=["", "checkpoint_activations"])
def test_gradients_reach_the_layer_that_computed_the_map(recompute):
    encoder = build_encoder(
        **FIVE, checkpoint_activations=recompute, dropout_input=0.0, dropout_features=0.0, activation_dropout=0.0
    )
    waves, _ = make_waves(samples=1000)
    hidden = encoder.train()(waves).hidden
    names, parameters = zip(*encoder.encoder.layers.named_parameters())
    ours = torch.autograd.grad(hidden[-1].pow(3).sum(), parameters)
    expected = torch.autograd.grad(run_plain(encoder, hidden[0].detach()).hidden[-1].pow(3).sum(), parameters)
    for name, one, other in zip(names, ours, expected):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3 * float(other.abs().max()) + 1e-4, msg=name)


@torch.no_grad()
def test_dropout_acts_where_the_map_is_computed_only():
    encoder = build_encoder(**FIVE, attention_dropout=0.5)
    waves, _ = make_waves(samples=1500)
    hidden = encoder(waves).hidden
    expected = run_plain(encoder, hidden[0]).maps[0]
    encoder.train()
    computing, reusing = encoder.encoder.layers[0].self_attn, encoder.encoder.layers[1].self_attn
    outputs = [computing(hidden[0], AttentionInput(show_map=True)) for _ in range(2)]
    assert not torch.equal(outputs[0][0], outputs[1][0])
    for _, shown in outputs:  # handed on as it was before dropout
        torch.testing.assert_close(shown, expected, rtol=1e-4, atol=1e-6)
    given = AttentionInput(earlier_map=expected)
    assert torch.equal(reusing(hidden[1], given)[0], reusing(hidden[1], given)[0])


@torch.no_grad()
def test_a_map_is_only_made_where_another_layer_of_the_run_needs_it(monkeypatch):
    made = []
    real = attention.compute_map
    monkeypatch.setattr(attention, "compute_map", lambda *given: made.append(1) or real(*given))
    encoder = build_encoder(encoder_layers=6, reuse_attention=[3, 6])
    for layers, count in (([1, 2], 0), ([3], 1), ([5], 1), ([6], 2)):
        made.clear()
        encoder.encode(make_waves(samples=1500)[0], layers=layers)
        assert len(made) == count


@pytest.mark.parametrize(
    "draws, kept",
    [
        ([0.1, 0.9, 0.9, 0.9, 0.9], [4, 5]),
        ([0.9, 0.1, 0.9, 0.9, 0.1], [1, 3, 4]),
        ([0.9, 0.9, 0.9, 0.1, 0.9], [1, 2, 3]),
    ],
    ids=["1 dropped", "2 and 5 dropped", "4 dropped"],
)
@torch.no_grad()
def test_a_dropped_layer_takes_those_that_reuse_its_map_with_it(draws, kept, monkeypatch):
    encoder = build_encoder(**FIVE, encoder_layerdrop=0.5, activation_dropout=0.0)
    out = encoder(make_waves(samples=1500)[0])
    expected, earlier = out.hidden[0], None
    for number in kept:
        given = AttentionInput(earlier_map=earlier, show_map=True)
        expected, (earlier, _) = encoder.encoder.layers[number - 1](expected.transpose(0, 1), given)
        expected = expected.transpose(0, 1)
    monkeypatch.setattr(transformer.np.random, "random", iter(draws).__next__)
    torch.testing.assert_close(encoder.train().encoder(out.features)[0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "settings, sentence",
    [
        (dict(reuse_attention=[1]), "from 2 to encoder_layers=3"),
        (dict(reuse_attention=[2, 4]), "from 2 to encoder_layers=3"),
        (dict(reuse_attention=[2, 2]), "different layers"),
        (dict(reuse_attention=["2"]), "from 2"),
        (dict(reuse_attention=[3], layer_heads=[4, 4, 2]), "layer 3 has 2 heads and layer 2"),
        (dict(reuse_attention=[3], layer_heads=[4, 0, 0]), "at least 1"),
        (dict(time_reduction=0), "time_reduction=0"),
    ],
)
def test_impossible_settings_are_refused(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        EncoderConfig.from_settings({**SMALL, **settings}).check()


@pytest.mark.parametrize("unit", ["heads", "attention_layers"])
def test_gates_of_heads_are_refused(unit):
    encoder = build_encoder(reuse_attention=[2], prune=["conv", unit])
    with pytest.raises(UserError, match=f"leave {unit} out of model.prune"):
        add_gates(encoder)


@pytest.mark.parametrize("kind", POST_AND_PRE_NORM)
def test_pruning_convolutions_and_units_is_exact(kind):
    """The network that is cut computes the same, and its size is what the gates expect of the units that are left."""
    gated = build_gated(
        **{**KINDS[kind], "encoder_layers": 3},
        prune=["conv", "ffn", "ffn_layers"],
        reuse_attention=[2],
        time_reduction=2,
    )
    spread_gates(gated)
    small = cut(gated)
    assert small.cfg.reuse_attention == [2] and small.cfg.time_reduction == 2
    waves, mask = make_waves(batch=2, samples=1200, padded=True)
    with torch.no_grad():
        before, after = gated(waves, padding_mask=mask), small(waves, padding_mask=mask)
    valid = ~after.padding_mask
    assert 0 < valid.sum() < valid.numel() == 2 * (after.features.size(1) // 2)
    for one, other in zip(before.hidden + (before.x,), after.hidden + (after.x,)):
        assert (one - other)[valid].norm() < 1e-5 * one[valid].norm()
    with torch.no_grad():
        for log_alpha in gated.gates.parameters():  # every third gate closed, the others open
            log_alpha.copy_(torch.where(torch.arange(len(log_alpha)) % 3 == 1, -40.0, 40.0))
        expected = gated.gates.expect()
    small = cut(gated)
    for metric, size in (
        ("params", count_parameters(small)["encoder"]),
        ("macs", count_size(small.cfg).macs_per_second * 10),
    ):
        whole = ExpectedSize(gated.cfg, metric)
        assert float(whole(expected)) * whole.total == pytest.approx(size, rel=1e-6)
        assert size < whole.total


@pytest.mark.parametrize("kind", POST_AND_PRE_NORM)
def test_expected_size_knows_what_a_head_without_queries_costs(kind):
    settings = {**TINY, **KINDS[kind], "encoder_layers": 3, "reuse_attention": [2], "time_reduction": 2}
    whole = SpeechEncoder(EncoderConfig.from_settings(settings))
    fewer = SpeechEncoder(EncoderConfig.from_settings({**settings, "layer_heads": [2, 2, 1]}))
    expected = Gates(replace(whole.cfg, prune=["ffn"])).expect()
    expected.counts.update(ffn=torch.tensor([5.0] * 3), heads=torch.tensor([2.0, 2.0, 1.0]))
    expected.any.update(ffn=torch.ones(3))
    for metric, size in (
        ("params", count_parameters(fewer)["encoder"]),
        ("macs", count_size(fewer.cfg).macs_per_second * 10),
    ):
        size_of = ExpectedSize(whole.cfg, metric)
        assert float(size_of(expected)) * size_of.total == pytest.approx(size, rel=1e-6)


def cut(gated) -> SpeechEncoder:
    pruned = prune_encoder(gated)
    small = SpeechEncoder(pruned.config).eval()
    small.load_state_dict(pruned.weights)
    return small


def test_checkpoints_of_both_settings_open_here_and_in_fairseq(tmp_path):
    shape = {**TINY, "encoder_layers": 3, "reuse_attention": [3], "time_reduction": 2}
    student = randomize(SpeechStudent(SpeechStudentConfig(**shape)))
    state = {
        "args": None,
        "cfg": {
            "model": {**shape, "_name": "speech_student"},
            "task": {"_name": "speech_distillation", "data": "/nowhere", "teacher": "/nowhere.pt", "normalize": False},
        },
        "model": student.state_dict(),
        "optimizer_history": [{"optimizer_name": "none", "lr_scheduler_state": {}, "num_updates": 0}],
        "extra_state": {"train_iterator": {"epoch": 1}},
        "last_optimizer_state": None,
    }
    path = str(tmp_path / "student.pt")
    torch.save(state, path)
    waves, mask = make_waves(samples=2000, padded=True)
    (theirs,), _, _ = checkpoint_utils.load_model_ensemble_and_task([path])
    with torch.no_grad():
        expected, *others = (
            e.eval().encode(waves, padding_mask=mask, maps=[3]) for e in (student, load_encoder(path), theirs)
        )
    for found in others:
        assert torch.equal(found.x, expected.x) and torch.equal(found.maps[3], expected.maps[3])
    about = describe(path, seconds=1.0)
    assert about["frames_per_second"] == 400
    shapes = [part["shape"] for part in about["parts"]]
    assert "2 frames to 1" in shapes and "3 heads x 4 reused, 5 FFN neurons" in shapes
