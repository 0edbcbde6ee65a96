"""Labels beside waves: each label belongs to the samples that it stands next to, however the wave was cropped."""

import numpy as np
import pytest
import soundfile
import torch
from torch.utils.data import DataLoader

from fairseq_distill.data.audio_dataset import DistillationAudioDataset, load_audio_dataset
from fairseq_distill.data.audio_settings import AudioSettings
from fairseq_distill.data.unit_labels import UnitLabels, read_dictionary
from fairseq_distill.encoder.config import EncoderConfig
from fairseq_distill.encoder.conv_spec import count_frames
from fairseq_distill.errors import UserError

from ..builders import SMALL, build_dictionary, build_stock_hubert
from .broken_audio import RATE, write_manifest, write_truncated

LAYERS = EncoderConfig().conv_layers
LENGTHS = [9000, 30_000, 17_111, 24_000]


def write_ramps(folder, lengths=LENGTHS):
    """Waves whose samples are their positions, with labels to match: unit t for frame t. Returns manifest rows."""
    rows = []
    for index, length in enumerate(lengths):
        soundfile.write(folder / f"ramp{index}.wav", np.arange(length, dtype=np.int16), RATE)
        rows.append((f"ramp{index}.wav", length))
    write_labels(folder, [count_frames(length, LAYERS) for length in lengths])
    (folder / "dict.km.txt").write_text("".join(f"{unit} 1\n" for unit in range(200)))
    return rows


def write_labels(folder, lengths):
    (folder / "train.km").write_text("".join(" ".join(map(str, range(n))) + "\n" for n in lengths))


def build(folder, rows, layers=LAYERS, **settings):
    labels = UnitLabels(folder / "train.km", read_dictionary(folder), layers, RATE)
    defaults = {"sample_rate": RATE, "min_sample_size": 400, "pad": True, "max_broken": 1.0}
    settings = AudioSettings(**{**defaults, **settings})
    return DistillationAudioDataset(write_manifest(folder, rows), settings, labels)


def read_times(batch, dataset):
    """For each wave of a batch: its first sample, its samples, and its labels as frame numbers, -1 for padding."""
    (targets,) = batch["target_list"]
    source = batch["net_input"]["source"]
    mask = batch["net_input"].get("padding_mask", torch.zeros_like(source, dtype=torch.bool))
    pad = dataset.labels.dictionary.pad()
    frames = torch.where(targets == pad, -1, targets - dataset.labels.dictionary.index("0"))
    starts = (source[:, 0] * 32_768).round().long()
    return list(zip(starts.tolist(), (~mask).sum(1).tolist(), frames.tolist()))


