"""The whole model, encoder, heads and predictions of a teacher: an utterance gives the same alone and in any batch."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ..builders import KINDS, LARGE, build_multitask

KINDS_TRIED = {
    **{kind: KINDS[kind] for kind in ("hubert", "large", "wavlm", "data2vec", "batch norm")},
    "data2vec, time reduction": dict(KINDS["data2vec"], time_reduction=2, extractor_mode="default"),
    "batch norm, pre-norm": dict(LARGE, conv_pos_batch_norm=True),
    "maps reused": dict(reuse_attention=[2, 3]),
    "adapters": dict(adapter=6),
}
TASKS = [
    {"name": "keyword", "kind": "classification", "hidden": 9, "batch_norm": True},
    {"name": "speaker", "kind": "verification", "embedding_dim": 12, "pooling": "attentive", "layers": "last"},
]
STATISTICS = [{**TASKS[0], "layers": "last"}, {**TASKS[1], "pooling": "statistics", "layers": "sum"}]
DISTILLED = dict(prediction_groups="[[1],[2,3]]", prediction_dim=48)


def build(kind, tasks=TASKS):
    return build_multitask(tasks, **KINDS_TRIED[kind], **DISTILLED)


def draw_batch(model, seed):
    """Waves with sound in padding, from one frame to hundreds in random order, then one too short and one empty."""
    rng, shortest = np.random.default_rng(seed), model.cfg.shortest_wave
    lengths = [shortest, shortest + 1, 4 * shortest + 3, int(rng.integers(3000, 4000)), 800]
    lengths = [*rng.permutation(lengths).tolist(), shortest - 1, 0]
    waves = torch.from_numpy(rng.standard_normal((len(lengths), 4100)).astype(np.float32))
    return waves, torch.arange(4100)[None, :] >= torch.tensor(lengths)[:, None], lengths


def assert_same(one, expected, note):
    apart = float((one - expected).abs().max() / expected.abs().max())
    assert apart < 1e-5, (note, apart)


@pytest.mark.parametrize("tasks", [TASKS, STATISTICS], ids=["attentive", "statistics"])
@pytest.mark.parametrize("kind", KINDS_TRIED)
@torch.no_grad()
def test_scores_embeddings_and_predictions_do_not_depend_on_the_batch(kind, tasks):
    model = build(kind, tasks)
    assert model.encoder.exact_padding, "on by default"
    for seed in range(2):
        waves, mask, lengths = draw_batch(model, seed)
        together = model(waves, mask, predict=True)
        assert all(bool(x.isfinite().all()) for x in (*together.scores.values(), *together.embeddings.values()))
        for row, length in enumerate(lengths[:-2]):
            alone, note = model(waves[row : row + 1, :length], predict=True), f"{kind}, seed {seed}, {length} samples"
            for name in ("keyword", "speaker"):
                assert_same(together.scores[name][row], alone.scores[name][0], note)
                assert_same(together.embeddings[name][row], alone.embeddings[name][0], note)
            for one, expected in zip(together.states.predictions, alone.states.predictions):
                assert_same(one[row, : expected.size(1)], expected[0], note)


@pytest.mark.parametrize("kind", ["hubert", "data2vec, time reduction", "maps reused"])
def test_gradients_of_the_tasks_are_those_of_the_utterances_alone(kind):
    """But for the heads' batch norm, whose batch is of utterances: here there is none."""
    model = build(kind, [{**TASKS[0], "batch_norm": False}, {**TASKS[1], "batch_norm": False}]).double().train()
    waves, mask, lengths = draw_batch(model, 3)
    targets = torch.arange(len(lengths)) % 3

    def measure(rows, wave, mask=None):
        scores = model(wave.double(), mask).scores
        losses = [F.cross_entropy(s[: len(rows)], targets[rows], reduction="sum") for s in scores.values()]
        model.zero_grad()
        sum(losses).backward()
        return {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}

    rows = list(range(len(lengths) - 2))
    together = measure(rows, waves, mask)
    alone = [measure([row], waves[row : row + 1, : lengths[row]]) for row in rows]
    assert len(together) > 30 and set(together) == set(alone[0])
    sums = {key: sum(own[key] for own in alone) for key in together}
    # some change nothing, as keys' biases: there is only rounding, in float32 where pooling is
    least = 1e-3 * max(float(expected.abs().max()) for expected in sums.values())
    for key, expected in sums.items():
        assert bool(together[key].isfinite().all())
        assert float((together[key] - expected).abs().max()) < 1e-5 * max(float(expected.abs().max()), least), key
