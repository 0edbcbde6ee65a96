"""The dataset: broken files are skipped with right counts, good ones come out as fairseq's own dataset gives them."""

import logging
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from fairseq.data import FileAudioDataset
from fairseq.data.iterators import EpochBatchIterator
from fairseq.tasks import FairseqTask
from torch.utils.data import DataLoader

from fairseq_distill.data import audio_file
from fairseq_distill.data.audio_dataset import DistillationAudioDataset, load_audio_dataset
from fairseq_distill.data.audio_settings import AudioSettings
from fairseq_distill.errors import UserError

from .broken_audio import RATE, make_noise, write_broken_set, write_good, write_manifest, write_truncated, write_zip


def build(folder, rows, **settings):
    defaults = {"sample_rate": RATE, "min_sample_size": 400, "pad": True, "max_broken": 1.0}
    settings = AudioSettings(**{**defaults, **settings})
    return DistillationAudioDataset(write_manifest(folder, rows), settings)


def good_rows(folder, lengths):
    return [write_good(folder, f"good{i}.flac", n, seed=i) for i, n in enumerate(lengths)]


@pytest.mark.parametrize("normalize", [False, True])
def test_every_kind_is_skipped_and_named_once(tmp_path, caplog, normalize):
    broken = write_broken_set(tmp_path)
    dataset = build(tmp_path, broken + good_rows(tmp_path, [5000]), normalize=normalize)
    caplog.set_level(logging.WARNING)
    for _ in range(2):
        sources = [dataset[i]["source"] for i in range(len(dataset))]
        assert [source is None for source in sources] == [True] * len(broken) + [False]
    assert dataset.num_broken == len(broken)
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == len(broken)
    for count, (warning, (name, _, _)) in enumerate(zip(warnings, broken), start=1):
        assert f"skipped {count} of {len(dataset)} files so far: {tmp_path}/{name}: " in warning
    text = dataset.describe_broken()
    assert f"{len(broken)} of {len(dataset)} files cannot be used" in text
    for label in {label for _, _, label in broken}:
        assert f"{[b[2] for b in broken].count(label)} {label}" in text


@pytest.mark.parametrize("longest", [6000, None])
@pytest.mark.parametrize("normalize", [False, True])
def test_good_files_equal_fairseqs_own(tmp_path, monkeypatch, normalize, longest):
    rows = good_rows(tmp_path, [5000, 8000, 6500])
    soundfile.write(tmp_path / "stereo.wav", make_noise(14000).reshape(7000, 2), RATE)
    rows += [("stereo.wav", 7000), (write_zip(tmp_path, "all.zip", "good1.flac"), 8000)]
    kwargs = dict(min_sample_size=400, max_sample_size=longest, normalize=normalize, num_buckets=2, pad=True)
    ours = build(tmp_path, rows, **kwargs)
    stock = FileAudioDataset(tmp_path / "train.tsv", RATE, **kwargs)
    for index in range(len(rows)):
        assert torch.equal(ours[index]["source"], stock[index]["source"])
    batches = [ours.collater([ours[i] for i in range(len(rows))])]
    # fairseq draws other places: it gets ours
    places = iter(batches[0]["net_input"]["source"][1:] if longest else [])
    monkeypatch.setattr(stock, "crop_to_max_size", lambda wave, size: find_part(wave, next(places), size))
    batches.append(stock.collater([stock[i] for i in range(len(rows))]))
    assert batches[0].keys() == batches[1].keys() and next(places, None) is None
    for key, value in batches[1]["net_input"].items():
        assert torch.equal(batches[0]["net_input"][key], value)


def find_part(wave, part, size):
    """The place in a wave where `part` begins, as `size` samples of the wave."""
    (start,) = (wave.unfold(0, size, 1) == part[:size]).all(1).nonzero().flatten().tolist()
    return wave[start : start + size]


