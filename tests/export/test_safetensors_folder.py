"""`export --format safetensors`: a folder that torch and safetensors open, and what keeps it from being written."""

import json
from pathlib import Path

import pytest
import torch

from fairseq_distill import load_encoder
from fairseq_distill.cli.main import main
from fairseq_distill.export import comparison, outside, safetensors_folder, writing
from fairseq_distill.export.outside import OutsideReader
from fairseq_distill.export.source import read_source
from fairseq_distill.output import files

from ..builders import LARGE, WAVLM
from .outside import need, run_without_fairseq, save_what_it_says
from .students import write_student

UNEVEN = dict(layer_heads=[3, 0], layer_ffn_dims=[0, 7])
KINDS = {
    "uneven": dict(UNEVEN, normalize=True),
    "uneven wavlm": {**WAVLM, **LARGE, "layer_heads": [3, 1], "layer_head_numbers": "[[3,0,1],[2]]"},
    "maps reused": dict(reuse_attention=[2], time_reduction=2),
    "data2vec": dict(family="data2vec", pos_conv_depth=3, extractor_mode="layer_norm"),
}
FILES = ["README.md", "config.json", "model.safetensors", "portable_model.py"]

OPEN = """
import torch
for folder in sys.argv[1:]:
    sys.path.insert(0, folder)
    from portable_model import load_encoder
    model, expected = load_encoder(folder), torch.load(folder + ".expected")
    with torch.no_grad():
        outputs = [model(wave[None]) for wave in expected["waves"]] + [model(expected["batch"], expected["mask"])]
    assert torch.equal(outputs[-1].padding_mask, expected["frame_mask"])
    for output, say in zip(outputs, expected["say"]):
        valid = torch.ones(say[0].shape[:2], dtype=bool) if output.padding_mask is None else ~output.padding_mask
        assert len(say) == len(output.hidden) + 1
        for a, b in zip(say, [*output.hidden, output.x]):
            assert a.shape == b.shape and (a - b)[valid].norm() <= 1e-6 * a[valid].norm(), folder
assert "transformers" not in sys.modules
print("opened", len(sys.argv) - 1)
"""


def test_torch_and_safetensors_open_the_folder(tmp_path):
    need("safetensors")
    for kind, settings in KINDS.items():
        write_student(tmp_path / "student.pt", **settings)
        source, folder = read_source(tmp_path / "student.pt"), tmp_path / kind
        folder.mkdir()
        safetensors_folder.write(source, folder)
        encoder = load_encoder(tmp_path / "student.pt")
        encoder.exact_padding = True
        save_what_it_says(f"{folder}.expected", encoder)
    assert "opened 4" in run_without_fairseq(OPEN, *(tmp_path / kind for kind in KINDS))


