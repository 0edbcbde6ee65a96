"""A narrower and shallower student that starts as its teacher's most important units, through fairseq-hydra-train."""

from fairseq_distill import load_encoder
from fairseq_distill.checkpoints.safe_load import read_pickled
from fairseq_distill.cli.main import main

from ..builders import write_data, write_teacher
from ..runs import STUDENT_SHAPE, distil

NARROW = {  # of a teacher 48 wide: 4 heads of 12, 80 units, convolutions of 24 24 24 32 channels
    **STUDENT_SHAPE,
    "model.encoder_layers": 2,
    "model.encoder_attention_heads": 3,
    "+model.head_dim": 12,
    "+model.conv_feature_layers": "'[(20,10,5)] + [(24,3,2)] * 2 + [(30,2,2)]'",
    "+model.init_width": "activations",
    "+model.init_seconds": 2,
    "model.like_init": "none",
    "criterion.groups": "[[1],[2]]",
    "optimization.max_update": 1,
    "optimization.lr": "[0.0]",
}


def test_activations_and_clusters(tmp_path):
    write_data(tmp_path / "data")
    write_teacher(tmp_path)
    clusters = tmp_path / "clusters.json"
    line = ["clusters", tmp_path / "teacher.pt", tmp_path / "data" / "train.tsv", "--seconds", 3, "--out", clusters]
    assert main([str(word) for word in line]) == 0
    shape = {**NARROW, "+model.init_choice": "clusters", "+model.init_clusters": clusters}
    done, _ = distil(tmp_path / "one", tmp_path / "data", str(tmp_path / "teacher.pt"), shape=shape)
    assert "largest importance by activations: width 32/48; convolutions 20/24 24/24 24/24 30/32; layers" in done.stdout
    assert "heads 3/4 3/4; feed-forward 48/80 48/80; 0 layers from scratch" in done.stdout
    assert "taken over: 48 tensors; from scratch: 4 (prediction_head)" in done.stdout

    saved = read_pickled(tmp_path / "one" / "checkpoints" / "checkpoint_last.pt")
    model = saved["cfg"]["model"]
    assert [model[name] for name in ("init", "init_clusters", "init_width", "init_choice")] == ["", "", "none", "first"]
    student = load_encoder(tmp_path / "one" / "checkpoints" / "checkpoint_last.pt")
    teacher = load_encoder(tmp_path / "teacher.pt")
    ours, theirs = (encoder.feature_extractor.conv_layers[0].conv.weight for encoder in (student, teacher))
    rows = [(theirs == row).flatten(1).all(1).nonzero().flatten().tolist() for row in ours]
    assert all(len(row) == 1 for row in rows) and sorted(rows) == rows, "twenty rows of the teacher's, in order"