@pytest.mark.parametrize(
    "settings", [{"pad": False}, {"max_sample_size": 12_000}, {"num_buckets": 2}, {"normalize": True}]
)
def test_labels_are_of_the_frames_of_the_cropped_wave(tmp_path, settings):
    rows = write_ramps(tmp_path)
    dataset = build(tmp_path, rows, **settings)
    seen = set()
    for epoch in (1, 2, 3):
        dataset.set_epoch(epoch)
        batch = dataset.collater([dataset[i] for i in range(len(rows))])
        width = batch["net_input"]["source"].size(1)
        for index, (start, samples, frames) in enumerate(read_times(batch, dataset)):
            start = 0 if settings.get("normalize") else start
            assert start % 320 == 0 and start + samples <= LENGTHS[index]
            count = count_frames(samples, LAYERS)
            assert frames[:count] == list(range(start // 320, start // 320 + count))
            assert len(frames) == count_frames(width, LAYERS) and set(frames[count:]) <= {-1}
            seen.add((index, start))
    cropped = settings in ({"pad": False}, {"max_sample_size": 12_000})
    assert (len(seen) > len(rows)) == cropped


def test_the_target_fits_the_frames_of_stock_hubert(tmp_path):
    """Its forward_targets would cut frames off where labels were missing."""
    layers = EncoderConfig(conv_feature_layers=SMALL["conv_feature_layers"]).frame_layers
    rows = write_ramps(tmp_path, [1911, 3000, 2503])
    write_labels(tmp_path, [count_frames(length, layers) for _, length in rows])
    dataset = build(tmp_path, rows, layers, min_sample_size=85)
    batch = dataset.collater([dataset[i] for i in range(3)])
    stock = build_stock_hubert([dataset.labels.dictionary])
    features = stock.forward_features(batch["net_input"]["source"])
    trimmed, (targets,) = stock.forward_targets(features, batch["target_list"])
    assert trimmed.shape == features.shape and torch.equal(targets, batch["target_list"][0])
    assert features.size(2) == targets.size(1)


def test_crops_follow_from_the_epoch_also_in_workers(tmp_path):
    rows = write_ramps(tmp_path)
    dataset = build(tmp_path, rows, max_sample_size=5000)

    def read(workers):
        np.random.seed()
        loader = DataLoader(dataset, batch_sampler=[[0, 1], [2, 3]], collate_fn=dataset.collater, num_workers=workers)
        return torch.cat([torch.cat([b["net_input"]["source"][:, :1], b["target_list"][0]], 1) for b in loader])

    assert torch.equal(read(0), read(1))


def test_rows_that_fairseq_leaves_out_do_not_shift_the_labels(tmp_path):
    rows = write_ramps(tmp_path)
    tiny = ("tiny.wav", 390)  # its labels are an empty line
    lines = (tmp_path / "train.km").read_text().splitlines()
    (tmp_path / "train.km").write_text("\n".join([lines[0], "", *lines[1:]]) + "\n")
    dataset = build(tmp_path, [rows[0], tiny, *rows[1:]])
    assert [len(dataset[i]["labels"]) for i in range(4)] == [count_frames(length, LAYERS) for length in LENGTHS]


def test_broken_audio_takes_its_labels_along_and_a_stand_in_brings_its_own(tmp_path):
    rows = write_ramps(tmp_path)
    broken = write_truncated(tmp_path, "cut.flac", 8000)
    with open(tmp_path / "train.km", "a") as file:
        file.write(" ".join(["7"] * count_frames(8000, LAYERS)) + "\n")
    dataset = build(tmp_path, rows + [broken])
    batch = dataset.collater([dataset[4], dataset[0]])
    assert batch["id"].tolist() == [0] and read_times(batch, dataset)[0][2] == list(range(count_frames(9000, LAYERS)))
    batch = dataset.collater([dataset[4]])
    assert batch["id"].tolist() == [0] and batch["target_list"][0].shape == (1, count_frames(9000, LAYERS))
    assert dataset.collater([]) == {}


def test_without_labels_there_are_no_targets(tmp_path):
    settings = AudioSettings(sample_rate=RATE, min_sample_size=400, pad=True)
    dataset = DistillationAudioDataset(write_manifest(tmp_path, write_ramps(tmp_path)), settings)
    assert set(dataset[0]) == {"id", "source"} and "target_list" not in dataset.collater([dataset[0]])


def test_labels_of_another_manifest_or_rate_are_refused(tmp_path, caplog):
    rows = write_ramps(tmp_path)
    with pytest.raises(UserError, match="train.km has 4 lines, .*train.tsv 3 rows"):
        build(tmp_path, rows[:3])
    write_labels(tmp_path, [2 * count_frames(length, LAYERS) for length in LENGTHS])
    with pytest.raises(UserError, match="4 of 4 rows do not have 50 labels a second"):
        build(tmp_path, rows, max_broken=0.5)
    lengths = [count_frames(length, LAYERS) for length in LENGTHS]
    write_labels(tmp_path, [lengths[0] + 2, lengths[1] + 8, *lengths[2:]])  # 40 ms are tolerated, 160 ms are not
    dataset = build(tmp_path, rows, max_broken=0.25)
    assert "1 of 4 rows" in caplog.text and "line 2: 101 labels, 30000 samples" in caplog.text
    assert dataset.labels.lengths.tolist()[1] == lengths[1] + 8


def test_labels_that_are_of_another_wave_are_left_out_and_their_wave_is_not(tmp_path, caplog):
    rows = write_ramps(tmp_path)
    lengths = [count_frames(length, LAYERS) for length in LENGTHS]
    write_labels(tmp_path, [lengths[0], 0, lengths[2] + 6, lengths[3]])
    dataset = build(tmp_path, rows, max_broken=0.5)
    assert "2 of 4 rows" in caplog.text and "these rows' labels are left out" in caplog.text
    batch = dataset.collater([dataset[i] for i in range(4)])
    found = {int(i): frames for i, (_, _, frames) in zip(batch["id"], read_times(batch, dataset))}
    assert [sum(frame >= 0 for frame in found[i]) for i in range(4)] == [lengths[0], 0, 0, lengths[3]]
    assert batch["net_input"]["source"].std(1).min() > 0, "the waves are there"
    batch = dataset.collater([dataset[1]])
    assert batch["target_list"][0].tolist() == [[dataset.labels.dictionary.pad()] * lengths[1]]


@pytest.mark.parametrize("word", ["x", "200", "<pad>", "<unk>", "\ufeff0", "1\u00a02", "-1"])
def test_what_is_no_unit_is_counted_before_training(tmp_path, word):
    rows = write_ramps(tmp_path)
    lines = (tmp_path / "train.km").read_text().splitlines()
    lines[1], lines[3] = f"{lines[1]} {word}", f"{word} {lines[3]}"
    (tmp_path / "train.km").write_text("\n".join(lines) + "\n")
    with pytest.raises(
        UserError, match="train.km: 2 of 4 lines hold what is no unit .*line 2: .*; line 4: "
    ) as refused:
        build(tmp_path, rows)
    assert repr(word) in str(refused.value)


def test_bytes_that_are_no_text_are_no_unit(tmp_path):
    rows = write_ramps(tmp_path)
    with open(tmp_path / "train.km", "r+b") as file:
        file.write(b"\xff")
    with pytest.raises(UserError, match="train.km: 1 of 4 lines hold what is no unit"):
        build(tmp_path, rows)


def test_missing_files_and_unknown_units_are_named(tmp_path):
    rows = write_ramps(tmp_path)
    with pytest.raises(UserError, match="dict.ltr.txt: no such dictionary"):
        read_dictionary(tmp_path, "ltr")
    with pytest.raises(UserError, match="valid.km: no such file of labels"):
        UnitLabels(tmp_path / "valid.km", build_dictionary(), LAYERS, RATE)
    dataset = build(tmp_path, rows)
    dataset.labels.dictionary = build_dictionary(50)
    assert len(dataset[0]["labels"]) == 27
    with pytest.raises(UserError, match="train.km, line 2: '50' is no unit"):
        dataset[1]


def test_the_builder_hands_labels_on(tmp_path):
    path = write_manifest(tmp_path, write_ramps(tmp_path))
    labels = UnitLabels(tmp_path / "train.km", read_dictionary(tmp_path), LAYERS, RATE)
    dataset = load_audio_dataset(path, AudioSettings(sample_rate=RATE, min_sample_size=400, pad=True), labels)
    assert dataset.collater([dataset[0]])["target_list"][0].shape == (1, count_frames(9000, LAYERS))
