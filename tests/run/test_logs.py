"""What criterions log is the sum over batches and workers, and costs one wait for the device."""

import pytest
import torch
from fairseq import metrics

from fairseq_distill.criterions.speech_distillation import SpeechDistillationCriterion
from fairseq_distill.run.logs import read_numbers


def count_reads(monkeypatch):
    """A list that grows with every number that is read out of a tensor."""
    reads = []
    for name in ("item", "tolist", "__float__", "__bool__", "__int__"):
        stock = getattr(torch.Tensor, name)
        monkeypatch.setattr(torch.Tensor, name, lambda self, stock=stock: reads.append(1) or stock(self))
    return reads


def test_sums_are_plain_numbers_from_one_read(monkeypatch):
    logs = [{"a": torch.tensor(0.1), "b": 2, "c": torch.tensor([3])}, {"a": torch.tensor(0.2), "b": 5}]
    reads = count_reads(monkeypatch)
    sums = read_numbers(logs)
    assert len(reads) == 1
    assert sums == {"a": pytest.approx(0.3), "b": 7, "c": 3} and all(
        type(value) in (int, float) for value in sums.values()
    )
    assert read_numbers([{"b": 1}]) == {"b": 1} and len(reads) == 1


def test_a_criterion_reads_once_whatever_it_logs(monkeypatch):
    entries = {f"gates/ffn_{index}": torch.tensor(40.0 + index) for index in range(12)}
    log = {"sample_size": torch.tensor(20), "loss": torch.tensor(5.0), "distance/l1_4": torch.tensor(30.0), **entries}
    reads = count_reads(monkeypatch)
    with metrics.aggregate(new_root=True) as logged:
        SpeechDistillationCriterion.reduce_metrics([log, log])
        values = logged.get_smoothed_values()
    assert len(reads) == 1
    assert values["loss"] == 0.25 and values["l1_4"] == 1.5 and values["ffn_3"] == 2.15
