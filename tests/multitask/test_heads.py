"""Heads: the layer sum, scores, and the margins of AM- and AAM-softmax against their formulas."""

import math

import pytest
import torch
import torch.nn.functional as F

from fairseq_distill.encoder.model import EncoderOutput
from fairseq_distill.multitask.heads import NO_LABEL, build_head
from fairseq_distill.multitask.task_list import parse_tasks

WIDTH, DEPTH, CLASSES = 6, 2, 4


def build(kind, **settings):
    """A head, and an encoder's output for three waves, the last of them padded."""
    torch.manual_seed(0)
    head = build_head(parse_tasks([{"name": "t", "kind": kind, **settings}])[0], WIDTH, DEPTH, CLASSES)
    hidden = tuple(torch.randn(3, 5, WIDTH) for _ in range(DEPTH + 1))
    mask = torch.tensor([[False] * 5, [False] * 5, [False, False, True, True, True]])
    return head, EncoderOutput(torch.randn(3, 5, WIDTH), hidden, hidden[0], mask)


def test_layer_sum_starts_equal_and_follows_a_softmax():
    head, out = build("classification")
    torch.testing.assert_close(head.listen(out), sum(out.hidden) / 3)
    with torch.no_grad():
        head.layer_sum.logits.copy_(torch.tensor([0.0, 1.0, -1.0]))
    norm = 1 + math.e + 1 / math.e
    expected = (out.hidden[0] + math.e * out.hidden[1] + out.hidden[2] / math.e) / norm
    torch.testing.assert_close(head.listen(out), expected)


def test_last_listens_to_the_final_output_alone():
    head, out = build("classification", layers="last")
    assert head.layer_sum is None and head.listen(out) is out.x


@pytest.mark.parametrize("activation", ["relu", "none"])
def test_classification_with_a_hidden_layer(activation):
    head, out = build("classification", hidden=8, activation=activation)
    scores = head.score(head.embed(out))
    for row, length in enumerate([5, 5, 2]):
        frames = [
            sum(h[row, t] for h in out.hidden) / 3 @ head.hidden.weight.T + head.hidden.bias for t in range(length)
        ]
        frames = [f.clamp(min=0) if activation == "relu" else f for f in frames]
        expected = sum(frames) / length @ head.output.weight.T + head.output.bias
        torch.testing.assert_close(scores[row], expected)


def test_classification_without_a_hidden_layer_is_linear_in_the_mean():
    head, out = build("classification")
    first = sum(out.hidden)[0].mean(0) / 3
    torch.testing.assert_close(head.score(head.embed(out))[0], head.output(first))


@pytest.mark.parametrize("kind", ["classification", "verification"])
def test_batch_norm_acts_on_the_pooled_vector(kind):
    head, out = build(kind, batch_norm=True)
    pooled = torch.nn.functional.batch_norm(pool(head, out), None, None, training=True)
    layer = head.output if kind == "classification" else head.embedding
    embedding = head.embed(out)
    torch.testing.assert_close(embedding if kind == "verification" else head.output(embedding), layer(pooled))


def pool(head, out):
    """What a head's pooling gives, frame by frame."""
    frames = [(sum(out.hidden) / 3)[row, :length] for row, length in enumerate([5, 5, 2])]
    means = torch.stack([own.mean(0) for own in frames])
    if head.settings.kind == "classification":
        return means
    return torch.cat([means, torch.stack([own.var(0, unbiased=False).sqrt() for own in frames])], dim=1)


@pytest.mark.parametrize("pooling", ["statistics", "attentive"])
def test_scores_of_verification_are_scaled_cosines(pooling):
    head, out = build("verification", pooling=pooling, embedding_dim=7, scale=20)
    embedding = head.embed(out)
    assert embedding.shape == (3, 7)
    for row in range(3):
        for number in range(CLASSES):
            e, w = embedding[row], head.classes[number]
            expected = 20 * float(e @ w) / (float(e.norm()) * float(w.norm()))
            assert head.score(embedding)[row, number].item() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("softmax, margin", [("am", 0.2), ("am", 0.4), ("aam", 0.2), ("aam", 0.5)])
def test_margins_are_those_of_the_papers(softmax, margin):
    head, _ = build("verification", softmax=softmax, margin=margin, scale=30)
    cosine = torch.linspace(-0.999, 0.999, 41).repeat(CLASSES, 1).T
    target = torch.arange(41) % CLASSES
    moved = head.add_margin(30 * cosine, target)
    for row in range(41):
        c = float(cosine[row, 0])
        if softmax == "am":
            expected = c - margin
        elif math.acos(c) + margin < math.pi:
            expected = math.cos(math.acos(c) + margin)
        else:
            expected = c - margin * math.sin(margin)
        for number in range(CLASSES):
            wanted = expected if number == target[row] else c
            assert moved[row, number].item() == pytest.approx(30 * wanted, abs=2e-3)


@pytest.mark.parametrize("softmax", ["am", "aam"])
def test_rows_without_label_have_no_margin_and_no_gradient(softmax):
    head, out = build("verification", softmax=softmax)
    scores = head.score(head.embed(out))
    target = torch.tensor([2, NO_LABEL, NO_LABEL])
    moved = head.add_margin(scores, target)
    torch.testing.assert_close(moved[1:], scores[1:])
    assert moved[0, 2] < scores[0, 2] and torch.equal(moved[0, :2], scores[0, :2])
    scores.retain_grad()
    F.cross_entropy(head.add_margin(scores, target), target, ignore_index=NO_LABEL, reduction="sum").backward()
    assert scores.grad[1:].abs().max() == 0 and scores.grad[0].abs().max() > 0


@pytest.mark.parametrize("softmax", ["am", "aam"])
def test_gradients_are_finite_where_embedding_and_class_are_parallel(softmax):
    head, _ = build("verification", softmax=softmax, embedding_dim=7)
    embedding = torch.stack([head.classes[0].detach() * 3, -head.classes[1].detach()]).requires_grad_()
    target = torch.tensor([0, 1])
    F.cross_entropy(head.add_margin(head.score(embedding), target), target).backward()
    assert embedding.grad.isfinite().all() and head.classes.grad.isfinite().all()
