"""What exported folders have in common: their files, and which of them may take another folder's place."""

import json
from pathlib import Path
from typing import Any, Dict, List, Mapping

from torch import Tensor

from .. import __version__
from ..errors import UserError
from .comparison import Differences
from .source import Source

# all names that an export has written: a folder with others holds somebody's work
_NAMES = {
    *("config.json", "model.safetensors", "README.md", "portable_model.py", "modeling_portable.py"),
    *("preprocessor_config.json", "vocab.json", "tokenizer_config.json", "__pycache__"),
}
_MARK = "fairseq_distill"  # the key in config.json by which an earlier export is known


def refuse_place(path: Path) -> None:
    """Refuse, with a UserError, to write a folder where something is that is no earlier export."""
    if not path.exists():
        return
    if not path.is_dir():
        raise UserError(f"{path} is a file, and this format is a folder: give the result another name")
    names = {file.name for file in path.iterdir()}
    if names and (names - _NAMES or not _is_marked(path / "config.json")):
        told = ", ".join(sorted(names - _NAMES or names)[:3])
        raise UserError(f"{path} is a folder with other files ({told}): give the result another name")


def _is_marked(path: Path) -> bool:
    try:
        return _MARK in json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False


def write_json(path: Path, settings: Mapping[str, Any]) -> None:
    """Write settings, and for `config.json` what wrote them."""
    mark = {_MARK: {"version": __version__}} if path.name == "config.json" else {}
    path.write_text(json.dumps({**settings, **mark}, indent=2) + "\n", encoding="utf-8")


def write_weights(path: Path, weights: Dict[str, Tensor]) -> None:
    """Write `model.safetensors` into a folder."""
    from safetensors.torch import save

    # not its save_file, which lets nobody else read the file, and has errors of its own for a full disk
    (path / "model.safetensors").write_bytes(save(weights, metadata={"format": "pt"}))


def copy_code(path: Path, *modules: str) -> None:
    """Ship modules of this folder."""
    for module in modules:
        code = (Path(__file__).parent / f"{module}.py").read_text(encoding="utf-8")
        (path / f"{module}.py").write_text(code, encoding="utf-8")


def write_readme(
    path: Path,
    source: Source,
    differences: Differences,
    reader: str,
    loading: str,
    notes: str,
    left_out: List[str],
    header: str = "",
) -> None:
    """Write `README.md`, and the differences into `config.json` too.

    Args:
        path: the folder.
        source: what was exported.
        differences: of the folder, as `reader` runs it, from the source.
        reader: whose code ran it.
        loading: Python that opens the folder.
        notes: what there is to know about waves and padding.
        left_out: what else the checkpoint holds.
        header: YAML of a model card.
    """
    cfg = source.config
    settings = json.loads((path / "config.json").read_text(encoding="utf-8"))
    settings[_MARK] = {"version": __version__, "largest_difference": differences._asdict()}
    (path / "config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    rest = f"\nLeft out of the checkpoint: {', '.join(left_out)}.\n" if left_out else ""
    text = f"""{header}# Speech encoder

`{Path(source.checkpoint.path).name}` as fairseq-distill {__version__} exported it: {cfg.encoder_layers} layers of width
{cfg.encoder_embed_dim}, heads {_shorten(cfg.heads)}, feed-forward neurons {_shorten(cfg.ffn_dims)}, waves at
{source.checkpoint.sample_rate} Hz, family {cfg.family}.

```python
{loading}
```

{notes}

In {reader} its states differ from the checkpoint's by at most {differences.alone:.1e} of their size, and by
{differences.padded:.1e} in a padded batch.
{rest}"""
    (path / "README.md").write_text(text, encoding="utf-8")


def _shorten(sizes: list) -> str:
    """Sizes of the layers, or the one that all have."""
    return str(sizes[0]) if len(set(sizes)) == 1 else str(sizes)
