"""Kill tiny runs with SIGKILL, start them again until they are done, and compare with the run that was not stopped.

Each run is a process of its own, forked from this one, which has imported fairseq; it does what fairseq-hydra-train
does. It is killed at a random moment of its training, or in the middle of a checkpoint that it writes, renames or
copies. In the end weights, gates, multipliers, optimizer state, the criterion's state and the place in the data must be
the same bits as without a stop.

    python -m tests.reliability.kill_and_resume --random 2 --aimed 1
"""

import argparse
import io
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any, Callable, List, Optional, Tuple

os.environ["OMP_NUM_THREADS"] = "1"

import torch
from fairseq import checkpoint_utils
from fairseq.file_io import PathManager
from fairseq_cli import hydra_train

from fairseq_distill.checkpoints.safe_load import read_pickled

from ..runs import environment, last
from .comparing import find_differences
from .kinds import describe_kinds, write_inputs

AIMS = ("write", "rename", "copy")


def die() -> None:
    """As SIGKILL from outside, at exactly this place."""
    os.kill(os.getpid(), signal.SIGKILL)


def aim(kind: str, number: int) -> None:
    """Let this process be killed in the middle of the checkpoint `number` that it writes, renames or copies."""
    left = [number]

    def is_due() -> bool:
        left[0] -= 1
        return left[0] == 0

    def write(state: Any, file: Any) -> None:
        if is_due():
            whole = io.BytesIO()
            save(state, whole)
            file.write(whole.getvalue()[: len(whole.getvalue()) // 2])
            file.flush()
            die()
        save(state, file)

    def rename(source: str, target: str) -> None:
        if is_due():
            die()
        put_in_place(source, target)

    def copy(source: str, target: str, *args: Any, **kwargs: Any) -> Any:
        if is_due():
            contents = Path(source).read_bytes()
            Path(target).write_bytes(contents[: len(contents) // 2])
            die()
        return copy_file(source, target, *args, **kwargs)

    if kind == "write":
        save, checkpoint_utils._torch_persistent_save = checkpoint_utils._torch_persistent_save, write
    elif kind == "rename":
        put_in_place, PathManager.rename = PathManager.rename, staticmethod(rename)
    else:
        from fairseq_distill import compat

        copy_file, compat._stock_copy = compat._stock_copy, copy


def start(line: List[str], log: Path, prepare: Callable[[], None] = lambda: None) -> int:
    """Fork a process that does what the command line says; its number."""
    number = os.fork()
    if number:
        return number
    status = 1
    try:
        with open(log, "ab") as file:
            for stream in (1, 2):
                os.dup2(file.fileno(), stream)
        os.environ.update(environment())
        os.chdir(log.parent)
        sys.argv = ["fairseq-hydra-train", *line[line.index("--config-dir") :]]
        prepare()
        hydra_train.cli_main()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


def finish(number: int) -> int:
    """Wait for a process; its exit status, minus the signal's number where one has ended it."""
    _, status = os.waitpid(number, 0)
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def run_whole(line: List[str], log: Path) -> float:
    """Run to the end without a stop; the seconds that it took."""
    begin = time.time()
    status = finish(start(line, log))
    if status:
        raise RuntimeError(f"a run that nobody stops ended with {status}: see {log}\n{log.read_text()[-1000:]}")
    return time.time() - begin


def run_killed(line: List[str], log: Path, seconds: float, how: str, chance: random.Random) -> Tuple[int, int]:
    """Kill a run once or twice, and start it until it ends; returns (kills, updates done at the last kill)."""
    kills, updates = 0, 0
    for attempt in range(6):
        if attempt >= 2 or (how != "random" and attempt):
            number = start(line, log)
        elif how == "random":
            number = start(line, log)
            time.sleep(seconds * chance.uniform(0.15, 0.95))
            os.kill(number, signal.SIGKILL)
        else:
            count = chance.randint(2, 4)
            number = start(line, log, lambda count=count: aim(how, count))
        status = finish(number)
        if status == -signal.SIGKILL:
            kills += 1
            updates = count_updates(line)
        elif status == 0:
            return kills, updates
        else:
            raise RuntimeError(f"it ended with {status} when it was started again: see {log}")
    raise RuntimeError("it was killed six times")


def find_folder(line: List[str]) -> Path:
    """The folder of a run."""
    return Path(next(argument for argument in line if argument.startswith("hydra.run.dir=")).split("=", 1)[1])


def count_updates(line: List[str]) -> int:
    """Updates in the newest checkpoint that a run has left; 0 = none."""
    path = last(find_folder(line))
    return read_pickled(path)["optimizer_history"][-1]["num_updates"] if path.exists() else 0


def try_kind(name: str, describe: Any, folder: Path, args: argparse.Namespace) -> bool:
    """All sequences of a kind; prints a line, and what differed; whether all were the same bits."""
    chance, logs = random.Random(args.seed), folder / "logs"
    slug = name.replace(" ", "_")
    try:
        whole = describe(folder / f"{slug}_whole")
        seconds = run_whole(whole, logs / f"{slug}_whole.txt")
    except RuntimeError as error:
        print(f"{name:<18} {error}", flush=True)
        return False
    expected = read_pickled(last(find_folder(whole)))
    hows = ["random"] * args.random + [how for how in AIMS for _ in range(args.aimed)]
    same, kills, done = 0, 0, []
    for number, how in enumerate(hows):
        out = folder / f"{slug}_{number}"
        problem: Optional[str] = None
        try:
            of_this, updates = run_killed(describe(out), logs / f"{out.name}.txt", seconds, how, chance)
            kills += of_this
            done.append(updates)
            differing = find_differences(expected, read_pickled(last(out)))
            if differing:
                problem = f"{len(differing)} values differ, such as {differing[:3]}"
        except RuntimeError as error:
            problem = str(error)
        if problem:
            print(f"  {name}, {how}: {problem}", flush=True)
        same += problem is None
    print(f"{name:<18} {same} of {len(hows)} the same bits, {kills} kills, updates at the last kill {done}", flush=True)
    return same == len(hows)


def main() -> int:
    """Run what the arguments ask for; 1 where a sequence ended otherwise than its run without a stop."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", help="of runs; default: all")
    parser.add_argument("--random", type=int, default=2, help="sequences of each kind with kills at random moments")
    parser.add_argument("--aimed", type=int, default=1, help=f"sequences for each of {', '.join(AIMS)}")
    parser.add_argument("--seed", type=int, default=1, help="of the moments")
    parser.add_argument("--folder", type=Path, help="for inputs, runs and logs; default: a temporary one")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = (args.folder or Path(temporary)).resolve()
        (folder / "logs").mkdir(parents=True, exist_ok=True)
        if finish(fork(lambda: write_inputs(folder))):
            return 1
        kinds = describe_kinds(folder, lambda line: run_whole(line, folder / "logs" / "before.txt") and None)
        unknown = set(args.kinds or ()) - set(kinds)
        if unknown:
            parser.error(f"no such kinds: {', '.join(sorted(unknown))}; there are {', '.join(kinds)}")
        good = [try_kind(name, kinds[name], folder, args) for name in args.kinds or kinds]
    return 0 if all(good) else 1


def fork(work: Callable[[], Any]) -> int:
    """Do some work in a process of its own, so that this one starts no threads; its number."""
    number = os.fork()
    if number:
        return number
    status = 1
    try:
        work()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


if __name__ == "__main__":
    sys.exit(main())
