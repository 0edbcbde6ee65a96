"""Time and memory of DPHuBERT's stage 1 with gates beside the same step without them, and the cost of the size loss.

    python benchmarks/compare_gated.py [--waves 2] [--seconds 5] [--rounds 17] [--threads 2]

Task, model, criterion and Adam's rates are those of config/distill/dphubert.yaml; teacher and student have the shape
of HuBERT Base and random weights, in float32 on the CPU. A step is a whole one: teacher, student, loss (with gates,
the size loss too), backward, clipping, Adam, with gates and multipliers in groups of their own. In one process the two
sides run in turn (plain, gated, plain again), and each round gives a ratio; the table has the median with the
quartiles. "plain again / plain" is the noise floor: what the same code gives against itself. Peak memory is the
resident set of a process that does one side's steps only, weights and Adam's state included, less what it has after
its imports; there, blocks of 1 MB and more go back to the system when they are freed: what glibc keeps of them
otherwise differs from run to run by more than gates take.

step       plain: model.prune=[]; gated: the recipe's gates on conv channels, heads and FFN units
size loss  one call of the size loss, forward and backward, with what is logged of the gates; its part of a gated step

What gates cost depends on the weights, not on the length of the audio: the longer the batch, the smaller their part.
"""

import argparse
import json
import statistics
import tempfile
import warnings
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

import torch
from measuring import (
    add_options,
    describe_run,
    in_own_process,
    measure_peak,
    quartiles,
    save_stock_teacher,
    time_in_turn,
)

warnings.filterwarnings("ignore", category=FutureWarning)

GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": str(2**20)}
RECIPE = Path(__file__).resolve().parents[1] / "config" / "distill" / "dphubert.yaml"


def make_step(side: str, path: Path, waves: torch.Tensor) -> Tuple[Callable[[], None], torch.nn.Module]:
    """One training step of the recipe as a function to time, and its student; side is "plain" or "gated"."""
    from fairseq import tasks
    from omegaconf import OmegaConf

    import fairseq_distill  # noqa: F401

    run = OmegaConf.load(RECIPE)
    run.task.update({"data": ".", "teacher": str(path)})
    if side == "plain":
        run.model.prune = []
    task = tasks.setup_task(run.task)
    student = task.build_model(run.model).train()
    loss = task.build_criterion(run.criterion)
    optimizer = build_adam(run, student)
    sample = {"net_input": {"source": waves}}

    def step() -> None:
        student.zero_grad(set_to_none=True)
        value, frames, _ = loss(student, sample)
        (value / frames).backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), run.optimization.clip_norm)
        optimizer.step()

    return step, student


def build_adam(run: Any, student: torch.nn.Module) -> torch.optim.Optimizer:
    """Fairseq's Adam, with a group for each of the recipe's parameter groups that the student has, at its rate.

    Not its composite optimizer, of which there can be only one in a process: it keeps its groups in the class.
    """
    from fairseq.optim.adam import Adam

    members: Dict[str, List[torch.nn.Parameter]] = {}
    for parameter in (p for p in student.parameters() if p.requires_grad):
        members.setdefault(getattr(parameter, "param_group", "default"), []).append(parameter)
    return Adam([{"params": group, "lr": run.optimizer.groups[name].lr_float} for name, group in members.items()])


def make_size_call(student: torch.nn.Module) -> Callable[[], None]:
    """What a step does for the size alone: the loss, its gradients, and the figures to log."""

    def call() -> None:
        student.size_loss(student.gates).backward()
        student.describe_gates()

    return call


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, waves=2, seconds=5.0, rounds=17, threads=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    waves = torch.randn(args.waves, int(args.seconds * 16_000))
    if args.memory:
        _, side, path = args.memory
        print(json.dumps(measure_peak(lambda: make_step(side, Path(path), waves)[0])))
        return
    print(describe_run(args))
    print(
        f"{'':<10}{'plain, s':>10}{'gated, s':>10}   {'gated / plain':<24}{'plain again / plain':<24}"
        f"{'peak MB, plain':>15}{'gated':>8}{'gated / plain':>15}"
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "hubert_base.pt"
        save_stock_teacher(path)
        memory = {side: in_own_process("step", side, path, args, **GIVE_BACK) for side in ("plain", "gated")}
        (plain, _), (gated, student) = (make_step(side, path, waves) for side in ("plain", "gated"))
        t = time_in_turn({"plain": plain, "gated": gated, "again": plain, "size": make_size_call(student)}, args.rounds)
    ratio = quartiles([gated / ((a + b) / 2) for gated, a, b in zip(t["gated"], t["plain"], t["again"])])
    floor = quartiles([b / a for a, b in zip(t["plain"], t["again"])])
    seconds = {side: statistics.median(t[side]) for side in ("plain", "gated")}
    print(
        f"{'step':<10}{seconds['plain']:>10.2f}{seconds['gated']:>10.2f}   {ratio:<24}{floor:<24}"
        f"{memory['plain']:>15.0f}{memory['gated']:>8.0f}{memory['gated'] / memory['plain']:>15.3f}"
    )
    part = quartiles([100 * size / gated for size, gated in zip(t["size"], t["gated"])])
    print(f"{'size loss':<10}{'':>10}{statistics.median(t['size']):>10.4f}   {part} % of a gated step")


if __name__ == "__main__":
    main()
