"""The numbers that criterions log, read from the device at once."""

from typing import Any, Dict, List, Sequence

import torch


def read_numbers(logging_outputs: Sequence[Dict[str, Any]]) -> Dict[str, float]:
    """Each entry's sum over logging outputs, as a plain number.

    All that lies on a device comes in one transfer: read one by one, each would make the device wait once more.

    Args:
        logging_outputs: dictionaries of numbers and tensors of one element; an entry may be missing in some.
    """
    sums: Dict[str, Any] = {}
    for log in logging_outputs:
        for name, value in log.items():
            value = value.detach().reshape(()).double() if torch.is_tensor(value) else value
            sums[name] = sums[name] + value if name in sums else value
    names: List[str] = [name for name, value in sums.items() if torch.is_tensor(value)]
    if names:
        sums.update(zip(names, torch.stack([sums[name] for name in names]).tolist()))
    return sums
