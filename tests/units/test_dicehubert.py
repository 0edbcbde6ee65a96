"""The recipe dicehubert: its size, and stock masked prediction on units that the command made."""

import torch
import yaml

from fairseq_distill import load_encoder
from fairseq_distill.cli import main
from fairseq_distill.encoder.config import EncoderConfig
from fairseq_distill.encoder.model import SpeechEncoder
from fairseq_distill.encoder.size import count_parameters

from ..builders import make_waves, write_data, write_teacher
from ..runs import ROOT, STUDENT_SHAPE, command, run


def test_the_student_has_26_87_million_parameters():
    recipe = yaml.safe_load((ROOT / "config" / "distill" / "dicehubert.yaml").read_text())
    with torch.device("meta"):
        student = SpeechEncoder(EncoderConfig.from_settings(recipe["model"]), dictionaries=[range(504)])
    counts = count_parameters(student)
    assert round(counts["encoder"] / 1e6, 2) == 26.87
    assert counts["heads"] == 384 * 256 + 256 + 504 * 256  # projection and 500 units with fairseq's four symbols
    assert student.cfg.has_projection and not student.cfg.prune


def test_units_of_a_teacher_train_a_student_in_the_stock_task(tmp_path):
    teacher, data, labels = write_teacher(tmp_path), write_data(tmp_path / "data"), tmp_path / "units"
    manifests = [str(data / f"{split}.tsv") for split in ("train", "valid")]
    assert main.main(["units", teacher, *manifests, "--layer", "2", "--clusters", "6", "--out", str(labels)]) == 0
    settings = {
        "+machine": "cpu",
        "task.data": data,
        "task.label_dir": labels,
        "task.label_rate": 400,
        "task.min_sample_size": 1000,
        "dataset.num_workers": 0,
        "dataset.max_tokens": 18_000,
        "optimization.max_update": 2,
        "optimization.update_freq": "[2]",
        "lr_scheduler.warmup_updates": 1,
        "common.log_interval": 1,
        "common.tensorboard_logdir": "null",
        "hydra.run.dir": tmp_path / "run",
        **STUDENT_SHAPE,
        "+model.conv_feature_layers": "'[(24,10,5)] + [(24,3,2)] * 2 + [(32,2,2)]'",
    }
    _, logs = run(command(ROOT / "config" / "distill", "dicehubert", settings))
    steps = [values for name, values in logs if name == "train_inner"]
    assert len(steps) == 2 and all(float(values["loss_m_0"]) > 0 for values in steps)
    assert any("valid_loss_m_0" in values for name, values in logs if name == "valid")
    encoder = load_encoder(tmp_path / "run" / "checkpoints" / "checkpoint_last.pt")
    assert (encoder.depth, encoder.cfg.encoder_embed_dim, encoder.cfg.label_rate) == (3, 32, 400)
    assert encoder(make_waves()[0]).x.shape[-1] == 32
