"""Budgets of a student: encoder parameters, multiply-accumulates per second of audio, or both."""

import re
from typing import NamedTuple, Optional, Tuple

from ..encoder.size import Size
from ..errors import UserError

_FACTORS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}
_AMOUNT = re.compile(r"(\d+\.?\d*|\.\d+)\s*([kMG%]?)")


class Budget(NamedTuple):
    """What a student may have; None where it is not limited."""

    parameters: Optional[float] = None
    macs_per_second: Optional[float] = None

    def measure_use(self, size: Size) -> float:
        """The part of the budget that `size` uses up: 1 = all. With two limits, of the one that is used up more."""
        return max(used / limit for used, limit in zip(size, self) if limit is not None)

    def describe(self) -> str:
        """The limits for people."""
        what = zip(self, ("encoder parameters", "MACs per second"))
        return " and ".join(f"{format_amount(limit)} {name}" for limit, name in what if limit is not None)


def parse_amount(text: str, option: str, whole: Optional[float] = None) -> float:
    """Read "25M", "1.5G", "25000000", or "25%" of `whole`.

    Args:
        text: what the user gave.
        option: what it was given for; the error names it.
        whole: the teacher's amount; None where there is no teacher.

    Raises:
        UserError: not a positive amount, or a share without a teacher.
    """
    found = _AMOUNT.fullmatch(text.strip())
    if not found or not float(found[1]):
        raise UserError(f"{option} {text}: give a positive amount such as 25M (k, M or G), or 25% of the teacher's")
    if found[2] != "%":
        return float(found[1]) * _FACTORS[found[2]]
    if whole is None:
        raise UserError(f"{option} {text}: a share is one of a teacher's, so give --teacher too")
    return float(found[1]) / 100 * whole


def format_amount(amount: float) -> str:
    """The amount with two decimals and the suffix that fits: 23.49 M."""
    suffix = next((s for s in "GMk" if amount >= _FACTORS[s]), "")
    return f"{amount / _FACTORS[suffix]:.2f} {suffix}" if suffix else f"{amount:g}"


def parse_tolerance(text: str) -> float:
    """Read "5%" or "0.05", from 0 up to but not including 1.

    Raises:
        UserError: anything else.
    """
    found = _AMOUNT.fullmatch(text.strip())
    value = float(found[1]) / (100 if found[2] == "%" else 1) if found and found[2] in ("", "%") else -1.0
    if not 0 <= value < 1:
        raise UserError(f"--tolerance {text}: give a share such as 5% or 0.05, less than 100%")
    return value


def parse_depths(text: str) -> Tuple[int, int]:
    """Read "2-24" or "6": the fewest and the most layers.

    Raises:
        UserError: not one or two whole numbers from 1 to 100, the smaller one first.
    """
    found = re.fullmatch(r"(\d{1,3})(?:-(\d{1,3}))?", text.strip())
    fewest, most = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not 1 <= fewest <= most <= 100:
        raise UserError(f"--layers {text}: give a number of layers or a range such as 2-24, from 1 to 100")
    return fewest, most
