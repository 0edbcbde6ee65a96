"""The gated forward, which scales weights, against one that multiplies activations, as papers write it."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fairseq.models.hubert import hubert

from fairseq_distill.encoder.config import EncoderConfig
from fairseq_distill.encoder.model import SpeechEncoder
from fairseq_distill.pruning.gates import Gates, add_gates

from ..builders import KINDS, PARTS, TINY, UNITS, build_dictionary, build_gated, make_waves, randomize, spread_gates
from .helpers import build_plain, by_layer, sigmoid


def normalise_open(norm, opened):
    """A forward hook: LayerNorm over the open channels alone; closed ones come out as 0."""

    def hook(module, inputs, output):
        x = inputs[0][..., opened]
        shape = (int(opened.sum()),)
        kept = F.layer_norm(x, shape, module.weight[opened], module.bias[opened], module.eps)
        return torch.zeros_like(output).index_copy(-1, opened.nonzero().flatten(), kept)

    norm.register_forward_hook(hook)


def gate_activations(encoder, values):
    """Hooks that multiply the activations of an encoder without gates by the gates `values`."""
    blocks = encoder.feature_extractor.conv_layers
    for index, block in enumerate(blocks):
        z = values.get(("conv", index))
        if z is None:
            continue
        if encoder.cfg.extractor_mode == "layer_norm":
            normalise_open(block.norm.norm, z > 0)
        if block is blocks[-1]:
            normalise_open(encoder.layer_norm, z > 0)
            encoder.post_extract_proj.register_forward_pre_hook(
                lambda module, inputs, z=z: (inputs[0] * z, *inputs[1:])
            )
        else:
            block.register_forward_hook(lambda module, inputs, output, z=z: output * z[:, None])
    for index, layer in enumerate(encoder.encoder.layers):
        heads, neurons = values.get(("heads", index)), values.get(("ffn", index))

        def gate_heads(module, inputs, z=heads):
            per_head = inputs[0].unflatten(-1, (len(z), -1))
            return ((per_head * z[:, None]).flatten(-2), *inputs[1:])

        if heads is not None:
            layer.self_attn.out_proj.register_forward_pre_hook(gate_heads)
        if neurons is not None:
            layer.fc2.register_forward_pre_hook(lambda module, inputs, z=neurons: (inputs[0] * z, *inputs[1:]))


def hold_sample(encoder, seed=7):
    """Draw a training sample once, and let every forward use it; returns the gates."""
    torch.manual_seed(seed)
    values = encoder.gates.train().draw()
    encoder.gates.draw = lambda: values
    return values


def assert_same_gradients(encoder, plain, ours, theirs, tolerance=1e-4):
    """Gradients of all weights, and of log_alpha through either encoder."""
    alphas = {f"gates.{name}": p for name, p in encoder.gates.named_parameters()}
    weights, own = dict(plain.named_parameters()), dict(encoder.named_parameters())
    one = torch.autograd.grad(
        ours, [*(own[n] for n in weights), *alphas.values()], allow_unused=True, retain_graph=True
    )
    other = torch.autograd.grad(theirs, [*weights.values(), *alphas.values()], allow_unused=True)
    reached = 0
    for name, a, b in zip([*weights, *alphas], one, other):
        assert (a is None) == (b is None), name
        if b is not None:
            assert (a - b).norm() <= tolerance * b.norm() + 1e-6, name
            reached += int(b.norm() > 0)
    assert reached > 0.8 * len(one), "hardly any gradient to compare"


@pytest.mark.parametrize("prune", [UNITS, PARTS, UNITS + PARTS, ["heads", "ffn_layers"]], ids="+".join)
@pytest.mark.parametrize("kind", KINDS)
def test_forward_and_gradients_equal_gated_activations(kind, prune):
    encoder = build_gated(**KINDS[kind], prune=prune).train()
    spread_gates(encoder)
    values = hold_sample(encoder)
    plain = build_plain(encoder).train()
    gate_activations(plain, values)
    gates = torch.cat([z.detach() for z in values.values()])
    assert 0 < gates.mean() < 1 and (prune == PARTS or (gates == 0).any())
    waves, mask = make_waves(samples=1200, padded=True)
    ours, theirs = encoder(waves, padding_mask=mask), plain(waves, padding_mask=mask)
    valid = ~ours.padding_mask
    for a, b in zip((*ours.hidden, ours.x, ours.features), (*theirs.hidden, theirs.x, theirs.features)):
        assert (a[valid] - b[valid]).norm() < 1e-5 * b[valid].norm()
    pairs = [(out.x[valid], out.features[valid]) for out in (ours, theirs)]
    losses = [(x**2).mean() + (x[:, 0] * features[:, 1]).mean() for x, features in pairs]
    assert_same_gradients(encoder, plain, *losses)


def test_gates_change_what_comes_out():
    """Against a comparison of two encoders that both ignore their gates."""
    encoder = build_gated(prune=UNITS + PARTS)
    waves, _ = make_waves(samples=1200)
    with torch.no_grad():
        for name, kind in encoder.gates.kinds.items():
            spread_gates(encoder, mean=10, std=0.1)
            before = encoder(waves).x
            assert (before - build_plain(encoder)(waves).x).norm() < 1e-2 * before.norm()
            kind.log_alpha[-1] = -20.0
            assert (encoder(waves).x - before).norm() > 1e-3 * before.norm(), name


def test_a_parts_gate_multiplies_its_units():
    encoder = build_gated(prune=UNITS + PARTS)
    spread_gates(encoder, mean=2.5, std=0.5)
    values, alphas = encoder.gates.draw(), by_layer(encoder)
    soft = {name: [[sigmoid(1.2 * a) for a in layer] for layer in layers] for name, layers in alphas.items()}
    for layer in range(2):
        heads = [z * soft["attention_layers"][layer][0] for z in soft["heads"][layer]]
        units = [z * soft["ffn_layers"][layer][0] for z in soft["ffn"][layer]]
        torch.testing.assert_close(values["heads", layer], torch.tensor(heads))
        torch.testing.assert_close(values["ffn", layer], torch.tensor(units))
    only_parts = build_gated(prune=PARTS).gates.draw()
    assert set(only_parts) == {(name, layer) for name in ("heads", "ffn") for layer in range(2)}
    assert [len(only_parts["heads", layer]) for layer in range(2)] == [3, 3]
    assert len(set(only_parts["ffn", 0].tolist())) == 1


def test_absent_parts_and_an_absent_projection_have_no_gates():
    encoder = build_gated(layer_heads=[0, 3], layer_ffn_dims=[5, 0], prune=UNITS + PARTS, **KINDS["no projection"])
    sizes = {name: kind.sizes for name, kind in encoder.gates.kinds.items()}
    parts = {"attention_layers": [0, 1], "ffn_layers": [1, 0]}
    assert sizes == {"conv": [6, 5, 0], "heads": [0, 3], "ffn": [5, 0], **parts}
    values = encoder.gates.draw()
    assert set(values) == {("conv", 0), ("conv", 1), ("heads", 1), ("ffn", 0)}
    assert encoder(make_waves(samples=1200)[0]).x.shape[-1] == 12
    no_heads = {**TINY, "layer_heads": [0, 0], "prune": ["heads", "attention_layers", "ffn"]}
    assert list(Gates(EncoderConfig.from_settings(no_heads)).kinds) == ["ffn"]
    without = SpeechEncoder(EncoderConfig.from_settings(TINY))
    add_gates(without)
    assert without.gates is None


def test_one_sample_for_a_forward_pass_of_the_whole_batch():
    encoder = build_gated(prune=UNITS + PARTS).train()
    spread_gates(encoder)
    drawn = []
    draw = encoder.gates.draw
    encoder.gates.draw = lambda: drawn.append(draw()) or drawn[-1]
    wave = make_waves(batch=1, samples=1200)[0].expand(3, -1)
    outputs = [encoder(wave), encoder.encode(wave, layers=[0, 1]), encoder(wave, features_only=True, mask=False)]
    assert len(drawn) == 3
    x = outputs[0].x
    torch.testing.assert_close(x[1], x[0], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(outputs[1].hidden[1], outputs[0].hidden[1], atol=1e-3)
    encoder.eval()
    assert torch.equal(encoder(wave).x, encoder(wave).x)
    assert all(torch.equal(drawn[-1][axis], drawn[-2][axis]) for axis in drawn[-1])


@pytest.mark.parametrize("kind", ["hubert", "large", "wavlm"])
def test_activation_checkpointing_gives_the_same_gradients(kind):
    waves, _ = make_waves(samples=1200)
    gradients = []
    for checkpointed in (False, True):
        encoder = build_gated(**KINDS[kind], prune=UNITS + PARTS, checkpoint_activations=checkpointed).train()
        spread_gates(encoder)
        torch.manual_seed(8)
        encoder(waves).x.pow(2).mean().backward()
        gradients.append({name: p.grad for name, p in encoder.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() and "gates.kinds.heads.log_alpha" in gradients[0]
    for name, expected in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], expected, msg=name)
    assert gradients[0]["gates.kinds.heads.log_alpha"].abs().max() > 0


@pytest.mark.parametrize("checkpointed", [False, True])
def test_two_forward_passes_before_one_backward(checkpointed):
    """Each pass's gradient is that of its own sample."""
    waves, _ = make_waves(samples=1200)
    gradients = []
    for together in (False, True):
        encoder = build_gated(checkpoint_activations=checkpointed).train()
        spread_gates(encoder)
        torch.manual_seed(9)
        losses = []
        for wave in waves[:2]:
            losses.append(encoder(wave[None]).x.pow(2).mean())
            if not together:
                losses.pop().backward()
        if together:
            sum(losses).backward()
        gradients.append({name: p.grad for name, p in encoder.named_parameters() if p.grad is not None})
    for name, expected in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], expected, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_fairseqs_own_paths_are_gated(kind):
    encoder = build_gated(**KINDS[kind], prune=UNITS + PARTS)
    spread_gates(encoder)
    waves, mask = make_waves(samples=1200, padded=True)
    expected = encoder.encode(waves, mask)
    valid = ~expected.padding_mask
    got = encoder(waves, padding_mask=mask, features_only=True, mask=False)
    torch.testing.assert_close(got["x"][valid], expected.x[valid], rtol=1e-4, atol=1e-5)
    features, frames = encoder.extract_features(waves, padding_mask=mask)
    torch.testing.assert_close(features[valid], expected.x[valid], rtol=1e-4, atol=1e-5)
    first, _ = encoder.extract_features(waves, padding_mask=mask, output_layer=1)
    torch.testing.assert_close(first[valid], expected.hidden[1][valid], rtol=1e-4, atol=1e-5)
    assert torch.equal(frames, expected.padding_mask)
    assert (features - build_plain(encoder)(waves, padding_mask=mask).x)[valid].norm() > 0.01 * features[valid].norm()


