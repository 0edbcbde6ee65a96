"""What fairseq's half-precision optimizer leaves out of a checkpoint: weights in float32, the scale's course."""

from typing import Any, Dict, List

import torch
from fairseq.optim import FP16Optimizer
from torch import Tensor

_WEIGHTS, _SCALER = "fp32_params", "scaler"  # the names in a checkpoint, beside fairseq's own

_stock_state_dict, _stock_load_state_dict = FP16Optimizer.state_dict, FP16Optimizer.load_state_dict


def repair_half_precision() -> None:
    """Put in place `state_dict` and `load_state_dict`, which all fairseq versions need.

    Training in half precision moves weights in float32. A checkpoint has them rounded, and a resumed run went on from
    these; of the loss scale's course it has the last value.
    """
    FP16Optimizer.state_dict, FP16Optimizer.load_state_dict = state_dict, load_state_dict


def state_dict(self: FP16Optimizer) -> Dict[str, Any]:
    """Fairseq's, with the weights in float32: 4 bytes a weight, beside 12 of a checkpoint of Adam."""
    state = {**_stock_state_dict(self), _WEIGHTS: [weights.detach() for weights in _list_weights(self)]}
    if self.scaler is not None:
        state[_SCALER] = {name: value for name, value in vars(self.scaler).items() if type(value) is int}
    return state


def load_state_dict(self: FP16Optimizer, state: Dict[str, Any], optimizer_overrides: Any = None) -> None:
    """Fairseq's; a weight that does not round to the model's own, which somebody has changed, is left out."""
    rest = {key: value for key, value in state.items() if key not in (_WEIGHTS, _SCALER)}
    _stock_load_state_dict(self, rest, optimizer_overrides)
    if self.scaler is not None:
        vars(self.scaler).update(state.get(_SCALER, {}))
    half = {parameter.dtype for parameter in self.fp16_params} - {torch.float32}
    for own, saved in zip(_list_weights(self), state.get(_WEIGHTS, [])):
        saved = saved.to(own.device)
        if len(half) == 1 and saved.shape == own.shape:
            rounded = saved.to(*half).float()
            own.data.copy_(torch.where(rounded == own.data, saved, own.data))


def _list_weights(optimizer: FP16Optimizer) -> List[Tensor]:
    """One for each parameter, or, where they are flattened, one for each device."""
    weights = optimizer.fp32_params
    return list(weights.values() if isinstance(weights, dict) else weights)
