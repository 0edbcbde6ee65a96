"""Whether tensors of a file are weights that an encoder can compute with."""

from pathlib import Path
from typing import Dict, Mapping, Optional, Union

import torch
from torch import Tensor

from ..errors import UserError


def check_weights(path: Union[str, Path], weights: Mapping[str, Tensor]) -> None:
    """Refuse tensors that are no weights, would give no features, or take more memory than the file has.

    Reads every weight once.

    Raises:
        UserError: a tensor is not floating point (batch norm's counter aside), no plain tensor, not finite, or has
            elements that the file does not hold one by one; the message names it.
    """
    taken: Dict[int, int] = {}  # bytes of each storage
    for key, value in weights.items():
        odd = _find_odd_kind(key, value)
        if odd is not None:
            raise UserError(f"{path}: {key} is {odd}, where an encoder has floating point weights")
        storage = value.untyped_storage()
        size = taken.get(storage.data_ptr(), 0) + value.numel() * value.element_size()
        if value.numel() and size > storage.nbytes():
            raise UserError(f"{path} is refused: {key} claims more elements than the file holds of it")
        taken[storage.data_ptr()] = size
    for key, value in weights.items():
        # NaN comes through as both; no copy of the size of the weight is made
        if value.numel() and not torch.isfinite(torch.stack(value.aminmax())).all():
            finite = torch.isfinite(value)
            raise UserError(
                f"{path}: {key} has {int((~finite).sum())} of {value.numel()} values that are not finite (NaN or "
                "infinity): the file is damaged, or its training diverged; give an earlier checkpoint"
            )


def _find_odd_kind(key: str, value: Tensor) -> Optional[str]:
    """What a tensor is, where it is no plain tensor of floating point numbers; None where it is one."""
    if value.is_nested:
        return "a nested tensor"
    if value.layout is not torch.strided:
        return f"a tensor of the layout {value.layout}"
    if value.is_quantized or value.is_conj() or value.is_neg():
        return "a quantized, conjugated or negated tensor"
    if not value.is_floating_point() and not key.endswith(".num_batches_tracked"):
        return f"of the type {value.dtype}"
    return None
