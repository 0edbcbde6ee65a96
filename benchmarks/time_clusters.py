"""Time and memory of finding layer clusters beside the teacher's forward pass alone.

    python benchmarks/time_clusters.py [--waves 40] [--seconds 15] [--rounds 3] [--threads 2]

HuBERT Base shape, random weights, float32, on the CPU; waves of noise, one at a time, 10 minutes by default. In one
process the works run in turn (forward, clusters, forward again), and each round gives a ratio; the table has the median
with the quartiles. "forward again / forward" is the noise floor: what the same code gives against itself. Peak memory
is the resident set of a process that does one work only, weights included, less what it has after its imports; it is
measured for all waves and for a tenth of them, since it must not grow with the audio.

forward    all hidden states of every wave
clusters   the same, their linear CKA on a quarter of the frames (the command's default), and the tree

Reading audio is in neither, making noise in both. Clusters of noise mean nothing; the work is the same.
"""

import argparse
import json
import logging
import statistics
import tempfile
import warnings
from pathlib import Path
from typing import Iterator

import torch
from measuring import (
    Work,
    add_options,
    describe_run,
    in_own_process,
    measure_peak,
    quartiles,
    save_stock_teacher,
    time_in_turn,
)

warnings.filterwarnings("ignore", category=FutureWarning)


def make_work(name: str, path: Path, count: int, seconds: float) -> Work:
    """The work `name` on `count` waves, as a function to time."""
    from fairseq_distill import load_encoder
    from fairseq_distill.layer_clusters.clustering import cluster_layers
    from fairseq_distill.layer_clusters.similarity import compute_similarity

    teacher = load_encoder(path)

    def make_waves() -> Iterator[torch.Tensor]:
        return (torch.randn(1, int(seconds * 16_000)) for _ in range(count))

    def forward() -> None:
        with torch.inference_mode():
            for wave in make_waves():
                teacher(wave)

    def clusters() -> None:
        cluster_layers(compute_similarity(teacher, ((wave, None) for wave in make_waves())), clusters=4)

    return {"forward": forward, "clusters": clusters}[name]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, waves=40, seconds=15.0, rounds=3, threads=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    logging.getLogger("fairseq_distill").setLevel(logging.ERROR)  # few frames and gaps do not matter here
    if args.memory:
        name, share, path = args.memory
        count = max(args.waves // 10, 1) if share == "tenth" else args.waves
        print(json.dumps(measure_peak(lambda: make_work(name, Path(path), count, args.seconds))))
        return
    print(describe_run(args))
    heads = f"{'clusters / forward':<24}{'forward again / forward':<26}{'peak MB':>8}{'for a tenth':>13}"
    print(f"{'':<10}{'s':>8}   {heads}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "hubert_base.pt"
        save_stock_teacher(path)
        works = {name: make_work(name, path, args.waves, args.seconds) for name in ("forward", "clusters")}
        t = time_in_turn({**works, "again": works["forward"]}, args.rounds)
        ratio = quartiles([mine / ((a + b) / 2) for mine, a, b in zip(t["clusters"], t["forward"], t["again"])])
        floor = quartiles([b / a for a, b in zip(t["forward"], t["again"])])
        for name in works:
            peaks = [in_own_process(name, share, path, args) for share in ("all", "tenth")]
            ratios = f"{ratio:<24}{floor:<26}" if name == "clusters" else " " * 50
            print(f"{name:<10}{statistics.median(t[name]):>8.1f}   {ratios}{peaks[0]:>8.0f}{peaks[1]:>13.0f}")


if __name__ == "__main__":
    main()
