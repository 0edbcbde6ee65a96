"""`fairseq-distill info`, and how the command line reports what the user can mend."""

import json
import subprocess
import sys

import pytest
import torch

from fairseq_distill.cli.main import main
from fairseq_distill.encoder.config import EncoderConfig
from fairseq_distill.encoder.model import SpeechEncoder
from fairseq_distill.models.speech_student import SpeechStudent, SpeechStudentConfig

from ..builders import SMALL, save_teacher
from ..runs import environment


def test_json_counts_what_is_in_the_file(tmp_path, capsys):
    path = save_teacher(tmp_path / "teacher.pt")
    assert main(["info", path, "--json", "--seconds", "2"]) == 0
    found = json.loads(capsys.readouterr().out)
    state = torch.load(path, weights_only=True)["model"]
    assert found["parameters"]["with_heads"] == sum(v.numel() for v in state.values())
    outside = ("mask_emb", "final_proj", "label_embs_concat")
    assert found["parameters"]["encoder"] == sum(v.numel() for k, v in state.items() if not k.startswith(outside))
    assert (found["family"], found["layers"], found["width"], found["frames_per_second"]) == ("hubert", 3, 48, 400.0)
    assert found["macs_per_second"] == sum(part["macs"] for part in found["parts"]) / 2
    assert [part["name"] for part in found["parts"]][-3:] == ["layer 1", "layer 2", "layer 3"]


def test_time_is_measured_on_request(tmp_path, capsys):
    path = save_teacher(tmp_path / "teacher.pt")
    assert main(["info", path, "--json", "--seconds", "2", "--measure"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert 0 < found["real_time_factor"] < 10 and found["threads"] == torch.get_num_threads()
    assert main(["info", path, "--seconds", "2"]) == 0
    assert "real-time" not in capsys.readouterr().out


def test_table_has_a_row_for_each_layer(tmp_path, capsys):
    assert main(["info", save_teacher(tmp_path / "teacher.pt")]) == 0
    out = capsys.readouterr().out
    assert "hubert (family hubert), 3 layers x 48, post-norm, group-norm extractor" in out
    row = next(line for line in out.splitlines() if line.startswith("layer 2"))
    layer = SpeechEncoder(EncoderConfig.from_settings(SMALL)).encoder.layers[1]
    assert f"{sum(p.numel() for p in layer.parameters()):,}" in row and "4 heads x 12, 80 FFN neurons" in row


@pytest.mark.parametrize(
    "content, sentence",
    [
        (None, "no such file"),
        (b"", "is empty"),
        (b"<!DOCTYPE html><html>404</html>", "is a web page"),
        (b"PK\x03\x04 cut", "is cut short"),
    ],
)
def test_bad_files_are_one_sentence_and_exit_code_1(tmp_path, capsys, content, sentence):
    path = tmp_path / "file.pt"
    if content is not None:
        path.write_bytes(content)
    assert main(["info", str(path)]) == 1
    err = capsys.readouterr().err
    assert sentence in err and str(path) in err and "Traceback" not in err
    assert content is None or path.read_bytes() == content


def test_program_exits_with_1_and_help_names_every_command(tmp_path):
    line = [sys.executable, "-W", "ignore", "-m", "fairseq_distill.cli.main"]
    options = dict(env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    bad = subprocess.run([*line, "info", str(tmp_path / "nothing.pt")], **options)
    assert bad.returncode == 1 and bad.stderr.strip().splitlines()[-1].endswith("nothing.pt: no such file")
    shown = subprocess.run([*line, "--help"], **options)
    assert shown.returncode == 0
    assert all(f"    {name} " in shown.stdout for name in ("info", "evaluate", "configs"))


def test_gates_are_no_parameters_of_the_student_and_their_sparsity_is_said(tmp_path, capsys):
    torch.manual_seed(0)
    cfg = SpeechStudentConfig(**SMALL, prune=["conv", "heads", "ffn"])
    student = SpeechStudent(cfg)
    with torch.no_grad():
        student.gates.kinds["ffn"].log_alpha.fill_(-40.0)
    settings = {"model": {**SMALL, "_name": "speech_student", "prune": ["conv", "heads", "ffn"]}, "task": {}}
    path = str(tmp_path / "gated.pt")
    torch.save({"cfg": settings, "model": student.state_dict()}, path)
    assert main(["info", path, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    plain = sum(
        p.numel() for name, p in student.named_parameters() if not name.startswith(("gates", "size_loss", "mask_emb"))
    )
    assert found["parameters"]["encoder"] == plain
    assert found["parameters"]["with_heads"] == plain + student.mask_emb.numel()
    units = 3 * 80 * (2 * 48 + 1)
    assert found["gates"]["expected_sparsity"]["params"] == pytest.approx(units / plain, abs=0.01)
    assert main(["info", path]) == 0
    assert "on conv, heads, ffn; fairseq-distill prune will take away about" in capsys.readouterr().out