def test_crops_follow_from_the_seed_the_epoch_and_the_rows_alone(tmp_path):
    dataset = build(tmp_path, good_rows(tmp_path, [5000, 8000, 9000]), max_sample_size=2000, pad=False)

    def read(epoch, shuffle=True):
        np.random.seed()  # a process like any other
        batches = EpochBatchIterator(
            dataset, dataset.collater, [[0, 1], [2]], seed=1, epoch=epoch, num_workers=1
        ).next_epoch_itr(shuffle=shuffle)
        return {tuple(batch["id"].tolist()): batch["net_input"]["source"] for batch in batches}

    first, again, second = read(1), read(1, shuffle=False), read(2)
    for ids, wave in first.items():
        assert torch.equal(wave, again[ids])
        assert not torch.equal(wave, second[ids])
    assert any(torch.equal(first[(2,)][0], part) for part in dataset[2]["source"].unfold(0, 2000, 1))
    alone = dataset.collater([dataset[1]])["net_input"]["source"][0]
    dataset.set_epoch(1)
    beside = dataset.collater([dataset[1], dataset[2]])["net_input"]["source"][0]
    assert torch.equal(beside, first[(0, 1)][1]) and not torch.equal(beside, alone), "alone it was the second epoch's"
    dataset.seed = 7
    assert not torch.equal(dataset.collater([dataset[1]])["net_input"]["source"][0], beside)


def test_a_crop_neither_reads_nor_changes_numpys_own_generator(tmp_path, monkeypatch):
    """fairseq collates in a thread, while masks may be drawn in the other."""
    dataset = build(tmp_path, good_rows(tmp_path, [5000, 8000]), max_sample_size=2000)
    for name in ("seed", "set_state", "get_state", "randint", "random", "choice"):
        monkeypatch.setattr(np.random, name, None)
    assert dataset.collater([dataset[0], dataset[1]])["net_input"]["source"].shape == (2, 2000)


def test_batches_of_an_epoch_are_those_of_a_run_that_starts_in_it(tmp_path):
    """fairseq keeps the batches of the first epoch otherwise, and a resumed run then has others than were saved."""

    def read(epochs):
        dataset, task = build(tmp_path, rows, pad=True), FairseqTask(SimpleNamespace())
        for epoch in epochs:
            iterator = task.get_batch_iterator(dataset, max_sentences=2, seed=1, epoch=epoch)
        return [batch["id"].tolist() for batch in iterator.next_epoch_itr()]

    rows = good_rows(tmp_path, [5000] * 8)
    assert read([1, 2, 3]) == read([3]) != read([1])


def test_padding_and_cropping_ignore_broken_files(tmp_path):
    rows = good_rows(tmp_path, [5000, 8000]) + [write_truncated(tmp_path, "cut.flac", 4000)]
    padded = build(tmp_path, rows)
    batch = padded.collater([padded[i] for i in range(3)])
    assert batch["id"].tolist() == [0, 1]
    assert batch["net_input"]["padding_mask"].sum(1).tolist() == [3000, 0]
    assert np.allclose(batch["net_input"]["source"][0, :5000], make_noise(5000, 0), atol=1e-4)
    cropped = build(tmp_path, rows, pad=False)
    batch = cropped.collater([cropped[i] for i in range(3)])
    assert batch["net_input"]["source"].shape == (2, 5000) and "padding_mask" not in batch["net_input"]


@pytest.mark.parametrize("workers, start", [(0, None), (2, "fork"), (1, "spawn")])
def test_counts_are_right_with_workers(tmp_path, workers, start):
    good = good_rows(tmp_path, [5000, 8000, 6500, 7000])
    cut = [write_truncated(tmp_path, f"cut{i}.flac", 8000) for i in range(4)]
    dataset = build(tmp_path, [row for pair in zip(good, cut) for row in pair])
    loader = DataLoader(
        dataset,
        batch_sampler=[[0, 1], [2, 3, 4], [5, 6], [7]],
        collate_fn=dataset.collater,
        num_workers=workers,
        multiprocessing_context=start,
        persistent_workers=workers > 0,
    )
    for _ in range(2):
        batches = list(loader)
        assert [batch["id"].tolist() for batch in batches] == [[0], [2, 4], [6], [0]]
        assert batches[1]["net_input"]["padding_mask"].sum(1).tolist() == [0, 1500]
        assert dataset.num_broken == 4


