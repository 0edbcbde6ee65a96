"""The processes of a run on several GPUs: what the first finds out for all, and how they may train together."""

from typing import Any, Callable, TypeVar

from fairseq.distributed import utils as distributed_utils

from ..errors import UserError
from .settings import find_section

T = TypeVar("T")

SUPPORTED = ("pytorch_ddp", "c10d", "legacy_ddp", "no_c10d")
REFUSED = {
    "fully_sharded": "it cuts the weights into flat pieces, of which no teacher's layer, head or gate is found again",
    "slowmo": "its workers average weights now and then instead of gradients, and gates would differ between them",
}


def check_workers(run: Any) -> None:
    """Raise UserError where a run's settings for several GPUs do not go with what is trained here.

    Args:
        run: the whole run's settings, see `settings.find_run`.
    """
    workers = find_section(run, "distributed_training")
    if workers is None:
        return  # built in Python, where the caller wraps the model
    backend = str(workers.get("ddp_backend", SUPPORTED[0]))
    several = (workers.get("distributed_world_size") or 1) > 1
    if backend in REFUSED and (several or backend == "fully_sharded"):
        raise UserError(
            f"distributed_training.ddp_backend={backend} is not supported: {REFUSED[backend]}. Set it to "
            f"{SUPPORTED[0]} or {SUPPORTED[2]}"
        )
    gated = (find_section(run, "model") or {}).get("prune")
    if not gated or not several or backend not in ("pytorch_ddp", "c10d"):
        return
    if workers.get("find_unused_parameters"):
        raise UserError(
            "distributed_training.find_unused_parameters=true with model.prune: the multipliers of the size are used "
            "behind the model's forward, where torch has already taken them for unused. Leave it out: every parameter "
            "that is trained gets a gradient in every update"
        )
    if str(workers.get("ddp_comm_hook", "none")) != "none":
        raise UserError(
            f"distributed_training.ddp_comm_hook={workers.ddp_comm_hook} with model.prune: it sends the gradients of "
            "gates and multipliers in half precision, where they overflow. Leave it out"
        )


def ask_first_worker(find: Callable[[], T]) -> T:
    """What `find` returns in the first process of the run, in all of them; where it fails there, all stop.

    Raises:
        UserError: `find` failed; of other errors than this one, the first process raises its own.
    """
    if distributed_utils.get_global_world_size() == 1:
        return find()
    group = distributed_utils.get_global_group()
    if distributed_utils.get_global_rank():
        found, failure = distributed_utils.broadcast_object(None, src_rank=0, group=group)
        if failure:
            raise UserError(f"the first process of the run stopped: {failure}")
        return found
    try:
        answer = (find(), "")
    except Exception as error:  # whatever it is: the others wait for an answer
        failure = str(error) if isinstance(error, UserError) else repr(error)
        distributed_utils.broadcast_object((None, failure), src_rank=0, group=group)
        raise
    return distributed_utils.broadcast_object(answer, src_rank=0, group=group)[0]
