"""Audio files that cannot be used: how many are allowed, and the error when there are more."""

import logging
import math
from dataclasses import dataclass, field
from typing import Dict

from ..errors import UserError
from .manifest import Manifest

logger = logging.getLogger(__name__)

MAX_UNREADABLE = 0.01  # of commands; training has task.max_broken
_SHOWN_FILES = 3


@dataclass(frozen=True)
class UnreadableLimit:
    """How many of so many files may be unusable.

    Attributes:
        num_files: files that are read.
        share: fraction of them that may be unusable, from 0 to 1; rounded up to whole files, so that one file never
            stops a run unless the share is 0, or there is no other file.
        setting: what the user sets the share by, such as task.max_broken; empty = it is fixed.
        files: what the files are called in the message.
    """

    num_files: int
    share: float = MAX_UNREADABLE
    setting: str = ""
    files: str = "files"

    @property
    def allowed(self) -> int:
        """Number of files that may be unusable."""
        allowed = math.ceil(round(self.share * self.num_files, 6))
        return allowed if self.share == 1 else min(allowed, max(self.num_files - 1, 0))  # of a single file, it is all

    def is_exceeded(self, count: int) -> bool:
        """Whether `count` unusable files are too many."""
        return count > self.allowed

    def error(self, report: str) -> UserError:
        """The error for too many; `report` says which files cannot be used."""
        if self.setting:
            return UserError(
                f"{report}\nThat is more than {self.setting}={self.share:g} allows: repair these files, take their "
                f"rows out of the manifest, or raise {self.setting}"
            )
        return UserError(
            f"{report}. Over {self.share:.0%} of the {self.files} is too many: mend them, or take their rows out of "
            "the manifest and of its label files"
        )


@dataclass
class UnreadableFiles:
    """Rows of a manifest whose files could not be used.

    Attributes:
        manifest: the manifest.
        limit: how many there may be.
        reasons: row -> why its file could not be used, in the order in which they were met.
    """

    manifest: Manifest
    limit: UnreadableLimit
    reasons: Dict[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.reasons)

    def add(self, row: int, reason: str) -> None:
        """Count a row.

        Raises:
            UserError: it is one too many; the message shows the first few.
        """
        self.reasons[row] = reason
        if self.limit.is_exceeded(len(self)):
            raise self.limit.error(self.describe())

    def describe(self) -> str:
        """One sentence: how many files cannot be used, and the first three with the reason."""
        first = list(self.reasons.items())[:_SHOWN_FILES]
        shown = "; ".join(f"{self.manifest.paths[row]} ({why})" for row, why in first)
        total = len(self.manifest.paths)
        return f"{self.manifest.file}: {len(self)} of {total} files cannot be used, the first: {shown}"

    def log(self) -> None:
        """Warn of them, if there are any."""
        if self.reasons:
            logger.warning(self.describe())
