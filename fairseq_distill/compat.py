"""What differs between fairseq 0.12.2 (hydra 1.0) and its main branch (ve-fairseq, hydra 1.3), and repairs of both.

Each repair says which versions need it, so that it can go when they do.
"""

import inspect
import os
from collections import defaultdict
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, List, Optional, Tuple

import numpy as np
import torch
from fairseq.data import bucket_pad_length_dataset, data_utils
from fairseq.data.audio import raw_audio_dataset
from fairseq.distributed import LegacyDistributedDataParallel
from fairseq.distributed import utils as distributed_utils
from fairseq.file_io import PathManager
from fairseq.models import MODEL_DATACLASS_REGISTRY, distributed_fairseq_model
from fairseq.models.hubert import hubert
from fairseq.models.hubert.hubert_asr import HubertCtcConfig
from hydra.core.config_store import ConfigStore

from .errors import UserError
from .output.files import put_in_place
from .run.ending import describe_unwritable


def repair_fairseq() -> None:
    """Apply every repair that the installed versions need."""
    repair_hubert_ctc()
    repair_buckets()
    repair_cropping()
    repair_masks()
    repair_batches()
    repair_copies()
    repair_legacy_ddp()
    repair_ddp_on_cpu()
    repair_broadcasts()


@dataclass
class RepairedHubertCtcConfig(HubertCtcConfig):
    """fairseq main and ve-fairseq 0.12.3: `hubert_ctc` reads `cfg.autoregressive`, which its settings do not have."""

    autoregressive: bool = False


def repair_hubert_ctc() -> None:
    """Make `hubert_ctc` trainable where it is not ("Key 'autoregressive' not in ..."); 0.12.2 is sound."""
    if any(f.name == "autoregressive" for f in fields(HubertCtcConfig)):
        return
    MODEL_DATACLASS_REGISTRY["hubert_ctc"] = RepairedHubertCtcConfig
    node = RepairedHubertCtcConfig()
    node._name = "hubert_ctc"
    ConfigStore.instance().store(name="hubert_ctc", group="model", node=node, provider="fairseq")


def repair_buckets() -> None:
    """All fairseq versions with NumPy 2.4 and later: `num_batch_buckets` fails on a keyword that NumPy took away."""

    def get_buckets(sizes: Any, num_buckets: int) -> Any:
        edges = np.percentile(sizes, np.linspace(0, 100, num_buckets + 1), method="lower")
        return np.unique(edges[1:])

    if "interpolation" not in inspect.signature(np.percentile).parameters:
        for module in (data_utils, raw_audio_dataset, bucket_pad_length_dataset):
            module.get_buckets = get_buckets


def repair_cropping() -> None:
    """All fairseq versions with torch 2.9 and later: waves are cropped by a list of slices, which torch deprecated."""

    def crop_to_max_size(self: Any, wave: Any, target_size: int, dim: int = 0) -> Any:
        excess = wave.size(dim) - target_size
        if excess <= 0:
            return wave
        return wave.narrow(dim, np.random.randint(0, excess + 1), target_size)

    raw_audio_dataset.RawAudioDataset.crop_to_max_size = crop_to_max_size


def draw_mask(
    shape: Tuple[int, int],
    padding_mask: Optional[torch.Tensor],
    mask_prob: float,
    mask_length: int,
    *args: Any,
    generator: Optional[np.random.Generator] = None,
    **kwargs: Any,
) -> np.ndarray:
    """Fairseq's `compute_mask_indices`, whose arguments it takes, with two repairs.

    In fairseq main and ve-fairseq 0.12.3 masks come from a generator that the clock seeds, in 0.12.2 from NumPy's,
    which is seeded once a run and drawn from in two threads; here from `generator`, or else from torch's, which all
    versions seed for each update. And where a wave is so short that its spans cover it, main stops the run and 0.12.2
    hides the whole wave; here its batch is drawn again with spans of half the length, down to 1, and where even these
    leave no frame, as in a wave of one frame, nothing is masked.
    """
    batch, frames = shape
    seed = int(torch.randint(2**31, ()) if generator is None else generator.integers(2**31))
    if "seed" in inspect.signature(data_utils.compute_mask_indices).parameters:
        kwargs = {"seed": seed, "epoch": 0, "indices": torch.arange(batch), **kwargs}
    nothing = np.zeros((batch, frames), dtype=bool)
    padding = nothing if padding_mask is None else padding_mask.cpu().numpy()
    while mask_length >= 1:
        try:
            with data_utils.numpy_seed(seed, mask_length):
                mask = data_utils.compute_mask_indices(shape, padding_mask, mask_prob, mask_length, *args, **kwargs)
        except ValueError:  # all that it raises is about waves too short for their spans
            mask = ~nothing
        if not (mask | padding).all(1).any():
            return mask
        mask_length //= 2
    return nothing