@pytest.mark.parametrize("kind", ["hubert", "large", "no projection"])
def test_masked_prediction_is_gated(kind, monkeypatch):
    torch.manual_seed(0)
    cfg = EncoderConfig.from_settings(
        {**TINY, "prune": UNITS, **KINDS[kind], "mask_prob": 0.5, "mask_length": 4, "label_rate": 800.0}
    )
    encoder = SpeechEncoder(cfg, dictionaries=[build_dictionary()])
    add_gates(encoder)
    randomize(encoder).train()
    spread_gates(encoder)
    values = hold_sample(encoder)
    plain = SpeechEncoder(replace(cfg, prune=[]), dictionaries=[build_dictionary()]).train()
    plain.load_state_dict({key: value for key, value in encoder.state_dict().items() if not key.startswith("gates.")})
    gate_activations(plain, values)
    waves, mask = make_waves(samples=1200, padded=True)
    masked = np.random.default_rng(3).random((3, 119)) < 0.5
    monkeypatch.setattr(hubert, "compute_mask_indices", lambda shape, *args, **kwargs: masked[: shape[0], : shape[1]])
    labels = [torch.randint(4, 16, (3, 60))]
    losses = []
    for model in (encoder, plain):
        net_output = model(waves, padding_mask=mask, target_list=labels)
        logits = model.get_logits(net_output, is_masked=True)[0]
        losses.append(F.cross_entropy(logits.float(), torch.zeros(len(logits), dtype=torch.long)))
    assert len(logits) > 20
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=1e-6)
    assert_same_gradients(encoder, plain, *losses, tolerance=1e-3)