@pytest.mark.parametrize("workers", [0, 2])
def test_stops_with_a_sentence_beyond_the_limit(tmp_path, workers):
    rows = good_rows(tmp_path, [5000] * 7) + [write_truncated(tmp_path, f"cut{i}.flac", 5000) for i in range(3)]
    dataset = build(tmp_path, rows, max_broken=0.2)
    loader = DataLoader(dataset, batch_size=1, collate_fn=dataset.collater, num_workers=workers)
    batches = iter(loader)
    with pytest.raises(UserError) as caught:
        for _ in range(len(rows)):
            next(batches)
    if workers:
        batches._shutdown_workers()  # torch waits 10 s where the garbage collector does it after an exception
    last_lines = str(caught.value).strip().splitlines()[-2:]
    assert f"{tmp_path}/train.tsv: 3 of 10 files cannot be used (3 unreadable): " in last_lines[0]
    assert all(f"{tmp_path}/cut{i}.flac" in last_lines[0] for i in range(3))
    assert "more than task.max_broken=0.2 allows" in last_lines[1] and "During handling" not in str(caught.value)


def test_one_broken_file_of_a_small_set_is_tolerated_unless_zero(tmp_path):
    rows = good_rows(tmp_path, [5000] * 3) + [("gone.flac", 5000), ("lost.flac", 5000)]
    dataset = build(tmp_path, rows, max_broken=0.01)
    assert dataset[3]["source"] is None
    with pytest.raises(UserError, match="2 of 5 files"):
        dataset[4]
    with pytest.raises(UserError, match="1 of 5 files"):
        build(tmp_path, rows, max_broken=0)[3]


def test_an_emptied_batch_gets_a_stand_in_also_as_the_first(tmp_path, caplog):
    rows = [write_truncated(tmp_path, f"cut{i}.flac", 9000) for i in range(2)] + good_rows(tmp_path, [5000] * 2)
    dataset = build(tmp_path, rows)
    batches = EpochBatchIterator(dataset, dataset.collater, [[0, 1], [2, 3]])
    assert batches.first_batch["id"].tolist() == [2]
    assert [batch["id"].tolist() for batch in batches.next_epoch_itr(shuffle=False)] == [[2], [2, 3]]
    assert "good0.flac stands in" in caplog.text
    assert dataset.collater([]) == {}


def test_a_set_without_any_usable_file_stops(tmp_path):
    dataset = build(tmp_path, [("gone.flac", 5000), ("lost.flac", 5000)])
    with pytest.raises(UserError, match="no usable file is left"):
        dataset.collater([dataset[0]])


def test_only_input_output_errors_are_tried_again(tmp_path, monkeypatch):
    dataset = build(tmp_path, good_rows(tmp_path, [5000]) + [write_truncated(tmp_path, "cut.flac", 5000)])
    opened, pauses, real = [], [], soundfile.SoundFile

    def open_badly(source):
        opened.append(source)
        if source.endswith("good0.flac") and len(opened) < 3:
            raise soundfile.LibsndfileError(2)
        return real(source)

    monkeypatch.setattr(audio_file.soundfile, "SoundFile", open_badly)
    monkeypatch.setattr("fairseq_distill.data.audio_dataset.time.sleep", pauses.append)
    assert dataset[0]["source"] is not None and pauses == [1, 2]
    assert dataset[1]["source"] is None and pauses == [1, 2] and len(opened) == 4
    assert dataset[1]["source"] is None and len(opened) == 4


