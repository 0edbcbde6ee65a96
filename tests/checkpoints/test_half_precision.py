"""fairseq's optimizer for half precision goes on from the weights in float32 that it had."""

import copy

import pytest
import torch
from fairseq.dataclass.configs import FairseqConfig
from fairseq.optim import FP16Optimizer
from omegaconf import OmegaConf
from torch import nn

import fairseq_distill  # noqa: F401


class Model(nn.Module):
    """A layer in half precision and gates in float32."""

    def __init__(self, dtype):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(8, 8).to(dtype)
        self.gates = nn.Parameter(torch.randn(8))


def build(dtype):
    """(model, optimizer) as fairseq's trainer builds them."""
    cfg = OmegaConf.structured(FairseqConfig())
    OmegaConf.set_struct(cfg, False)
    cfg.optimizer = {"_name": "adam", "adam_betas": "(0.9,0.98)", "adam_eps": 1e-8, "weight_decay": 0.0, "lr": [1e-4]}
    cfg.optimizer.update({"use_old_adam": False, "tpu": False, "fp16_adam_stats": False})
    cfg.common.fp16_no_flatten_grads, cfg.common.bf16, cfg.common.fp16_scale_window = True, dtype == torch.bfloat16, 3
    model = Model(dtype)
    return model, FP16Optimizer.build_optimizer(cfg, list(model.parameters()))


def step(model, optimizer, number):
    optimizer.zero_grad()
    generator = torch.Generator().manual_seed(number)
    x = torch.randn(4, 8, generator=generator)
    out = model.linear(x.to(model.linear.weight.dtype)).float() * model.gates
    optimizer.backward(out.pow(2).sum())
    optimizer.clip_grad_norm(1.0)
    optimizer.step()


def resume(model, optimizer, dtype, change=lambda model: None):
    """Another model and optimizer, from what fairseq saves of these."""
    weights = {name: value.float().clone() for name, value in model.state_dict().items()}
    state = copy.deepcopy(optimizer.state_dict())
    again, _ = build(dtype)
    again.load_state_dict(weights)
    change(again)
    resumed = build_from(again, dtype)
    resumed.load_state_dict(state)
    return again, resumed


def build_from(model, dtype):
    """The optimizer of a model that has its weights already."""
    other, optimizer = build(dtype)
    rebuilt = FP16Optimizer.build_fp32_params(None, list(model.parameters()), flatten=False)
    for parameter, own in zip(optimizer.fp32_params, rebuilt):
        parameter.data.copy_(own.data)
    optimizer.fp16_params = list(model.parameters())
    return optimizer


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_stop_changes_no_bit(dtype):
    model, optimizer = build(dtype)
    for number in range(7):
        step(model, optimizer, number)
    assert any(not torch.equal(w, w.to(dtype).float()) for w in optimizer.fp32_params), "nothing would be rounded"
    again, resumed = resume(model, optimizer, dtype)
    for number in range(7, 12):
        step(model, optimizer, number)
        step(again, resumed, number)
    for one, other in zip(optimizer.fp32_params, resumed.fp32_params):
        assert torch.equal(one, other)
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), again.parameters()))
    if dtype == torch.float16:
        assert vars(resumed.scaler) == vars(optimizer.scaler) and resumed.scaler._iter == 12
        assert resumed.scaler.loss_scale > 128, "it has grown since the start"


def test_weights_that_somebody_changed_in_the_checkpoint_are_taken(tmp_path):
    model, optimizer = build(torch.bfloat16)
    for number in range(5):
        step(model, optimizer, number)

    def change(again):
        with torch.no_grad():
            again.linear.weight[2] = 7.0

    again, resumed = resume(model, optimizer, torch.bfloat16, change)
    weights, before = resumed.fp32_params[1], optimizer.fp32_params[1]
    assert weights.shape == (8, 8) and (weights[2] == 7).all()
    kept = torch.arange(8) != 2
    assert torch.equal(weights[kept], before[kept])


def test_checkpoints_of_before_load_as_they_did():
    model, optimizer = build(torch.float16)
    step(model, optimizer, 0)
    state = optimizer.state_dict()
    assert len(state.pop("fp32_params")) == 3 and state.pop("scaler")["_iter"] == 1
    again, resumed = build(torch.float16)
    resumed.load_state_dict(state)
    assert resumed.scaler.loss_scale == optimizer.scaler.loss_scale
    assert torch.equal(resumed.fp32_params[0], again.gates)
