"""Export: check the settings, write, let other code run what was written, compare, and only then put it in place."""

from pathlib import Path
from types import ModuleType
from typing import List

from ..errors import UserError
from ..output.files import write_folder, write_whole
from . import (
    dphubert,
    exported_program,
    microsoft_wavlm,
    onnx_file,
    safetensors_folder,
    stock_fairseq,
    torchscript,
    transformers_folder,
)
from .comparison import STOCK, Differences, Promise, compare
from .folder import refuse_place
from .source import Source

# Each module has HELP and READER (who runs the file to compare), describe(source), which names things for the report,
# check(source), which refuses what does not fit, write(source, path), and open_file(path, source), which gives a
# `comparison.Reader`. It may have promise(source), where its files are not as a `Promise` says by itself; OPTIONS, the
# names of those in `source.Options` that it takes; FOLDER = True (a folder is written); get_reference(source) (the
# encoder that the file equals, if it is not the source's as it stands); and finish(path, source, differences, name),
# which adds what was measured.
FORMATS = {
    "fairseq": stock_fairseq,
    "wavlm": microsoft_wavlm,
    "transformers": transformers_folder,
    "safetensors": safetensors_folder,
    "dphubert": dphubert,
    "onnx": onnx_file,
    "torchscript": torchscript,
    "pt2": exported_program,
}


def export(source: Source, format_name: str, output: Path) -> Differences:
    """Write a file of that format; returns how far it is from the encoder. It appears whole or not at all.

    Raises:
        UserError: the format has no place for a setting, the file cannot be written or is the one that is exported, or
            its states differ from the encoder's by more than the format allows.
    """
    module = FORMATS[format_name]
    if output.exists() and output.samefile(source.checkpoint.path):
        raise UserError(f"{output} is the file that is exported: give the result another name")
    for name in source.options.list_set():
        if name not in getattr(module, "OPTIONS", ()):
            raise UserError(f"--{name.replace('_', '-')} is no option of --format {format_name}: see export --help")
    as_folder = getattr(module, "FOLDER", False)
    if as_folder:
        refuse_place(output)
    module.check(source)
    found: List[Differences] = []

    def fill(partial: Path) -> None:
        module.write(source, partial)
        found.append(_check_file(source, module, partial, output))
        if hasattr(module, "finish"):
            module.finish(partial, source, found[0], output.name)

    (write_folder if as_folder else write_whole)(output, fill)
    return found[0]


def _check_file(source: Source, module: ModuleType, partial: Path, output: Path) -> Differences:
    """Compare what was written with the encoder."""
    promise: Promise = module.promise(source) if hasattr(module, "promise") else STOCK
    source.encoder.exact_padding = promise.exact_padding
    encoder = module.get_reference(source) if hasattr(module, "get_reference") else source.encoder
    reader = None
    try:
        reader = module.open_file(partial, source)
        differences = compare(encoder, reader, promise)
    except UserError:
        raise
    except Exception as error:  # whatever another's code raises
        raise UserError(
            f"{output} is not written: {module.READER} does not run what was exported from {source.checkpoint.path}: "
            f"{type(error).__name__}: {error}"
        ) from error
    finally:
        close = getattr(reader, "close", None)
        if close is not None:
            close()
    found = [difference for difference in differences if difference is not None]
    if not all(difference <= promise.tolerance for difference in found):
        padded = "" if differences.padded is None else f", and by {differences.padded:.1e} in a padded batch"
        raise UserError(
            f"{output} is not written: in {module.READER} it differs from {source.checkpoint.path} by "
            f"{differences.alone:.1e} of the features' size{padded}, more than {promise.tolerance:g}"
        )
    return differences
