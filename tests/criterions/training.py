"""A student with gates and its criterion, built as fairseq does, and steps of training them by hand."""

from contextlib import nullcontext
from typing import Any, Callable, Dict, List

import torch
from fairseq import tasks
from omegaconf import OmegaConf

from ..builders import SMALL, make_waves, write_teacher


def build_pair(folder, seed=1, **criterion):
    """(criterion with masking, student with gates), in training; the teacher is written into `folder`."""
    model = {**SMALL, "encoder_layers": 2, "mask_prob": 0.5, "mask_length": 3, "prune": ["ffn", "heads"]}
    adam = {"lr_float": 0.1, "optimizer": {"_name": "adam"}}
    teacher = folder / "teacher.pt"
    run = OmegaConf.create(
        {
            "common": {"seed": seed},
            "task": {
                "_name": "speech_distillation",
                "data": str(folder),
                "teacher": str(teacher) if teacher.exists() else write_teacher(folder),
            },
            "model": {"_name": "speech_student", "target_sparsity": 0.3, "sparsity_warmup": 2, **model},
            "criterion": {"_name": "speech_distillation", "groups": "[[1],[3]]", "masking": True, **criterion},
            "optimizer": {"_name": "composite", "groups": dict.fromkeys(("default", "gates", "multipliers"), adam)},
        }
    )
    torch.manual_seed(0)
    task = tasks.setup_task(run.task)
    student = task.build_model(run.model)
    return task.build_criterion(run.criterion), student.train()


def make_batch(update: int, worker: int, number: int) -> Dict[str, Any]:
    """A batch of noise, of another length everywhere."""
    waves, _ = make_waves(batch=2, samples=2000 + 300 * number + 500 * worker, seed=100 * update + 10 * worker + number)
    return {"id": torch.arange(2), "net_input": {"source": waves}}


def build_optimizer(student) -> torch.optim.Optimizer:
    """Descent with momentum, at rates that move gates and multipliers in a few steps."""
    rates = {"gates": 50.0, "multipliers": 1.0}
    groups = [
        {"params": [p], "lr": rates.get(getattr(p, "param_group", ""), 0.01)}
        for p in student.parameters()
        if p.requires_grad
    ]
    return torch.optim.SGD(groups, lr=0.01, momentum=0.9)


def accumulate(criterion, model, update: int, batches: List[Any], no_sync: Callable = nullcontext) -> torch.Tensor:
    """Gradients of a worker's batches, as fairseq's trainer gathers them; returns the number of frames."""
    criterion.train()
    frames = torch.zeros(())
    for number, batch in enumerate(batches):
        model.train()
        model.set_num_updates(update)
        with no_sync() if number < len(batches) - 1 else nullcontext():
            loss, count, _ = criterion(model, batch)
            loss.backward()
        frames = frames + count
    return frames


def scale_gradients(model, factor) -> None:
    """Multiply all gradients."""
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad.mul_(factor)


def copy_state(student) -> Dict[str, torch.Tensor]:
    """Weights, gates and multipliers, and their gradients."""
    state = {name: p.detach().clone() for name, p in student.named_parameters() if p.requires_grad}
    state.update({f"{n}.grad": p.grad.clone() for n, p in student.named_parameters() if p.grad is not None})
    return state
