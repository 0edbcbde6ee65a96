"""Some 300 odd inputs end as the troubleshooting page says: used, skipped with a count, or refused in a sentence."""

import json
import logging

import numpy as np
import pytest
from torch.utils.data import DataLoader

from fairseq_distill.cli.main import main
from fairseq_distill.cli.predict import run_model
from fairseq_distill.corpora.utterances import LeftOut, Utterance, keep_usable
from fairseq_distill.data import manifest as manifest_module
from fairseq_distill.data import token_dictionary, unit_labels
from fairseq_distill.data.audio_dataset import load_audio_dataset
from fairseq_distill.data.manifest import read_manifest
from fairseq_distill.data.unit_labels import UnitLabels, read_dictionary
from fairseq_distill.data.unreadable import UnreadableLimit
from fairseq_distill.encoder.config import EncoderConfig
from fairseq_distill.errors import UserError
from fairseq_distill.evaluation.trials import read_trials
from fairseq_distill.layer_clusters.clustering import cluster_layers
from fairseq_distill.layer_clusters.similarity import Similarity
from fairseq_distill.layer_clusters.storage import read_groups, write_clusters
from fairseq_distill.multitask.augmentation import NoiseManifest
from fairseq_distill.multitask.labels import collect_classes
from fairseq_distill.multitask.task_list import parse_tasks

from ..builders import build_multitask, save_teacher
from . import bad_data
from .broken_audio import RATE, write_manifest

