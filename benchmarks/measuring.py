"""What the benchmarks share: timing in turn, peak memory in a process of its own, quartiles, a random HuBERT Base."""

import argparse
import ctypes
import gc
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Callable, Dict, List

import torch
from tqdm import tqdm

Work = Callable[[], None]


def add_options(parser: argparse.ArgumentParser, waves: int, seconds: float, rounds: int, threads: int) -> None:
    """Batch, rounds and threads, with these defaults; and --memory, by which `in_own_process` calls back."""
    parser.add_argument("--waves", type=int, default=waves)
    parser.add_argument("--seconds", type=float, default=seconds)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--threads", type=int, default=threads)
    parser.add_argument("--memory", nargs=3, metavar=("WORK", "SIDE", "FILE"), help=argparse.SUPPRESS)


def describe_run(args: argparse.Namespace) -> str:
    """The line above a table: what was measured with."""
    batch = f"{args.waves} waves of {args.seconds:g} s"
    return f"torch {torch.__version__}, {args.threads} threads, {batch}, {args.rounds} rounds"


def save_stock_teacher(path: Path) -> None:
    """A stock HuBERT Base with random weights, in fairseq's layout."""
    from fairseq.models.hubert.hubert import HubertConfig, HubertModel

    torch.manual_seed(0)
    model = HubertModel(HubertConfig(label_rate=50), SimpleNamespace(sample_rate=16_000), [None])
    cfg = {"model": {"_name": "hubert"}, "task": {"_name": "hubert_pretraining", "normalize": False}}
    torch.save({"args": None, "cfg": cfg, "model": model.state_dict()}, path)


def time_in_turn(works: Dict[str, Work], rounds: int) -> Dict[str, List[float]]:
    """Run each work once to warm up, then all in turn; seconds of each per round. A work may have two names."""
    for work in dict.fromkeys(works.values()):
        work()
    times: Dict[str, List[float]] = {name: [] for name in works}
    for _ in tqdm(range(rounds), unit="round", leave=False):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            times[name].append(time.perf_counter() - start)
    return times


def measure_peak(make_work: Callable[[], Work]) -> float:
    """Peak MB of the work that `make_work` makes, weights included, beyond what the process has after its imports."""
    import fairseq_distill  # noqa: F401

    before = read_status("VmRSS")
    work = make_work()
    work()  # weights that are mapped from the file, or loaded when first needed, are there now
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of loading
    work()
    return read_status("VmHWM") - before


def in_own_process(name: str, side: str, path: Path, args: argparse.Namespace, **environment: str) -> float:
    """The figure that the running script prints for `--memory name side path`, in a process that does nothing else.

    Args:
        name: the work to measure.
        side: whose work it is, as the script names its sides.
        path: the teacher's file.
        args: those of the script; batch and threads are passed on.
        environment: variables to set for that process.
    """
    line = [sys.executable, sys.argv[0], "--memory", name, side, str(path)]
    line += ["--waves", str(args.waves), "--seconds", str(args.seconds), "--threads", str(args.threads)]
    result = subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment})
    return json.loads(result.stdout.splitlines()[-1])


def read_status(key: str) -> float:
    """A memory figure of this process in MB (Linux)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) / 1024


def quartiles(values: List[float]) -> str:
    """The text "median (lower quartile-upper quartile)"."""
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.3f} ({low:.3f}-{high:.3f})"
