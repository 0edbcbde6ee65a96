"""What a criterion draws at random follows from seed, update, batch and worker, in whatever process it is drawn."""

import numpy as np
import pytest
import torch
from fairseq.distributed import utils as distributed_utils

from ..builders import make_waves
from .training import build_pair


def compute(criterion, student, update, seed_of_others, batches=2):
    """What an update's batches lose, beside threads and layers that draw from the generators that all share."""
    waves, _ = make_waves(batch=2)
    sample = {"id": torch.arange(2), "net_input": {"source": waves}}
    student.set_num_updates(update)
    criterion.train()
    losses = []
    for _ in range(batches):
        np.random.seed(seed_of_others)
        torch.manual_seed(seed_of_others)
        loss, _, logged = criterion(student, sample)
        losses.append((float(loss), float(logged["gates/sparsity"])))
    return losses


@pytest.fixture
def built(tmp_path):
    return build_pair(tmp_path)


def test_draws_follow_from_the_update_and_the_batch_alone(built):
    criterion, student = built
    first = compute(criterion, student, 3, seed_of_others=1)
    compute(criterion, student, 4, seed_of_others=1, batches=5)
    assert compute(criterion, student, 3, seed_of_others=2) == first
    assert first[0] != first[1] and compute(criterion, student, 4, seed_of_others=1)[0] != first[0]


def test_another_seed_of_the_run_draws_otherwise(built, tmp_path):
    first = compute(*built, 3, seed_of_others=1)
    assert compute(*build_pair(tmp_path), 3, seed_of_others=1) == first
    assert compute(*build_pair(tmp_path, seed=2), 3, seed_of_others=1) != first


def test_workers_have_the_same_gates_and_other_masks(built, monkeypatch):
    criterion, student = built
    drawn = []
    for worker in (0, 1):
        monkeypatch.setattr(distributed_utils, "get_global_rank", lambda worker=worker: worker)
        criterion.train()
        student.set_num_updates(3)
        generator = criterion.begin_batch(student, {})
        mask = student.sample_mask(make_waves(batch=2)[0], None, generator)
        drawn.append((torch.cat(list(student.draw_gates().values())), mask))
    assert torch.equal(drawn[0][0], drawn[1][0]) and not torch.equal(drawn[0][1], drawn[1][1])


def test_validation_draws_the_same_masks_at_every_update(built):
    criterion, student = built
    student.eval()
    criterion.masked_prediction = 1.0
    masks = []
    for update, rows in ((0, [4, 5]), (9, [4, 5]), (9, [4, 6])):
        student.set_num_updates(update)
        generator = criterion.begin_batch(student, {"id": torch.tensor(rows)})
        masks.append(student.sample_mask(make_waves(batch=2)[0], None, generator))
    assert torch.equal(masks[0], masks[1]) and not torch.equal(masks[0], masks[2])
