"""Manifests with labels beside them: which utterance trains which task, and how often it comes."""

import logging
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from fairseq.tasks import FairseqTask

from fairseq_distill.data.audio_settings import AudioSettings
from fairseq_distill.errors import UserError
from fairseq_distill.multitask.augmentation import Augmentation
from fairseq_distill.multitask.dataset import load_multitask_dataset
from fairseq_distill.multitask.labels import collect_classes
from fairseq_distill.multitask.task_list import parse_tasks

from ..runs import write_labels

CLASSES = {"keyword": ["no", "yes"], "speaker": ["ann", "bob"]}


def write_manifest(folder, lengths, split="train", rate=16_000):
    """Waves that can be told apart by their first sample, whatever is done to the rest."""
    folder.mkdir(exist_ok=True)
    rows = []
    for number, length in enumerate(lengths):
        wave = np.random.default_rng(number).uniform(-0.1, 0.1, length)
        soundfile.write(folder / f"{split}{number}.flac", wave, rate)
        rows.append(f"{split}{number}.flac\t{length}")
    (folder / f"{split}.tsv").write_text("\n".join([str(folder), *rows]) + "\n")
    return folder


def load(folders, entries=({}, {}), split="train", training=True, augmentation=None, normalize=False, **options):
    """Two tasks over these folders, each task's own."""
    kinds = ("classification", "verification")
    tasks = parse_tasks([{"name": n, "kind": k, **e} for n, k, e in zip(CLASSES, kinds, entries)])
    folders = [[str(f) for f in own] for own in folders]
    group = options.pop("group_by_length", False)
    defaults = {"sample_rate": 16_000, "min_sample_size": 400, "pad": True, "max_broken": 0.5}
    settings = AudioSettings(normalize=normalize, **{**defaults, **options})
    return load_multitask_dataset(
        split,
        tasks,
        folders,
        CLASSES,
        settings,
        augmentation=augmentation,
        training=training,
        group_by_length=group,
    )


def test_one_of_several_folders_at_another_rate_is_named(tmp_path):
    words, people = write_manifest(tmp_path / "words", [2000]), write_manifest(tmp_path / "people", [2000], rate=8000)
    write_labels(words, "train", keyword=["yes"])
    write_labels(people, "train", speaker=["ann"])
    with pytest.raises(
        UserError, match="people/train.tsv: all 1 files .*, 1 of them cannot be used(.|\n)*8000 Hz inst"
    ):
        load([[words], [people]])


@pytest.fixture
def one(tmp_path):
    """Five utterances, the second too short, the fourth without any label."""
    folder = write_manifest(tmp_path / "one", [2000, 300, 1500, 1200, 1000])
    write_labels(folder, "train", keyword=["yes", "no", "", "", "no"], speaker=["", "ann", "bob", "", "ann"])
    return folder


def test_labels_follow_the_rows_and_empty_lines_are_no_labels(one):
    data = load([[one], [one]])
    assert data.targets.tolist() == [[1, -1], [-1, 1], [-1, -1], [0, 0]]
    assert sorted(data.ordered_indices()) == [0, 1, 3]
    batch = data.collater([data[3], data[0]])
    assert batch["targets"].tolist() == [[0, 0], [1, -1]] and batch["id"].tolist() == [3, 0]
    source, mask = batch["net_input"]["source"], batch["net_input"]["padding_mask"]
    assert source.shape == (2, 2000) and mask.sum(1).tolist() == [1000, 0]
    expected = soundfile.read(one / "train4.flac", dtype="float32")[0]
    torch.testing.assert_close(source[0, :1000], torch.from_numpy(expected))


def test_several_manifests_each_with_the_tasks_that_name_it(one, tmp_path):
    other = write_manifest(tmp_path / "other", [1100, 900])
    write_labels(other, "train", speaker=["bob", "ann"], keyword=["yes", "yes"])
    data = load([[one], [one, other]])
    assert data.targets.tolist() == [[1, -1], [-1, 1], [-1, -1], [0, 0], [-1, 1], [-1, 0]]
    batch = data.collater([data[4], data[1]])
    assert batch["id"].tolist() == [4, 1]
    expected = soundfile.read(other / "train0.flac", dtype="float32")[0]
    torch.testing.assert_close(batch["net_input"]["source"][0, :1100], torch.from_numpy(expected))


def test_manifests_are_drawn_by_weight(tmp_path):
    one, other = write_manifest(tmp_path / "one", [1000] * 30), write_manifest(tmp_path / "other", [1000] * 10)
    write_labels(one, "train", keyword=["yes", "no"] * 15)
    write_labels(other, "train", speaker=["ann", "bob"] * 5)
    data = load([[one], [other]], ({"sampling": 1}, {"sampling": 3}))
    np.random.seed(0)
    draws = np.concatenate([data.ordered_indices() for _ in range(100)])
    assert len(draws) == 100 * 40
    assert (draws >= 30).mean() == pytest.approx(0.75, abs=0.03)


def test_epochs_draw_anew_and_the_same_epoch_draws_the_same(one):
    data = load([[one], [one]], ({"balanced": True}, {}))
    orders = []
    for seed in (1, 2, 3, 1):
        np.random.seed(seed)
        orders.append(data.ordered_indices().tolist())
    assert orders[0] == orders[3] and len({tuple(o) for o in orders}) > 1
    assert all(2 not in order for order in orders)


