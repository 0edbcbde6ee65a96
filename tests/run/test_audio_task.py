"""What the tasks have in common when they hand out batches."""

from types import SimpleNamespace

import torch

from fairseq_distill.data.audio_dataset import load_audio_dataset
from fairseq_distill.run.audio_task import AudioTask

from ..builders import write_data


def test_no_loader_keeps_its_workers_behind_its_epoch(tmp_path, monkeypatch):
    loaders, stock = [], torch.utils.data.DataLoader
    monkeypatch.setattr(torch.utils.data, "DataLoader", lambda *a, **k: loaders.append(stock(*a, **k)) or loaders[-1])
    dataset = load_audio_dataset(str(write_data(tmp_path) / "train.tsv"), pad=True)
    for epoch in (1, 2):
        batches = AudioTask(SimpleNamespace()).get_batch_iterator(dataset, max_sentences=4, num_workers=1, epoch=epoch)
        batches.next_epoch_itr()
    assert [(loader.num_workers, loader.persistent_workers) for loader in loaders] == [(1, False)] * 2
