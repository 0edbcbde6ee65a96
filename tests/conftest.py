"""Fixtures that every test folder shares."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with real speech and a trained teacher; the test is skipped where it does not exist."""
    folder = Path(os.environ.get("FAIRSEQ_DISTILL_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "teacher" / "hubert_small.pt").exists():
        pytest.skip(f"no real speech here: {folder} does not hold teacher/hubert_small.pt (set FAIRSEQ_DISTILL_DATA)")
    return folder