def test_validation_neither_draws_nor_shuffles_and_counts_unknown_classes(one, tmp_path, caplog):
    write_manifest(one, [1000] * 4, split="valid")
    write_labels(one, "valid", keyword=["yes", "", "no", ""], speaker=["dan", "eve", "ann", "dan"])
    with caplog.at_level(logging.INFO):
        data = load([[one], [one]], ({"balanced": True}, {}), split="valid", training=False)
    assert data.ordered_indices().tolist() == [0, 2]
    assert data.targets.tolist() == [[1, -1], [-1, -1], [0, 0], [-1, -1]]
    assert "3 of 4 labelled utterances are of 2 classes that training does not have (dan, eve)" in caplog.text
    assert "2 of 4 utterances have labels: 2 for keyword, 1 for speaker" in caplog.text


def test_no_utterance_is_lost_between_batches(one):
    data = load([[one], [one]])
    batches = data.batch_by_size(data.ordered_indices(), max_sentences=2, required_batch_size_multiple=8)
    assert sorted(index for batch in batches for index in batch) == [0, 1, 3]


def test_tasks_meet_in_a_batch_unless_it_is_grouped_by_length(tmp_path):
    short = write_manifest(tmp_path / "short", [800] * 32)
    write_labels(short, "train", keyword=["yes", "no"] * 16)
    long = write_manifest(tmp_path / "long", [1600] * 32)
    write_labels(long, "train", speaker=["ann", "bob"] * 16)
    mixed, grouped = (load([[short], [long]], group_by_length=choice) for choice in (False, True))
    for data, expected in ((mixed, {1, 2}), (grouped, {1})):
        np.random.seed(1)
        batches = data.batch_by_size(data.ordered_indices(), max_sentences=16)
        assert sorted(index for batch in batches for index in batch) == list(range(64))
        lengths = [len({int(data.sizes[index]) for index in batch}) for batch in batches]
        assert set(lengths) <= expected and max(expected) in lengths


def test_crops_and_normalisation(one):
    data = load([[one], [one]], max_sample_size=800, normalize=True)
    assert data.num_tokens(0) == data.size(0) == 800 and data.sizes.tolist() == [800] * 4
    source = data.collater([data[0], data[3]])["net_input"]["source"]
    assert source.shape == (2, 800)
    whole = data[0]["source"]
    assert whole.mean().abs() < 1e-6 and whole.pow(2).mean().item() == pytest.approx(1.0, abs=1e-2)
    again = data.collater([data[0], data[3]])["net_input"]["source"]
    data.set_epoch(2)
    later = data.collater([data[0], data[3]])["net_input"]["source"]
    assert torch.equal(source, again) and not torch.equal(source, later)


def test_augmentation_changes_with_the_epoch_also_in_workers(one):
    data = load([[one], [one]], augmentation=Augmentation(speeds=[0.5, 0.7, 0.9, 1.1, 1.3, 1.5]))
    task = FairseqTask(SimpleNamespace())

    def sources(epoch):
        batches = task.get_batch_iterator(data, max_sentences=1, num_workers=1, epoch=epoch).next_epoch_itr(
            shuffle=False
        )
        return {int(batch["id"]): batch["net_input"]["source"] for batch in batches}

    first, again, second = sources(1), sources(1), sources(2)
    assert all(torch.equal(first[row], again[row]) for row in first)
    assert any(first[row].shape != second[row].shape for row in first)


def test_broken_files_leave_the_batch_and_another_stands_in_for_an_empty_one(one):
    data = load([[one], [one]])
    (one / "train0.flac").write_bytes(b"nothing")
    batch = data.collater([data[0], data[1]])
    assert batch["id"].tolist() == [1] and batch["targets"].tolist() == [[-1, 1]]
    assert data.collater([data[0]])["id"].tolist() == [1]
    assert data.collater([]) == {}


def test_classes_are_the_sorted_labels_of_all_folders(one, tmp_path):
    other = write_manifest(tmp_path / "other", [1000])
    write_labels(other, "train", speaker=["aaron"])
    speaker = parse_tasks([{"name": "speaker", "kind": "verification"}])[0]
    assert collect_classes(speaker, [str(one), str(other)], "train") == ["aaron", "ann", "bob"]
    with pytest.raises(UserError, match="task speaker: .*holds 1 classes .aaron.; two are needed"):
        collect_classes(speaker, [str(other)], "train")
    with pytest.raises(UserError, match="cannot read the labels .*other/train.word"):
        collect_classes(parse_tasks([{"name": "word", "kind": "classification"}])[0], [str(other)], "train")


def test_files_that_do_not_fit_are_refused(one):
    write_labels(one, "train", keyword=["yes"])
    with pytest.raises(UserError, match="train.keyword has 1 lines, but train.tsv has 5"):
        load([[one], [one]])
    write_labels(one, "train", keyword=["maybe"] * 5, speaker=[""] * 5)
    with pytest.raises(UserError, match="no utterance has a label that its task knows"):
        load([[one], [one]])