AUDIO = bad_data.write_audio
COMMANDS = {
    "units": ["units", "{teacher}", "{manifest}", "--layer", "2", "--clusters", "4", "--out", "{out}"],
    "clusters": ["clusters", "{teacher}", "{manifest}"],
    "similarity": ["similarity", "{teacher}", "{teacher}", "{manifest}", "--json"],
    "probe": ["evaluate", "probe", "{teacher}", "--data", "{folder}", "--cache", "{out}", "--json"],
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder of all odd audio, the manifest over it, and the cases."""
    folder = tmp_path_factory.mktemp("odd")
    cases = AUDIO(folder)
    write_manifest(folder, [(case.path, case.samples) for case in cases])
    return folder, cases


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return save_teacher(tmp_path_factory.mktemp("teacher") / "teacher.pt")


@pytest.fixture
def any_number_may_be_broken(monkeypatch):
    monkeypatch.setattr(UnreadableLimit, "is_exceeded", lambda self, count: False)


def run(name, teacher, manifest, out):
    words = dict(teacher=teacher, manifest=manifest, folder=manifest.parent, out=out)
    return main([word.format(**words) for word in COMMANDS[name]])


def read_all(dataset):
    loader = DataLoader(dataset, batch_size=7, collate_fn=dataset.collater)
    return [index for batch in loader for index in batch["id"].tolist()]


def test_there_are_as_many_cases_as_promised(place):
    _, cases = place
    texts = [bad_data.list_manifests("/"), bad_data.list_labels(), bad_data.list_units(), bad_data.list_dictionaries()]
    assert len(cases) + sum(map(len, texts)) + len(bad_data.list_trials()) >= 250
    assert 40 < sum(case.bad for case in cases) < len(cases) - 40
    assert len({case.path for case in cases}) == len(cases)


def test_training_uses_what_is_good_and_counts_the_rest(place):
    folder, cases = place
    dataset = load_audio_dataset(folder / "train.tsv", min_sample_size=400, pad=True, max_broken=1.0)
    found = set(read_all(dataset))
    wrong = [case for index, case in enumerate(cases) if (index in found) == case.bad]
    assert wrong == [] and dataset.num_broken == sum(case.bad for case in cases)
    cropped = load_audio_dataset(
        folder / "train.tsv", min_sample_size=400, max_sample_size=3000, normalize=True, max_broken=1.0
    )
    assert set(read_all(cropped)) == found


def test_files_without_permission_are_refused_by_their_names(tmp_path, monkeypatch):
    """Patched: who runs tests as root may read all."""

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    names = ("train.tsv", "train.km", "dict.km.txt")
    for name in names:
        (tmp_path / name).write_text("x")
    for module in (manifest_module, unit_labels, token_dictionary):
        monkeypatch.setattr(module, "open", refuse, raising=False)
    for name, read in zip(
        names, (read_manifest, lambda path: UnitLabels(path, None, [(1, 1, 1)], 16_000), read_folder_of)
    ):
        with pytest.raises(UserError, match=f"^{tmp_path}/{name}: cannot be read: Permission denied"):
            read(tmp_path / name)


def read_folder_of(path):
    return read_dictionary(str(path.parent))


def test_noise_of_augmentation_is_of_the_good_ones(place, caplog):
    folder, cases = place
    caplog.set_level(logging.CRITICAL)
    noise = NoiseManifest(str(folder / "train.tsv"), RATE, max_broken=1.0)
    for row, case in enumerate(cases):
        drawn = noise.draw(1000, FirstRow(row))
        assert drawn.shape == (1000,) and np.isfinite(drawn).all() and drawn.any(), case
        assert abs(drawn).max() <= 2.0**31


class FirstRow:
    """A generator that draws this row, and a place near the end."""

    def __init__(self, row):
        self.row = row

    def integers(self, high):
        return self.row

    def random(self):
        return 0.93


def test_predict_refuses_each_bad_file_by_its_name(place):
    folder, cases = place
    model = build_multitask()
    model.cfg = EncoderConfig()  # for its receptive field of 400 samples
    model.run_wave = len
    for case in cases:
        path = str(folder / case.path)
        if case.by_manifest:
            continue
        if case.bad:
            with pytest.raises(UserError) as refused:
                run_model(model, path)
            assert str(refused.value).startswith(f"{path} cannot be used: "), case
        else:
            assert run_model(model, path) >= 400, case


def test_corpora_leave_out_each_bad_file_with_a_count(place):
    folder, cases = place
    left_out = LeftOut()
    kept = keep_usable(folder, "train", [Utterance(case.path, {}) for case in cases], left_out, 16_000)
    names = {utterance.path for utterance in kept}
    several = {"stereo.wav", "six channels.wav"}  # it wants one channel
    for case in cases:
        if not case.bad:
            assert (case.path in names) != (case.path in several), case
    # headers are read, not samples: what only decoding shows is left to training, which counts it
    decoded = {"1e30", "1e38", "inf", "nan", "silent", "constant", "1e-42", "zero"}
    found = {case.path for case in cases if case.bad and not case.by_manifest and case.path in names}
    assert {path for path in found if not any(word in path for word in decoded)} == {
        "half.pcm.flac",
        "hundredth.pcm.flac",
    }
    counted = sum(int(line.split(" of ")[0]) for line in left_out.describe())
    assert counted == len(cases) - len(kept)


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_counts_the_bad_files(place, teacher, tmp_path, capsys, any_number_may_be_broken, name):
    folder, cases = place
    bad = sum(case.bad for case in cases if case.path != "short.wav")  # the small teacher makes frames of it
    for split in ("train", "valid", "test"):
        (tmp_path / f"{split}.tsv").write_bytes((folder / "train.tsv").read_bytes())
        (tmp_path / f"{split}.keyword").write_text("".join(f"{'yes' if i % 2 else 'no'}\n" for i in range(len(cases))))
    assert run(name, teacher, tmp_path / "train.tsv", tmp_path / "out") == 0
    shown = capsys.readouterr()
    if name == "units":
        about = json.loads((tmp_path / "out" / "units.json").read_text())
        assert about["manifests"][0]["unreadable"] == about["fit"]["unreadable"] == bad
    elif name == "probe":
        assert [json.loads(shown.out)["skipped"][s]["unreadable"] for s in ("train", "valid", "test")] == [bad] * 3
    elif name == "similarity":
        assert json.loads(shown.out)["data"]["unreadable"] == bad
    else:
        assert f"{len(cases) - bad} utterances of" in shown.out
    assert "Traceback" not in shown.err


@pytest.mark.parametrize("number, case", enumerate(bad_data.list_manifests("/")))
def test_a_manifest_is_read_or_refused_by_its_name(place, teacher, tmp_path, capsys, caplog, number, case):
    folder, _ = place
    text = bad_data.list_manifests(str(folder))[case]
    path = tmp_path / "train.tsv"
    path.write_bytes(text.data)
    if not text.refused:
        assert set(read_manifest(path).paths) == {"pcm.flac"}
        assert len(load_audio_dataset(path, min_sample_size=400)[0]["source"]) == bad_data.SAMPLES
        assert ("2 of 3 rows repeat the path of an earlier one, the first: pcm.flac" in caplog.text) == (
            case == "repeated"
        )
        return
    with pytest.raises(UserError, match=text.refused) as refused:
        load_audio_dataset(path, min_sample_size=400)
    assert str(refused.value).startswith(str(path)) and len(str(refused.value)) < 600
    for split in ("valid", "test"):
        (tmp_path / f"{split}.tsv").write_bytes(text.data)
    for split in ("train", "valid", "test"):
        (tmp_path / f"{split}.keyword").write_text("yes\n")
    name = list(COMMANDS)[number % len(COMMANDS)]  # each case in one command, each command some cases
    assert run(name, teacher, path, tmp_path / "out") == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith(f"fairseq-distill {COMMANDS[name][0]}: {path}") and text.refused in said


@pytest.mark.parametrize("case", bad_data.list_labels())
def test_labels_are_read_or_refused_by_their_name(place, tmp_path, case):
    folder, _ = place
    text = bad_data.list_labels()[case]
    write_rows(tmp_path, folder)
    (tmp_path / "train.keyword").write_bytes(text.data)
    (task,) = parse_tasks([{"name": "keyword", "kind": "classification"}])
    if text.refused:
        with pytest.raises(UserError, match=text.refused) as refused:
            collect_classes(task, [str(tmp_path)], "train")
        assert f"{tmp_path}/train.keyword" in str(refused.value)
    else:
        assert collect_classes(task, [str(tmp_path)], "train") == ["no", "yes"]


def write_rows(path, root):
    (path / "train.tsv").write_text("\n".join([str(root), *[f"pcm.flac\t{bad_data.SAMPLES}"] * 3]) + "\n")


@pytest.mark.parametrize("case", bad_data.list_units())
def test_units_are_read_or_refused_by_their_name(place, tmp_path, case):
    folder, _ = place
    text = bad_data.list_units()[case]
    write_rows(tmp_path, folder)
    (tmp_path / "train.km").write_bytes(text.data)
    (tmp_path / "dict.km.txt").write_bytes(bad_data.list_dictionaries()["plain"].data)

    def read():
        labels = UnitLabels(tmp_path / "train.km", read_dictionary(str(tmp_path)), EncoderConfig().frame_layers, 16_000)
        dataset = load_audio_dataset(tmp_path / "train.tsv", labels=labels, min_sample_size=400, max_broken=0.4)
        return [labels.dictionary.string(dataset[row]["labels"]).split() for row in range(3)]

    if text.refused or case == "UTF-16":
        with pytest.raises(UserError, match=text.refused) as refused:
            read()
        assert str(refused.value).startswith(f"{tmp_path}/train.km")
    else:
        assert read() == [[str(frame % 10) for frame in range(25)]] * 3


@pytest.mark.parametrize("case", bad_data.list_dictionaries())
def test_dictionaries_are_read_or_refused_by_their_name(tmp_path, case):
    text = bad_data.list_dictionaries()[case]
    (tmp_path / "dict.km.txt").write_bytes(text.data)
    if text.refused:
        with pytest.raises(UserError, match=text.refused) as refused:
            read_dictionary(str(tmp_path))
        assert str(refused.value).startswith(f"{tmp_path}/dict.km.txt")
    else:
        assert read_dictionary(str(tmp_path)).symbols[4:] == [str(unit) for unit in range(10)]


@pytest.mark.parametrize("case", bad_data.list_trials())
def test_trials_are_read_or_refused_by_their_name(tmp_path, case):
    text = bad_data.list_trials()[case]
    (tmp_path / "test.trials").write_bytes(text.data)
    (tmp_path / "test.tsv").write_text("\n".join([str(tmp_path), "a.wav\t9", "b.wav\t9", "c.wav\t9"]) + "\n")
    manifest = read_manifest(tmp_path / "test.tsv")
    if text.refused:
        with pytest.raises(UserError, match=text.refused) as refused:
            read_trials(tmp_path / "test.trials", manifest)
        assert str(refused.value).startswith(f"{tmp_path}/test.trials")
    else:
        trials = read_trials(tmp_path / "test.trials", manifest)
        found = trials.enrol.tolist(), trials.test.tolist(), trials.same.tolist()
        assert found == ([0, 0], [1, 2], [True, False])


def make_clusters(folder):
    values = np.array([[1, 0.5, 0.4, 0.3], [0.5, 1, 0.9, 0.2], [0.4, 0.9, 1, 0.3], [0.3, 0.2, 0.3, 1]])
    write_clusters(folder / "good.json", cluster_layers(Similarity(values), clusters=2))
    return json.loads((folder / "good.json").read_text())


@pytest.mark.parametrize("case", bad_data.list_clusters({"similarity": {}}))
def test_clusters_are_read_or_refused_by_their_name(tmp_path, case):
    text = bad_data.list_clusters(make_clusters(tmp_path))[case]
    (tmp_path / "clusters.json").write_bytes(text.data)
    if text.refused:
        with pytest.raises(UserError, match=text.refused) as refused:
            read_groups(tmp_path / "clusters.json")
        assert str(refused.value).startswith(f"{tmp_path}/clusters.json") and len(str(refused.value)) < 500
    else:
        assert read_groups(tmp_path / "clusters.json") == [[1, 2], [3]]
