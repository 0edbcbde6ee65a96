"""Ranges of numeric settings: a value outside of its range is refused by name, before anything is read.

Our own fields say theirs beside their help, as `metadata={"help": ..., "range": Range(lowest, highest)}`; fields that
we inherit from fairseq have theirs here.
"""

import math
from dataclasses import fields
from numbers import Real
from typing import Any, Dict, Iterator, NamedTuple, Optional, Sequence, Tuple


class Range(NamedTuple):
    """What a number may be.

    Attributes:
        low: the smallest value. high: the largest; None = no limit.
        above: whether `low` itself is outside.
    """

    low: float
    high: Optional[float] = None
    above: bool = False

    def holds(self, value: float) -> bool:
        """Whether a value is inside; infinity and NaN never are."""
        enough = value > self.low if self.above else value >= self.low
        finite = isinstance(value, int) or math.isfinite(value)  # which fails on whole numbers beyond floats
        return finite and enough and (self.high is None or value <= self.high)

    def __str__(self) -> str:
        low = f"above {self.low:,}" if self.above else f"at least {self.low:,}"
        if self.high is None:
            return low
        return f"{low} and at most {self.high:,}" if self.above else f"from {self.low:,} to {self.high:,}"


MAX_WIDTH = 1 << 20  # of any axis of a weight; the largest released encoders have 1,920 and 7,680
PROBABILITY = Range(0, 1)
FRACTION = Range(0, 1)
WIDTH = Range(1, MAX_WIDTH)
POSITIVE = Range(0, above=True)
COUNT = Range(1)
NOT_NEGATIVE = Range(0)

INHERITED: Dict[str, Range] = {
    # of encoders (fairseq's HubertConfig)
    "label_rate": Range(-1),  # -1 = one label for each utterance
    "encoder_layers": Range(1, 10_000),
    "encoder_embed_dim": WIDTH,
    "encoder_ffn_embed_dim": WIDTH,
    "encoder_attention_heads": WIDTH,
    "dropout": PROBABILITY,
    "attention_dropout": PROBABILITY,
    "activation_dropout": PROBABILITY,
    "encoder_layerdrop": PROBABILITY,
    "dropout_input": PROBABILITY,
    "dropout_features": PROBABILITY,
    "final_dim": Range(0, MAX_WIDTH),
    "logit_temp": POSITIVE,
    "feature_grad_mult": NOT_NEGATIVE,
    "mask_length": COUNT,
    "mask_prob": PROBABILITY,
    "mask_other": NOT_NEGATIVE,
    "mask_min_space": NOT_NEGATIVE,
    "mask_channel_length": COUNT,
    "mask_channel_prob": PROBABILITY,
    "mask_channel_other": NOT_NEGATIVE,
    "mask_channel_min_space": NOT_NEGATIVE,
    "conv_pos": WIDTH,
    "conv_pos_groups": WIDTH,
    "required_seq_len_multiple": COUNT,
    "depthwise_conv_kernel_size": COUNT,
}

# of a run's other sections; numbers in lists, each of them
FAIRSEQ: Dict[str, Dict[str, Range]] = {
    "optimization": {
        "max_epoch": NOT_NEGATIVE,
        "max_update": NOT_NEGATIVE,
        "clip_norm": NOT_NEGATIVE,
        "lr": NOT_NEGATIVE,
        "update_freq": COUNT,
    },
    "dataset": {"max_tokens": COUNT, "batch_size": COUNT, "num_workers": NOT_NEGATIVE},
    "checkpoint": {"save_interval": COUNT, "save_interval_updates": NOT_NEGATIVE},
}


def check_fairseq(run: Any) -> None:
    """Check numbers of a run's own sections, of which fairseq says little, or trains nonsense.

    Args:
        run: the whole run's settings; sections that are not there are passed over.

    Raises:
        ValueError: the first one that is outside, with its value and what is allowed.
    """
    # None in runs of the argparse commands
    optimizer = (run["optimizer"] if "optimizer" in run else None) or {}  # noqa: SIM401  # omegaconf 2.0: get raises
    groups = (optimizer["groups"] or {}) if "groups" in optimizer else {}
    rates = {f"optimizer.groups.{group}": {"lr_float": NOT_NEGATIVE} for group in groups}
    parts = {f"optimizer.groups.{group}": groups[group] for group in groups}
    parts.update({section: run[section] for section in FAIRSEQ if section in run and run[section]})
    for section, settings in parts.items():
        for name, allowed in {**FAIRSEQ, **rates}[section].items():
            value = settings[name] if name in settings else None  # noqa: SIM401  # structs of omegaconf 2.0 raise
            several = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
            if any(isinstance(one, Real) and not allowed.holds(float(one)) for one in several):
                raise ValueError(f"{section}.{name}={value} must be {allowed}")


def check_ranges(settings: Any, kind: Any, section: str = "") -> None:
    """Check every numeric setting against the range of its field.

    Args:
        settings: an object with the fields of `kind`; values that are not set (None, "???", "${...}") are passed over.
        kind: the dataclass.
        section: "model", "task" or "criterion" where the message should say so.

    Raises:
        ValueError: the first one that is outside, with its value and what is allowed.
    """
    for name, value, allowed in _find_numbers(settings, kind):
        if not allowed.holds(value):
            raise ValueError(f"{section + '.' if section else ''}{name}={value} must be {allowed}")


def find_range(field: Any) -> Optional[Range]:
    """The range of a dataclass field: its own, or that of the field of fairseq's that it is inherited from."""
    return field.metadata.get("range", INHERITED.get(field.name))


def _find_numbers(settings: Any, kind: Any) -> Iterator[Tuple[str, float, Range]]:
    for field in fields(kind):
        allowed = find_range(field)
        value = getattr(settings, field.name, None) if allowed is not None else None
        if allowed is not None and isinstance(value, Real) and not isinstance(value, bool):
            yield field.name, value, allowed  # type: ignore[misc]  # what omegaconf gives is an int or a float
