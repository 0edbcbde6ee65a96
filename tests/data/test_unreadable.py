"""The count of files that cannot be used: what is allowed, what is said, and when it stops."""

import logging

import pytest

from fairseq_distill.data.manifest import Manifest
from fairseq_distill.data.unreadable import UnreadableFiles, UnreadableLimit
from fairseq_distill.errors import UserError

MANIFEST = Manifest("train.tsv", "/speech", [f"{row}.wav" for row in range(400)], [16_000] * 400)


def test_allowed_count_rounds_up_and_zero_is_strict():
    counts = [UnreadableLimit(n, f).allowed for f, n in [(0.01, 1490), (0.01, 20), (0.07, 100), (0, 9999), (1, 5)]]
    assert counts == [15, 1, 7, 0, 5]


def test_the_limit_is_exceeded_by_one_more():
    assert UnreadableLimit(1).is_exceeded(1) and UnreadableLimit(2).allowed == 1, "of a single file, one is all"
    limit = UnreadableLimit(20)
    assert [limit.is_exceeded(count) for count in (0, 1, 2)] == [False, False, True]
    assert UnreadableLimit(20, 0.0).is_exceeded(1) and not UnreadableLimit(20, 0.0).is_exceeded(0)


def test_files_are_counted_and_described_until_they_are_too_many(caplog):
    found = UnreadableFiles(MANIFEST, UnreadableLimit(400))
    found.log()
    assert len(found) == 0 and caplog.text == ""
    for row in (7, 3, 200, 11):
        found.add(row, f"reason {row}")
    sentence = (
        "train.tsv: 4 of 400 files cannot be used, the first: 7.wav (reason 7); 3.wav (reason 3); 200.wav (reason 200)"
    )
    assert found.describe() == sentence and list(found.reasons) == [7, 3, 200, 11]
    with caplog.at_level(logging.WARNING):
        found.log()
    assert caplog.messages == [sentence]
    with pytest.raises(UserError) as caught:
        found.add(12, "silent")
    assert str(caught.value).startswith("train.tsv: 5 of 400 files cannot be used, the first: 7.wav (reason 7); ")
    assert str(caught.value).endswith(
        ". Over 1% of the files is too many: mend them, or take their rows out of the manifest and of its label files"
    )


def test_the_same_row_counts_once():
    found = UnreadableFiles(MANIFEST, UnreadableLimit(10))
    found.add(1, "silent")
    found.add(1, "silent")
    assert len(found) == 1


def test_a_limit_that_users_set_is_named_as_the_way_out():
    error = UnreadableLimit(10, 0.25, setting="task.max_broken").error("train.tsv: 4 of 10 files cannot be used")
    assert isinstance(error, UserError)
    report, way_out = str(error).splitlines()
    assert report == "train.tsv: 4 of 10 files cannot be used"
    assert way_out.startswith("That is more than task.max_broken=0.25 allows") and "raise task.max_broken" in way_out
    drawn = UnreadableLimit(10, files="10 files drawn").error("x")
    assert "of the 10 files drawn is too many" in str(drawn)
