"""A loss that is not finite is traced to its utterances, counted, and not stepped on."""

from types import SimpleNamespace

import pytest
import torch
from fairseq.models import BaseFairseqModel

from fairseq_distill.run.audio_task import AudioTask, AudioTaskConfig

from ..builders import write_data, write_teacher
from ..runs import distil, last


class Model(BaseFairseqModel):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))


def step(task, ids, value, update=7, ignore_grad=False):
    """One batch whose loss is `value`."""
    model, optimizer = Model(), SimpleNamespace(backward=lambda loss: loss.backward())

    def criterion(model, sample):
        return model.weight.sum() * value, len(ids), {}

    return task.train_step({"id": torch.tensor(ids)}, model, criterion, optimizer, update, ignore_grad)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_its_utterances_are_named_once_and_it_is_counted(caplog, value):
    task = AudioTask(AudioTaskConfig())
    task.datasets["train"] = SimpleNamespace(path=lambda index: f"/speech/{index}.wav")
    loss, size, _ = step(task, [3, 5], 2.0)
    assert float(loss) == 2.0 and size == 2
    step(task, [4, 9], value)
    step(task, [4, 9], value)  # fairseq looks for the layer before it stops
    step(task, [1, 2], value, ignore_grad=True)  # of a worker that has run out of batches
    step(task, [4, 9], value, update=8)
    step(task, [6, 8], 1.0, update=9)
    assert task.num_not_finite == 2
    messages = [r.getMessage() for r in caplog.records if "not finite" in r.getMessage()]
    names = "its utterances: /speech/4.wav, /speech/9.wav"
    assert messages == [
        f"the loss of a batch in update 8 is not finite (1 so far); {names}",
        f"the loss of a batch in update 9 is not finite (2 so far); {names}",
    ]


def test_a_run_names_them_and_keeps_its_last_good_weights(tmp_path):
    data, teacher = write_data(tmp_path / "data", lengths=(9000, 8000), copies=2), write_teacher(tmp_path)
    more = {"checkpoint.save_interval_updates": 1, "optimization.lr": "[1e25]", "optimization.max_update": 5}
    done, _ = distil(tmp_path / "run", data, teacher, check=False, **more)
    assert done.returncode != 0 and "gradients are Nan/Inf" in done.stdout
    assert "is not finite (1 so far); its utterances: " in done.stdout and f"{data}/audio/train" in done.stdout
    weights = torch.load(last(tmp_path / "run"), weights_only=False)["model"]
    assert all(torch.isfinite(value).all() for value in weights.values())
