"""Weights stay in the file until they are used."""

import subprocess
import sys
from pathlib import Path

import pytest

from fairseq_distill import load_encoder
from fairseq_distill.checkpoints.reading import read_checkpoint

from ..builders import build_gated
from . import layouts

MAPS = Path("/proc/self/maps")
pytestmark = pytest.mark.skipif(not MAPS.exists(), reason="needs Linux's /proc to see what is mapped")

# prints the peak of memory that is not of files before and after, in MiB
MEASURE = """
import sys, torch
from fairseq_distill import load_encoder
from fairseq_distill.checkpoints.reading import read_checkpoint
def own():
    return next(int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith("RssAnon"))
load_encoder(sys.argv[1])
before = own()
kept = read_checkpoint(sys.argv[2]), load_encoder(sys.argv[2])
print(own() - before)
"""


def mapped_ranges(path):
    """Address ranges of this process that are mapped from `path`."""
    lines = [line.split(maxsplit=5) for line in MAPS.read_text().splitlines()]
    found = [line[0] for line in lines if len(line) == 6 and line[5].strip() == str(path)]
    return [tuple(int(address, 16) for address in span.split("-")) for span in found]


def test_tensors_lie_in_the_file(tmp_path):
    path = layouts.write_hubert(tmp_path / "hubert.pt", layouts.build_hubert())
    checkpoint, encoder = read_checkpoint(path), load_encoder(path)
    ranges = mapped_ranges(path)
    assert ranges
    for value in [*checkpoint.weights.values(), *encoder.parameters()]:
        assert any(start <= value.data_ptr() < end for start, end in ranges)
    old = layouts.write_hubert(tmp_path / "old.pt", layouts.build_hubert(), _use_new_zipfile_serialization=False)
    read_checkpoint(old)
    assert not mapped_ranges(old)  # a format that cannot be mapped


def test_a_large_file_takes_no_memory(tmp_path):
    small = layouts.write_hubert(tmp_path / "small.pt", layouts.build_hubert())
    model = layouts.build_hubert(encoder_ffn_embed_dim=100_000)
    large = layouts.write_hubert(tmp_path / "large.pt", model)
    size = large.stat().st_size / 2**20
    assert size > 100
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", MEASURE, str(small), str(large)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True, timeout=300)
    assert float(done.stdout.split()[-1]) < size / 4


def test_reading_a_file_with_gates_does_not_import_the_compiler(tmp_path):
    """It takes a second and 100 MB."""
    encoder = build_gated(prune=["conv", "heads", "ffn"])
    settings = {name: getattr(value, "value", value) for name, value in vars(encoder.cfg).items()}
    cfg = {"model": {**settings, "_name": "speech_student"}, "task": {"_name": "speech_distillation"}}
    path = layouts.write_fairseq(tmp_path / "gated.pt", encoder.state_dict(), cfg=cfg)
    script = (
        "import sys; from fairseq_distill import load_encoder; before = set(sys.modules); "
        f"assert load_encoder({str(path)!r}).gates is not None; "
        "print(sorted(name for name in set(sys.modules) - before if name.startswith('torch._dynamo')))"
    )
    result = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"
