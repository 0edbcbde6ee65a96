"""The processes of a run on several GPUs: what the first one finds out for all, and which ways of training they have."""

import os
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