def test_builder_checks_first(tmp_path, caplog):
    rows = good_rows(tmp_path, [5000] * 3) + [("gone.flac", 5000), ("lost.flac", 5000), ("tiny.wav", 10)]
    path = write_manifest(tmp_path, rows)
    kwargs = dict(sample_rate=RATE, min_sample_size=400)
    with pytest.raises(UserError, match="2 of them cannot be used\n  2 missing, such as\n.*gone.flac") as caught:
        load_audio_dataset(path, AudioSettings(**kwargs))
    assert "task.max_broken=0.01" in str(caught.value)
    caplog.set_level(logging.INFO)
    dataset = load_audio_dataset(
        path, AudioSettings(max_broken=0.4, max_sample_size=4500, pad=True, num_buckets=1, **kwargs)
    )
    assert "2 missing" in caplog.text and "left out 1 of 6 rows" in caplog.text
    assert len(dataset) == 5 and dataset[0]["source"].shape == (5000,)
    assert dataset.collater([dataset[0]])["net_input"]["source"].shape == (1, 4500)


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"max_broken": 1.5}, "task.max_broken=1.5"),
        ({"num_buckets": 3}, "task.enable_padding=true"),
        ({"max_sample_size": 300}, "task.max_sample_size=300 crops below"),
        ({"min_sample_size": 6000}, "all rows are shorter than 6000 samples"),
    ],
)
def test_builder_refuses_contradictions(tmp_path, kwargs, message):
    path = write_manifest(tmp_path, good_rows(tmp_path, [5000]))
    with pytest.raises(UserError, match=message):
        load_audio_dataset(path, AudioSettings(**{"sample_rate": RATE, "min_sample_size": 400, **kwargs}))


def test_compressed_names_are_found(tmp_path):
    from fairseq.data.text_compressor import TextCompressionLevel

    path = write_manifest(tmp_path, good_rows(tmp_path, [5000]))
    settings = AudioSettings(sample_rate=RATE, min_sample_size=400)
    dataset = DistillationAudioDataset(path, settings, text_compression_level=TextCompressionLevel.low)
    assert dataset.path(0) == f"{tmp_path}/good0.flac" and dataset[0]["source"] is not None


@pytest.mark.parametrize("limits", [dict(max_sentences=3), dict(max_tokens=20_000), dict(max_sentences=16)])
def test_no_row_is_left_out_of_the_batches(tmp_path, limits):
    """fairseq's main branch drops a last batch whose size is no multiple of 8, of its own datasets too."""
    ours = build(tmp_path, good_rows(tmp_path, [5000, 8000, 6500, 4000, 5500, 7000, 6000, 5000, 4500, 6600]))
    for dataset in (ours, FileAudioDataset(tmp_path / "train.tsv", RATE, pad=True)):
        indices = dataset.ordered_indices()
        batches = dataset.batch_by_size(indices, required_batch_size_multiple=8, **limits)
        assert [row for batch in batches for row in batch] == list(indices)
        assert all(len(batch) <= limits.get("max_sentences", 10) for batch in batches)
        assert all(max(dataset.sizes[batch]) * len(batch) <= limits.get("max_tokens", 10**6) for batch in batches)


def test_a_row_too_long_for_a_batch_is_left_out_with_a_count_or_refused(tmp_path, caplog):
    """fairseq stops with an AssertionError that names neither manifest nor setting."""
    rows = good_rows(tmp_path, [5000, 8000, 6500, 4000])
    dataset = build(tmp_path, rows, max_broken=0.25)
    batches = dataset.batch_by_size(dataset.ordered_indices(), max_tokens=7000)
    assert sorted(row for batch in batches for row in batch) == [0, 2, 3]
    assert "1 of 4 rows have more samples than dataset.max_tokens=7000" in caplog.text and "8,000" in caplog.text
    with pytest.raises(UserError, match="2 of 4 rows have .* task.max_sample_size, raise dataset.max_tokens"):
        dataset.batch_by_size(dataset.ordered_indices(), max_tokens=6000)
    one = build(tmp_path, rows[:1])
    with pytest.raises(UserError, match="1 of 1 rows have more samples"):
        one.batch_by_size([0], max_tokens=4999)
    cropped = build(tmp_path, rows, max_sample_size=4500)
    batches = cropped.batch_by_size(cropped.ordered_indices(), max_tokens=4500)
    assert sorted(row for batch in batches for row in batch) == [0, 1, 2, 3]
