"""A pruned student opens under either fairseq, whichever wrote it."""

import pytest
import torch
from fairseq import checkpoint_utils

from fairseq_distill import load_encoder

from ..builders import make_waves
from .make_fixtures import FOLDER


@pytest.mark.parametrize("stack", ["hydra10", "hydra13"])
@torch.no_grad()
def test_pruned_student_of_either_stack_gives_what_the_gated_one_gave(stack):
    path, expected = FOLDER / f"pruned_{stack}.pt", torch.load(FOLDER / f"expected_{stack}.pt", weights_only=True)
    waves, _ = make_waves()
    encoder = load_encoder(path)
    assert encoder.cfg.heads == [1, 1] and encoder.cfg.ffn_dims == [0, 0], "nothing was cut"
    torch.testing.assert_close(encoder(waves).x, expected, rtol=1e-4, atol=1e-5)
    (model,), cfg, _ = checkpoint_utils.load_model_ensemble_and_task([str(path)])
    assert list(cfg.model.prune) == []
    torch.testing.assert_close(model.eval().extract_features(waves)[0], expected, rtol=1e-4, atol=1e-5)