def test_frozen_gates_stay_as_in_evaluation():
    encoder = build_gated(prune=UNITS + PARTS)
    spread_gates(encoder)
    waves, _ = make_waves(samples=1200)
    with torch.no_grad():
        expected = encoder(waves).x
    encoder.gates.freeze()
    encoder.train()
    x = encoder(waves).x
    torch.testing.assert_close(x, expected, rtol=1e-5, atol=1e-5)
    x.pow(2).mean().backward()
    assert all(p.grad is None and not p.requires_grad for p in encoder.gates.parameters())
    assert encoder.encoder.layers[0].fc2.weight.grad.abs().max() > 0 and encoder.encoder.layers[0].training


def test_gates_follow_from_the_moment_whatever_else_was_drawn():
    def draw(encoder, moment, taken, passes=1):
        torch.manual_seed(taken)
        torch.rand(taken)  # dropout takes more or less with the batch's size
        encoder.gates.begin_update(*moment)
        return [torch.cat(list(encoder.draw_gates().values())) for _ in range(passes)]

    encoder = build_gated().train()
    state = torch.get_rng_state()
    first, later = draw(encoder, (1, 5, 0), 3, passes=2)
    assert torch.equal(draw(encoder, (1, 5, 0), 9)[0], first)
    assert torch.equal(draw(copy.deepcopy(encoder), (1, 5, 0), 9)[0], first)
    others = [later, *(draw(encoder, moment, 3)[0] for moment in ((2, 5, 0), (1, 6, 0), (1, 5, 1)))]
    assert all(not torch.equal(first, other) for other in others)
    assert not torch.equal(state, torch.get_rng_state())
    state = torch.get_rng_state()
    encoder.draw_gates()
    assert torch.equal(state, torch.get_rng_state()), "nothing is taken from torch's own generator"


def test_gates_of_a_moment_are_distributed_as_those_of_torchs_own_generator():
    encoder = build_gated().train()
    with torch.no_grad():
        for log_alpha in encoder.gates.parameters():
            log_alpha.fill_(0.3)
    own, seeded = [], []
    torch.manual_seed(0)
    for _ in range(300):
        own.append(torch.cat(list(encoder.draw_gates().values())))
    for update in range(300):
        encoder.gates.begin_update(1, update)
        seeded.append(torch.cat(list(encoder.draw_gates().values())))
    own, seeded = torch.stack(own).flatten(), torch.stack(seeded).flatten()
    quantiles = torch.linspace(0.05, 0.95, 10)
    torch.testing.assert_close(own.quantile(quantiles), seeded.quantile(quantiles), atol=0.03, rtol=0)
    assert (seeded == 0).float().mean() > 0.1 and (seeded == 1).float().mean() > 0.1
