"""What the tasks have in common when they hand out batches."""

import multiprocessing
from types import SimpleNamespace

from fairseq_distill.data.audio_dataset import load_audio_dataset
from fairseq_distill.run.audio_task import AudioTask

from ..builders import write_data


def test_loader_workers_end_with_their_epoch(tmp_path):
    dataset = load_audio_dataset(str(write_data(tmp_path) / "train.tsv"), pad=True)
    task, kept = AudioTask(SimpleNamespace()), []
    for epoch in (1, 2, 3):
        batches = task.get_batch_iterator(dataset, max_sentences=4, num_workers=1, data_buffer_size=2, epoch=epoch)
        kept.append(batches)
        rows = [row for batch in batches.next_epoch_itr() for row in batch["id"].tolist()]
        assert sorted(rows) == list(range(8))
        for worker in multiprocessing.active_children():
            worker.join(timeout=30)  # a thread may still be ending it
        assert multiprocessing.active_children() == []
