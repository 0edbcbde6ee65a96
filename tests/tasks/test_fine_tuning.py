"""A student of the real teacher, fine-tuned as stock `hubert_ctc` on letters of real keywords."""

import os
import shutil

import pytest
import torch
from fairseq import checkpoint_utils

from ..runs import CTC, command, distil, run


def write_letters(shared_data, folder, counts):
    """Manifests of `counts[split]` keywords, their letters, and the dictionary."""
    folder.mkdir()
    source = shared_data / "speech" / "manifest" / "wakeword"
    letters = set()
    for split, count in counts.items():
        rows = (source / f"{split}.tsv").read_text().splitlines()[1:]
        words = (source / f"{split}.keyword").read_text().split()
        step = len(rows) // count
        rows, words = rows[::step][:count], words[::step][:count]
        (folder / f"{split}.tsv").write_text("\n".join([str(shared_data / "speech"), *rows]) + "\n")
        lines = [" ".join(word.upper().replace("_", "|")) + " |" for word in words]
        (folder / f"{split}.ltr").write_text("\n".join(lines) + "\n")
        letters.update(letter for line in lines for letter in line.split())
    (folder / "dict.ltr.txt").write_text("".join(f"{letter} 1\n" for letter in sorted(letters)))
    return folder


def test_student_learns_letters_as_stock_hubert_ctc(shared_data, tmp_path):
    pytest.importorskip("editdistance", reason="fairseq's ctc criterion needs it to validate")
    teacher = shutil.copy(shared_data / "teacher" / "hubert_small.pt", tmp_path / "teacher.pt")
    data = write_letters(shared_data, tmp_path / "data", {"train": 120, "valid": 18})
    options = {"optimization__max_update": 2, "dataset__batch_size": 4, "task__max_sample_size": 32000}
    distil(tmp_path / "student", data, str(teacher), recipe="distilhubert", shape={}, **options)
    os.remove(teacher)

    (tmp_path / "ctc.yaml").write_text(CTC)
    student = tmp_path / "student" / "checkpoints" / "checkpoint_last.pt"
    settings = {"task.data": data, "model.w2v_path": student, "hydra.run.dir": tmp_path / "tuned"}
    _, logs = run(command(tmp_path, "ctc", settings))
    steps = [float(values["nll_loss"]) for name, values in logs if name == "train_inner"]
    valid = [values for name, values in logs if name == "valid"]
    assert steps[-1] < 0.5 * steps[0]
    assert float(valid[-1]["valid_uer"]) < 100, "no letter is recognised"

    # fairseq's wav2vec 2.0 recipes, whose model reads features by name, take it too
    settings.update({"model._name": "wav2vec_ctc", "hydra.run.dir": tmp_path / "other", "optimization.max_update": 2})
    _, logs = run(command(tmp_path, "ctc", settings))
    assert all(float(values["valid_loss"]) > 0 for name, values in logs if name == "valid")
    assert (tmp_path / "other" / "checkpoints" / "checkpoint_last.pt").exists()

    os.remove(student)  # the fine-tuned file stands alone too
    tuned = str(tmp_path / "tuned" / "checkpoints" / "checkpoint_last.pt")
    (model,), _, task = checkpoint_utils.load_model_ensemble_and_task([tuned], arg_overrides={"data": str(data)})
    waves = torch.randn(2, 16_000)
    out = model.eval()(source=waves, padding_mask=torch.zeros(2, 16_000, dtype=torch.bool))
    assert out["encoder_out"].shape == (49, 2, len(task.target_dictionary))
    assert not any("prediction_head" in name for name, _ in model.named_parameters())
