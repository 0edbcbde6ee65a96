"""What two workers do for the tests of `test_two_workers`: one start of two processes for all of them."""

from pathlib import Path
from typing import Any, Callable, Dict, List

import torch
from fairseq import distributed_utils
from fairseq.dataclass.configs import DistributedTrainingConfig
from fairseq.dataclass.initialize import add_defaults, hydra_init
from fairseq.dataclass.utils import omegaconf_no_object_check
from fairseq.models import DistributedFairseqModel
from fairseq_cli import train
from hydra.core.global_hydra import GlobalHydra
from hydra.experimental import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch import nn

from fairseq_distill.errors import UserError
from fairseq_distill.pruning.gates import Gates
from fairseq_distill.run.workers import ask_first_worker

from ..criterions.training import accumulate, build_optimizer, build_pair, copy_state, make_batch, scale_gradients
from ..runs import FAST_GATES, ROOT

WORKERS, BATCHES, UPDATES = 2, 2, 4
BACKENDS = ("legacy_ddp", "pytorch_ddp")
GRADIENTS = {"half": [1.0, 2.0], "multiplier": [69_887.0, 3e8], "gates": [0.1000001, 0.3333333]}


def work(rank: int, folder: Path) -> None:
    """Do everything, and write what came out to FOLDER/RANK.pt."""
    cfg = describe_run(folder, "whole", rank, UPDATES, "legacy_ddp")
    distributed_utils.distributed_init(cfg)
    found: Dict[str, Any] = {"average": average_gradients(rank)}
    found["asked"] = [ask(rank, find) for find in (lambda: [[1], [2]], refuse, lambda: 1 // 0, lambda: "again")]
    found["steps"] = {backend: take_steps(rank, folder, backend) for backend in BACKENDS}
    drawn = watch_gates()
    for name, updates, backend in (
        ("whole", UPDATES, "legacy_ddp"),
        ("parts", UPDATES // 2, "legacy_ddp"),
        ("parts", UPDATES, "legacy_ddp"),
        ("torch", UPDATES, "pytorch_ddp"),
    ):
        drawn.append([])
        train.main(describe_run(folder, name, rank, updates, backend))
    torch.save({**found, "drawn": drawn}, folder / f"{rank}.pt")


class Mixed(nn.Module):
    """Parameters in half precision, and two in float32."""

    def __init__(self):
        super().__init__()
        self.first = nn.Parameter(torch.zeros(2, dtype=torch.float16))
        self.multiplier, self.gates = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))


def wrap(module: nn.Module, backend: str) -> Any:
    """What fairseq wraps a model in for several workers."""
    args = OmegaConf.structured(DistributedTrainingConfig(ddp_backend=backend))
    args.tpu = False
    return DistributedFairseqModel(args, module, distributed_utils.get_global_group(), torch.device("cpu"))


def average_gradients(rank: int) -> Dict[str, torch.Tensor]:
    """What fairseq's wrapper makes of GRADIENTS on the first worker and three times GRADIENTS on the second."""
    module = Mixed()
    wrapped = wrap(module, "legacy_ddp")
    named = {"half": module.first, "multiplier": module.multiplier, "gates": module.gates}
    for _ in range(2):  # its buffers are used again
        for name, parameter in named.items():
            parameter.grad = (torch.tensor(GRADIENTS[name]) * (1 + 2 * rank)).to(parameter.dtype)
        wrapped.all_reduce_grads()
    return {name: parameter.grad for name, parameter in named.items()}


def ask(rank: int, find: Callable[[], Any]) -> Any:
    """What `ask_first_worker` returns, or [name of the error, its text]."""
    try:
        return ask_first_worker(find if rank == 0 else lambda: "not asked")
    except Exception as error:
        return [type(error).__name__, str(error)]


def refuse() -> None:
    """Fail as a command would."""
    raise UserError("clusters.json was made for other settings")


def take_steps(rank: int, folder: Path, backend: str) -> List[Dict[str, torch.Tensor]]:
    """State after each of some updates, with two batches each on this worker."""
    criterion, student = build_pair(folder / str(rank))
    model, optimizer, states = wrap(student, backend), build_optimizer(student), []
    for update in range(UPDATES):
        optimizer.zero_grad()
        batches = [make_batch(update, rank, number) for number in range(BATCHES)]
        torch.manual_seed(rank)  # as far apart as dropout leaves it
        frames = accumulate(criterion, model, update, batches, model.no_sync)
        torch.distributed.all_reduce(frames)
        if backend == "legacy_ddp":
            model.all_reduce_grads()
        scale_gradients(student, WORKERS / frames)
        optimizer.step()
        states.append(copy_state(student))
    return states


def watch_gates() -> List[List[float]]:
    """A list whose last entry grows by the sum of what each pass in training draws."""
    drawn: List[List[float]] = []
    stock = Gates.draw

    def draw(self: Gates) -> Any:
        values = stock(self)
        if self.training:
            drawn[-1].append(float(sum(gates.sum() for gates in values.values())))
        return values

    Gates.draw = draw  # type: ignore[method-assign]
    return drawn


def describe_run(folder: Path, name: str, rank: int, updates: int, backend: str) -> Any:
    """Stage 1 on noise with two batches an update on each worker, as fairseq-hydra-train hands its settings on."""
    groups = ("default", "gates", "multipliers")
    settings = {
        "+machine": "cpu",
        "task.data": folder / "data",
        "task.teacher": folder / "teacher.pt",
        "task.min_sample_size": "null",
        "task.update_seconds": "null",
        "dataset.max_tokens": 20_000,
        "dataset.num_workers": 0,
        "optimization.max_update": updates,
        "optimization.update_freq": f"[{BATCHES}]",
        "common.tensorboard_logdir": "null",
        "checkpoint.save_dir": folder / name,
        "distributed_training.distributed_world_size": WORKERS,
        "distributed_training.distributed_rank": rank,
        "distributed_training.distributed_backend": "gloo",
        "distributed_training.distributed_init_method": f"file://{folder}/meeting_point",
        "distributed_training.distributed_no_spawn": "true",
        "distributed_training.ddp_backend": backend,
        **FAST_GATES,
        **{f"optimizer.groups.{group}.lr_scheduler.total_num_update": UPDATES for group in groups},
    }
    hydra_init("dphubert")
    with initialize_config_dir(config_dir=str(ROOT / "config" / "distill")):
        cfg = compose(config_name="dphubert", overrides=[f"{key}={value}" for key, value in settings.items()])
    GlobalHydra.instance().clear()
    add_defaults(cfg)
    with omegaconf_no_object_check():
        cfg = OmegaConf.create(OmegaConf.to_container(cfg, resolve=True, enum_to_str=True))
    OmegaConf.set_struct(cfg, True)
    return cfg
