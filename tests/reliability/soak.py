"""Train a tiny student with gates for many steps in one process: does resident memory grow, or the time of a step?

    python -m tests.reliability.soak --steps 3000

Prints a line every 100 steps: resident memory, what of it tensors hold, Python's objects, and milliseconds a step (the
median, of this process's own time, as others come between). Exits with 1 where memory after the last step is more than
1 % above that after the first 500.
"""

import argparse
import gc
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, List, Tuple

os.environ["OMP_NUM_THREADS"] = "1"

import torch
from fairseq.trainer import Trainer
from fairseq_cli import hydra_train

from ..builders import write_data, write_teacher
from ..runs import environment, train_line
from .kinds import LENGTHS

EVERY, SETTLED, ALLOWED = 100, 500, 1.01
MIB = 1 << 20


def read_resident() -> float:
    """Resident memory of this process in MiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / MIB


def measure_tensors() -> Tuple[int, float]:
    """Number of Python's objects, and MiB of the tensors among them."""
    objects = gc.get_objects()
    storages = {}
    for item in objects:
        if type(item) in (torch.Tensor, torch.nn.Parameter):
            storages[item.untyped_storage().data_ptr()] = item.untyped_storage().nbytes()
    return len(objects), sum(storages.values()) / MIB


class Watch:
    """Measures around fairseq's `train_step`.

    Attributes:
        resident: MiB after each 100 steps.
    """

    def __init__(self) -> None:
        self.resident: List[float] = []
        self._times: List[float] = []
        self._step = Trainer.train_step
        print("steps  resident MiB  tensors MiB  objects  ms a step", file=sys.stderr, flush=True)

    def train_step(self, trainer: Trainer, *args: Any, **kwargs: Any) -> Any:
        """Fairseq's, timed."""
        start = time.process_time()
        logged = self._step(trainer, *args, **kwargs)
        self._times.append(time.process_time() - start)
        if len(self._times) == EVERY:
            self._report(trainer.get_num_updates())
        return logged

    def _report(self, steps: int) -> None:
        milliseconds = 1000 * statistics.median(self._times)
        self._times.clear()
        gc.collect()
        objects, tensors = measure_tensors()
        self.resident.append(read_resident())
        row = f"{steps:>5}  {self.resident[-1]:>12.1f}  {tensors:>11.1f}  {objects:>7,}  {milliseconds:>9.1f}"
        print(row, file=sys.stderr, flush=True)


def main() -> int:
    """Run; 1 where memory has grown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3000, help="updates of training, above 500")
    parser.add_argument("overrides", nargs="*", help="KEY=VALUE settings of the run, as of fairseq-hydra-train")
    args = parser.parse_args()
    if args.steps <= SETTLED:
        parser.error(f"--steps {args.steps} must be above {SETTLED}: memory settles in these")
    torch.set_num_threads(1)
    os.environ.update(environment())
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_data(folder / "data", lengths=LENGTHS)
        settings = {
            "optimization.max_update": args.steps,
            "task.max_sample_size": 7500,
            "common.log_interval": 50,
            "checkpoint.save_interval_updates": 500,
            "dataset.validate_interval": 100,
            "dataset.validate_interval_updates": 500,
            **{
                f"optimizer.groups.{name}.lr_scheduler.total_num_update": args.steps
                for name in ("default", "gates", "multipliers")
            },
            **dict(override.split("=", 1) for override in args.overrides),
        }
        line = train_line(folder / "run", folder / "data", write_teacher(folder), **settings)
        watch = Watch()
        Trainer.train_step = lambda trainer, *args, **kwargs: watch.train_step(trainer, *args, **kwargs)
        sys.argv = ["fairseq-hydra-train", *line[line.index("--config-dir") :]]
        hydra_train.cli_main()
    settled, last = watch.resident[SETTLED // EVERY - 1], watch.resident[-1]
    print(f"{last - settled:+.1f} MiB ({last / settled - 1:+.2%}) from step {SETTLED} to {args.steps}")
    return 0 if last <= ALLOWED * settled else 1


if __name__ == "__main__":
    sys.exit(main())
