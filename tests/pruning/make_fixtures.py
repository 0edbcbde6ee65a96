"""Writes fixtures/pruned_STACK.pt and expected_STACK.pt: a student trained with the installed fairseq, then cut.

    python -m tests.pruning.make_fixtures     with fairseq 0.12.2, and again with ve-fairseq

So either stack's tests open what the other wrote. `expected` is the gated student's output for `make_waves`.
"""

import shutil
import sys
import tempfile
from pathlib import Path

import torch

from fairseq_distill import load_encoder
from fairseq_distill.cli.main import main

from ..builders import make_waves, write_data, write_teacher
from ..runs import last, train

FOLDER = Path(__file__).parent / "fixtures"
STACK = "hydra10" if sys.version_info < (3, 11) else "hydra13"
TINY = dict(encoder_layers=2, encoder_embed_dim=16, encoder_ffn_embed_dim=24, encoder_attention_heads=2, conv_pos=8)
SHAPE = dict(TINY, conv_pos_groups=2, conv_feature_layers="[(8,10,5)] + [(8,3,2)] * 2 + [(12,2,2)]")


def write(folder: Path) -> None:
    """Train, cut, and keep what belongs together."""
    data, teacher = write_data(folder / "data"), write_teacher(folder, **SHAPE)
    train(folder / "stage1", data, teacher, **{"criterion.groups": "[[f],[1],[2]]"})
    stage1, pruned = last(folder / "stage1"), folder / "pruned.pt"
    assert main(["prune", str(stage1), str(pruned)]) == 0
    FOLDER.mkdir(exist_ok=True)
    with torch.no_grad():
        torch.save(load_encoder(stage1)(make_waves()[0]).x, FOLDER / f"expected_{STACK}.pt")
    shutil.copy(pruned, FOLDER / f"pruned_{STACK}.pt")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        write(Path(name))