def repair_masks() -> None:
    """Give fairseq's HuBERT, and so ours, `draw_mask`."""
    hubert.compute_mask_indices = draw_mask


_stock_batch_by_size = data_utils.batch_by_size


def batch_all(indices: Any, *args: Any, **kwargs: Any) -> List[Any]:
    """Fairseq's `batch_by_size`, whose arguments it takes, with every index in a batch."""
    if not isinstance(indices, np.ndarray):
        indices = np.fromiter(indices, dtype=np.int64, count=-1)
    batches = list(_stock_batch_by_size(indices, *args, **kwargs))
    rest = indices[sum(map(len, batches)) :]
    return [*batches, rest] if len(rest) else batches


def repair_batches() -> None:
    """Put in place `batch_all`, which fairseq main and ve-fairseq 0.12.3 need.

    There the last batch of an epoch, validation's too, is dropped without a word if its size is no multiple of
    `dataset.required_batch_size_multiple` (8 if not set).
    """
    data_utils.batch_by_size = batch_all


_stock_copy = PathManager.copy


def copy_whole(src_path: str, dst_path: str, overwrite: bool = False) -> bool:
    """Fairseq's `PathManager.copy`, whose arguments it takes; local files are there whole or as they were before."""
    if PathManager.path_requires_pathmanager(dst_path):
        return _stock_copy(src_path, dst_path, overwrite)
    partial = f"{dst_path}.{os.getpid()}.partial"
    try:
        copied = _stock_copy(src_path, partial, overwrite)
        put_in_place(partial, dst_path)
    except OSError as error:
        raise UserError(describe_unwritable(dst_path, error)) from error
    finally:
        Path(partial).unlink(missing_ok=True)
    return copied


def repair_copies() -> None:
    """All fairseq versions: checkpoint_last.pt is a copy, and a kill while it is made left a run that cannot go on.

    And checkpoints that are written beside their place are renamed before the disk has them.
    """
    PathManager.copy = staticmethod(copy_whole)
    PathManager.rename = staticmethod(put_in_place)


_stock_all_reduce_grads = LegacyDistributedDataParallel.all_reduce_grads


def average_each_type(self: Any) -> None:
    """Fairseq's `LegacyDistributedDataParallel.all_reduce_grads`, for the parameters of each type on their own."""
    if self.accumulate_grads:
        return
    if not hasattr(self, "params_by_type"):
        self.params_by_type = defaultdict(list)
        for parameter in self.module.parameters():
            self.params_by_type[parameter.device, parameter.dtype].append(parameter)
        self.buffers_by_type = {}
    for kind, params in self.params_by_type.items():
        if kind not in self.buffers_by_type:
            self.buffers_by_type[kind] = params[0].new_empty(min(self.buffer_size, sum(p.numel() for p in params)))
        self.per_device_params, self.buffer = [params], self.buffers_by_type[kind]
        _stock_all_reduce_grads(self)


def repair_legacy_ddp() -> None:
    """All fairseq versions: `legacy_ddp` adds the gradients of all workers in the type of the first parameter.

    In half precision that rounds the gradients of gates, which are in float32, and those of multipliers overflow.
    """
    LegacyDistributedDataParallel.all_reduce_grads = average_each_type


_stock_ddp = distributed_fairseq_model.DistributedDataParallel


def wrap_for_ddp(module: Any, device_ids: Any = None, output_device: Any = None, **options: Any) -> Any:
    """Torch's `DistributedDataParallel`, whose arguments it takes; on the CPU without numbers of devices."""
    if next(module.parameters()).device.type == "cpu":
        device_ids = output_device = None
    return _stock_ddp(module, device_ids=device_ids, output_device=output_device, **options)


def repair_ddp_on_cpu() -> None:
    """All fairseq versions: with `pytorch_ddp`, torch refuses the number of a GPU that fairseq gives on the CPU too."""
    distributed_fairseq_model.DistributedDataParallel = wrap_for_ddp


def repair_broadcasts() -> None:
    """All fairseq versions with torch 2.6 and later: a run on several GPUs cannot go on from its checkpoint.

    The first worker sends it to the others with numbers in the place of tensors, and torch refuses their class.
    """
    if hasattr(torch.serialization, "add_safe_globals"):
        torch.serialization.add_safe_globals([distributed_utils._TensorPlaceholder])
