"""Which settings for several GPUs are refused, before anything is loaded."""

import pytest
from fairseq import tasks
from omegaconf import OmegaConf

from fairseq_distill.errors import UserError
from fairseq_distill.run.workers import ask_first_worker, check_workers


def describe(prune=(), **workers):
    """A run's settings."""
    workers = {"distributed_world_size": 4, "ddp_backend": "pytorch_ddp", "find_unused_parameters": False, **workers}
    model = {"_name": "speech_student", "prune": list(prune)}
    task = {"_name": "speech_distillation", "data": "nowhere", "teacher": "nowhere.pt"}
    return OmegaConf.create({"distributed_training": workers, "model": model, "task": task})


@pytest.mark.parametrize(
    "settings, sentence",
    [
        ({"ddp_backend": "fully_sharded"}, "ddp_backend=fully_sharded is not supported: it cuts the weights"),
        ({"ddp_backend": "fully_sharded", "distributed_world_size": 1}, "Set it to pytorch_ddp or legacy_ddp"),
        ({"ddp_backend": "slowmo"}, "ddp_backend=slowmo is not supported: its workers average weights"),
        ({"find_unused_parameters": True, "prune": ["ffn"]}, "find_unused_parameters=true with model.prune"),
        ({"ddp_backend": "c10d", "find_unused_parameters": True, "prune": ["ffn"]}, "every parameter that is trained"),
        ({"ddp_comm_hook": "fp16", "prune": ["ffn"]}, "ddp_comm_hook=fp16 with model.prune: it sends the gradients"),
    ],
)
@pytest.mark.parametrize("task", ["speech_distillation", "speech_multitask"])
def test_what_does_not_work_is_refused_with_a_reason(settings, sentence, task):
    run = describe(**settings)
    run.task._name = task
    if task == "speech_multitask":
        run.task = {"_name": task, "data": "nowhere", "tasks": [{"name": "a", "kind": "classification"}]}
    with pytest.raises(UserError, match=f"distributed_training.*{sentence}"):
        tasks.setup_task(run.task)


@pytest.mark.parametrize(
    "settings",
    [
        {"prune": ["ffn"]},
        {"ddp_backend": "legacy_ddp", "prune": ["ffn"], "find_unused_parameters": True},  # it does not look at it
        {"ddp_backend": "no_c10d", "ddp_comm_hook": "fp16", "prune": ["ffn"]},  # nor at this
        {"find_unused_parameters": True},
        {"ddp_comm_hook": "fp16"},
        {"ddp_backend": "slowmo", "distributed_world_size": 1},
        {"distributed_world_size": 1, "find_unused_parameters": True, "prune": ["ffn"]},
    ],
)
def test_what_works_is_not(settings):
    run = describe(**settings)
    assert tasks.setup_task(run.task).cfg.data == "nowhere"
    check_workers({})


def test_one_worker_finds_out_for_itself():
    assert ask_first_worker(lambda: [1, 2]) == [1, 2]
    with pytest.raises(ZeroDivisionError):
        ask_first_worker(lambda: 1 // 0)
