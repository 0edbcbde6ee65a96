"""ONNX: one file of batch and samples of any size, padded batches too, which onnxruntime and its kin run."""

import logging
import sys
import warnings
from pathlib import Path
from typing import Any, Dict, List, Optional

import torch
from torch import Tensor

from ..errors import UserError
from .comparison import Promise, Reader
from .exported_program import make_program
from .source import Source, refuse_gates
from .wave_encoder import measure_lengths, separate

HELP = "ONNX, any shape: waves (batch, samples) and, if padded, lengths (batch,) to the final output; onnxruntime"
READER = "onnxruntime"
OPTIONS = ("hidden_states", "quantize")
OPSET = 20  # the first with Gelu; onnxruntime 1.17 and later
# onnxruntime has kernels of its own, which sum in other orders: float32 rounds after each of some thousand products a
# layer, over 12 to 48 layers; 1e-5 was seen on models of Base's size
TOLERANCE = 1e-4
_WHOLE = 2**40  # lengths where none are given: longer than any wave
_LARGEST_FILE = 2**31 - 1  # bytes of a protobuf message
_NEEDS = "pip install 'fairseq-distill[export]'"


def describe(source: Source) -> Dict[str, Any]:
    """What is written."""
    weights = ", linear layers in int8" if source.options.quantize else ""
    return {"model": f"ONNX, opset {OPSET}{weights}", "opset": OPSET, "quantized": source.options.quantize or None}


def check(source: Source) -> None:
    """Refuse, with a UserError, gates that are not cut, a size that no file holds, and libraries that are not there."""
    refuse_gates(source)
    size = sum(weight.numel() * weight.element_size() for weight in source.encoder.parameters())
    if size > _LARGEST_FILE:
        raise UserError(
            f"{source.checkpoint.path} is not exported: its weights are {size / 1e9:.1f} GB, and an ONNX file "
            "holds 2.1; --format pt2 holds more"
        )
    _import_onnx()


def promise(source: Source) -> Promise:
    """Padding is exact; 8 bits have no bar, their difference is printed."""
    return Promise(
        tolerance=sys.float_info.max if source.options.quantize else TOLERANCE,
        all_states=source.options.hidden_states,
        normalizes=True,
        exact_padding=True,
    )


@torch.no_grad()  # with gradients torch has other kernels for attention, whose layouts do not fit the program's
def write(source: Source, path: Path) -> None:
    """Write the graph; with `quantize`, products of matrices in 8 bits."""
    onnx, _ = _import_onnx()
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)  # fairseq lets all loggers speak, and these name every node
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch's own plans
            names = ["last_hidden_state"] + ["hidden_states"] * source.options.hidden_states
            program = torch.onnx.export(
                make_program(source),
                input_names=["waves", "lengths"],
                output_names=names,
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
        assert program is not None
        model = program.model_proto
        _let_lengths_be_left_out(onnx, model)
        onnx.checker.check_model(model)
        onnx.save_model(model, str(path))
        if source.options.quantize:
            _quantize(path)
    finally:
        logging.disable(level)


def _let_lengths_be_left_out(onnx: Any, model: Any) -> None:
    """Give the input a default, which says of one number for all waves that they are whole."""
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            if name == "lengths":
                node.input[index] = "lengths_of_all"
    lengths = next(given for given in model.graph.input if given.name == "lengths")
    lengths.type.tensor_type.shape.dim[0].dim_param = "batch or 1"
    nodes = [
        onnx.helper.make_node("Shape", ["waves"], ["batch_of_waves"], start=0, end=1),
        onnx.helper.make_node("Expand", ["lengths", "batch_of_waves"], ["lengths_of_all"]),
    ]
    for place, node in enumerate(nodes):
        model.graph.node.insert(place, node)
    model.graph.initializer.append(onnx.helper.make_tensor("lengths", onnx.TensorProto.INT64, [1], [_WHOLE]))


def _quantize(path: Path) -> None:
    """Products of matrices in 8 bits, in the file's place; convolutions in 8 bits were slower and worse."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    reduced = path.with_name(path.stem + ".int8.onnx")
    try:
        quantize_dynamic(path, reduced, op_types_to_quantize=["MatMul", "Gemm"], weight_type=QuantType.QInt8)
        reduced.replace(path)
    finally:
        reduced.unlink(missing_ok=True)


def open_file(path: Path, source: Source) -> Reader:
    """The graph as onnxruntime runs it on the CPU; waves alone are given without lengths."""
    _, runtime = _import_onnx()
    settings = runtime.SessionOptions()
    settings.log_severity_level = 3  # it warns of every input that may be left out
    session = runtime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])

    def read(waves: Tensor, padding_mask: Optional[Tensor]) -> List[Tensor]:
        given = {"waves": waves.numpy()}
        if padding_mask is not None:
            given["lengths"] = measure_lengths(waves, padding_mask).numpy()
        return separate([torch.from_numpy(array) for array in session.run(None, given)])

    return read


def _import_onnx() -> Any:
    """(onnx, onnxruntime); UserError where one, or what torch writes ONNX with, is missing."""
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f"--format onnx needs libraries that are not installed: {_NEEDS} ({error})") from error
    return onnx, onnxruntime
