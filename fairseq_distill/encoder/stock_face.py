"""What tools that know fairseq's HuBERT and wav2vec 2.0 look at, and our layers, faster, do not have by themselves.

Inside fairseq's layers everything is (frames, batch, width). Ours compute (batch, frames, width); hooks on a part of a
layer see fairseq's order all the same.
"""

from typing import Any, Dict, Iterator, Optional, Tuple

from torch import Tensor, nn

LayerResult = Tuple[Tensor, Optional[Tensor], Tensor]  # fairseq's: the layer's output, None, its feed-forward part's


def has_hooks(*modules: nn.Module) -> bool:
    """Whether somebody looks at what one of the modules is given or gives."""
    return any(module._forward_hooks or module._forward_pre_hooks for module in modules)


def run_part(part: nn.Module, x: Tensor, *args: Any) -> Tensor:
    """A part of a layer on x (batch, frames, channels); one with hooks is given (frames, batch, channels)."""
    if not has_hooks(part):
        return part(x, *args)
    return part(x.transpose(0, 1), *args).transpose(0, 1)


class KeepingDropout(nn.Dropout):
    """fairseq's `dropout_features`: its output, which HuBERT's forward pass drops, and wav2vec 2.0's hands out."""

    kept: Optional[Tensor] = None

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        self.kept = super().forward(x)
        return self.kept

    def take(self) -> Optional[Tensor]:
        """The output of the last pass, which is then forgotten."""
        kept, self.kept = self.kept, None
        return kept


class ExtractedFeatures(Tuple[Tensor, Optional[Tensor]]):
    """What `extract_features` returns: a pair as in HuBERT, with the entries of wav2vec 2.0's dictionary by name.

    Iteration and numbers are the pair's; names, `in`, `get` and `keys` the dictionary's.
    """

    named: Dict[str, Any]

    def __new__(cls, pair: Any, named: Optional[Dict[str, Any]] = None) -> "ExtractedFeatures":
        """The pair, and what is found by name: without it, as where torch gathers several GPUs', only the pair."""
        self = super().__new__(cls, pair)  # type: ignore[type-var]
        self.named = dict(zip(("x", "padding_mask"), self)) if named is None else named
        return self

    def __getnewargs__(self) -> Tuple:
        return tuple(self), self.named

    def __getitem__(self, key: Any) -> Any:
        """By number or by name."""
        return self.named[key] if isinstance(key, str) else super().__getitem__(key)

    def __contains__(self, key: Any) -> bool:
        """Whether there is something of that name, or that object."""
        return key in self.named if isinstance(key, str) else any(key is item for item in self)

    def get(self, key: str, default: Any = None) -> Any:
        """By name, or the default."""
        return self.named.get(key, default)

    def keys(self) -> Iterator[str]:
        """The names."""
        return iter(self.named)