def test_the_command_writes_settings_code_weights_and_what_was_measured(tmp_path, capsys):
    need("safetensors")
    write_student(tmp_path / "student.pt", sample_rate=8_000, **KINDS["uneven"])
    arguments = ["export", str(tmp_path / "student.pt"), str(tmp_path / "new" / "out"), "--format", "safetensors"]
    for _ in range(2):  # an earlier export is replaced
        assert main([*arguments, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["model"] == "PortableEncoder" and found["left_out"] == ["prediction_head (2)"]
        assert all(0 <= value < 1e-6 for value in found["largest_difference"].values())
        folder = tmp_path / "new" / "out"
        assert sorted(file.name for file in folder.iterdir()) == FILES
        assert [file.name for file in (tmp_path / "new").iterdir()] == ["out"]
        assert len({file.stat().st_mode for file in folder.iterdir()}) == 1, "all may be read by the same people"
        settings = json.loads((folder / "config.json").read_text())
        assert settings["fairseq_distill"]["largest_difference"] == found["largest_difference"]
        assert settings["encoder"]["heads"] == [3, 0] and settings["encoder"]["sample_rate"] == 8_000
        readme = (folder / "README.md").read_text()
        assert f"{found['largest_difference']['padded']:.1e}" in readme and "at\n8000 Hz" in readme
        (folder / "__pycache__").mkdir()  # of whoever opened it


def test_the_lines_of_the_readme_open_it(tmp_path):
    need("safetensors")
    write_student(tmp_path / "student.pt")
    source, folder = read_source(tmp_path / "student.pt"), tmp_path / "out"
    folder.mkdir()
    safetensors_folder.write(source, folder)
    safetensors_folder.finish(folder, source, comparison.Differences(0.0, 0.0), "out")
    lines = (folder / "README.md").read_text().split("```python\n")[1].split("```")[0]
    assert len(lines.splitlines()) == 5
    program = f"import os\nos.chdir({str(tmp_path)!r})\n{lines}\nprint(tuple(output.x.shape))"
    assert "(1, 399, 48)" in run_without_fairseq(program)


def fail_with(error):
    def fail(*arguments, **options):
        raise error

    return fail


@pytest.mark.parametrize(
    "where, name, error, sentence",
    [
        (safetensors_folder, "write_weights", OSError(28, "No space left on device"), "No space left on device"),
        (safetensors_folder, "finish", OSError(28, "No space left on device"), "No space left on device"),
        (files, "_exchange", OSError(5, "Input/output error"), "Input/output error"),
        (writing, "compare", ValueError("odd"), "plain torch does not run what was exported"),
        (safetensors_folder, "write_weights", KeyboardInterrupt(), ""),
    ],
)
def test_what_was_there_stays_as_it_was(where, name, error, sentence, tmp_path, capsys, monkeypatch):
    need("safetensors")
    write_student(tmp_path / "student.pt")
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "config.json").write_text('{"fairseq_distill": {}}')
    reader = lambda waves, padding_mask: []  # noqa: E731
    monkeypatch.setattr(safetensors_folder, "open_file", lambda path, source: reader)
    if name != "compare":
        monkeypatch.setattr(writing, "compare", lambda *_: comparison.Differences(0.0, 0.0))
    monkeypatch.setattr(where, name, fail_with(error))
    try:
        assert main(["export", str(tmp_path / "student.pt"), str(folder), "--format", "safetensors"]) != 0
    except KeyboardInterrupt:
        assert isinstance(error, KeyboardInterrupt)
    assert sentence in capsys.readouterr().err
    assert [file.name for file in folder.iterdir()] == ["config.json"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out", "student.pt"]


def test_another_ones_folder_is_refused_before_anything_is_done(tmp_path, capsys, monkeypatch):
    write_student(tmp_path / "student.pt")
    monkeypatch.setattr(outside.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(safetensors_folder, "write", fail_with(AssertionError("written")))
    cases = {
        "notes": ({"notes.txt": ""}, "other files (notes.txt)"),
        "theirs": ({"config.json": "{}", "README.md": ""}, "other files (README.md, config.json)"),
        "broken": ({"config.json": "[1"}, "other files (config.json)"),
        "mixed": ({"config.json": '{"fairseq_distill": {}}', "mine.py": ""}, "other files (mine.py)"),
    }
    for name, (contents, sentence) in cases.items():
        (tmp_path / name).mkdir()
        for file, text in contents.items():
            (tmp_path / name / file).write_text(text)
        assert main(["export", str(tmp_path / "student.pt"), str(tmp_path / name), "--format", "safetensors"]) == 1
        assert sentence in capsys.readouterr().err and len(list((tmp_path / name).iterdir())) == len(contents)
    assert main(
        ["export", str(tmp_path / "student.pt"), str(tmp_path / "notes" / "notes.txt"), "--format", "safetensors"]
    )
    assert "is a file, and this format is a folder" in capsys.readouterr().err


@pytest.mark.parametrize("chosen", ["safetensors", "transformers"])
def test_gates_and_a_missing_library_are_a_sentence(chosen, tmp_path, capsys, monkeypatch):
    write_student(tmp_path / "gated.pt", prune=["heads"], target_sparsity=0.1)
    write_student(tmp_path / "student.pt")
    assert main(["export", str(tmp_path / "gated.pt"), str(tmp_path / "out"), "--format", chosen]) == 1
    assert "prune=['heads']; cut the gates first (fairseq-distill prune)" in capsys.readouterr().err
    monkeypatch.setattr(outside.importlib.util, "find_spec", lambda name: None)
    assert main(["export", str(tmp_path / "student.pt"), str(tmp_path / "out"), "--format", chosen]) == 1
    error = capsys.readouterr().err
    assert "pip install 'fairseq-distill[export]'" in error and f"--format {chosen} needs" in error
    assert not (tmp_path / "out").exists()


def test_beyond_the_bar_nothing_is_written(tmp_path, capsys, monkeypatch):
    need("safetensors")
    write_student(tmp_path / "student.pt")
    convert = safetensors_folder.convert_weights

    def convert_wrong(encoder):
        weights = convert(encoder)
        weights["encoder.layers.1.fc2.bias"][0] += 0.01
        return weights

    monkeypatch.setattr(safetensors_folder, "convert_weights", convert_wrong)
    assert main(["export", str(tmp_path / "student.pt"), str(tmp_path / "out"), "--format", "safetensors"]) == 1
    error = capsys.readouterr().err
    assert "it differs from" in error and "more than 1e-05" in error
    assert [file.name for file in tmp_path.iterdir()] == ["student.pt"]


def test_the_process_may_not_import_us_and_says_why_it_ended(tmp_path):
    waves = torch.zeros(1, 10)
    for program in ("import fairseq", "import fairseq_distill.errors", "import argparse"):
        reader = OutsideReader(program, tmp_path, blocked=["argparse"] if "argparse" in program else [])
        with pytest.raises(RuntimeError, match="may not be needed here"):
            reader(waves, None)
        reader.close()
    reader = OutsideReader("def run(waves, padding_mask):\n    print('noise')\n    return [waves + 1]", tmp_path)
    assert [torch.equal(state, waves + 1) for state in reader(waves, None)] == [True]
    assert torch.equal(reader(waves + 2, waves.bool())[0], waves + 3)
    scratch = Path(reader._folder.name)
    assert scratch.exists()
    reader.close()
    assert not scratch.exists() and reader._process.poll() is not None
