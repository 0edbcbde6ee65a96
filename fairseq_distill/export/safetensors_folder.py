"""A folder that torch and safetensors open: the network in one file of plain torch, its settings, its weights.

Before it is put in place, a process that can import neither fairseq nor this package runs it.
"""

from pathlib import Path
from typing import Any, Dict

from ..encoder.model import SpeechEncoder
from .comparison import Differences
from .folder import copy_code, write_json, write_readme, write_weights
from .outside import OutsideReader, require_packages
from .portable import convert_weights, describe_network, refuse_gates
from .source import Source

HELP = "folder that torch and safetensors open, any shape: settings, weights, one file of code"
READER = "plain torch"
FOLDER = True

_CODE = "portable_model"
_PROGRAM = """
sys.path.insert(0, folder)
import portable_model
model = portable_model.load_encoder(folder)
def run(waves, padding_mask):
    output = model(waves, padding_mask)
    return [*output.hidden, output.x]
"""
_LOADING = """import sys, torch
sys.path.insert(0, "{folder}")
from portable_model import load_encoder
model = load_encoder("{folder}")
output = model(torch.randn(1, {samples}))  # .x, .hidden, .features, each (batch, frames, {width})"""

_PADDING = (
    "A wave gives the same in a padded batch as alone: `model(waves, padding_mask)`, True = padding, which stands\n"
    "behind a wave."
)


def describe(source: Source) -> Dict[str, Any]:
    """The name of the model that is written."""
    return {"model": "PortableEncoder"}


def check(source: Source) -> None:
    """Refuse, with a UserError, gates that are not cut, and an installation without safetensors."""
    refuse_gates(source)
    require_packages("safetensors", "safetensors")


def get_reference(source: Source) -> SpeechEncoder:
    """The encoder that the folder equals: a wave gives the same in a padded batch as alone."""
    source.encoder.exact_padding = True
    return source.encoder


def write(source: Source, path: Path) -> None:
    """Write code, settings and weights."""
    copy_code(path, _CODE)
    write_weights(path, convert_weights(source.encoder))
    write_json(path / "config.json", {"encoder": describe_network(source.config)})


def open_file(path: Path, source: Source) -> OutsideReader:
    """The network as a process runs it that has torch and safetensors alone."""
    return OutsideReader(_PROGRAM, path, blocked=["transformers"], normalizes=True)


def finish(path: Path, source: Source, differences: Differences, name: str) -> None:
    """Add the README, with what was measured; `name` is the folder's."""
    shape = {"folder": name, "samples": source.checkpoint.sample_rate, "width": source.config.encoder_embed_dim}
    waves = "The model normalises waves itself." if source.config.normalize else "Waves are taken as they are."
    notes = f"{waves}\n{_PADDING}"
    write_readme(path, source, differences, READER, _LOADING.format(**shape), notes, source.left_out)
