"""The record of how audio is read: contradictions are told in the names of the task's settings."""

import dataclasses

import pytest

from fairseq_distill.data.audio_settings import AudioSettings
from fairseq_distill.errors import UserError


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"sample_rate": 0}, "task.sample_rate=0 must be"),
        ({"max_broken": 1.5}, "task.max_broken=1.5 must be a fraction from 0 to 1"),
        ({"max_broken": -0.1}, "task.max_broken=-0.1 must be"),
        ({"max_broken": float("nan")}, "task.max_broken=nan must be"),
        ({"num_buckets": 3}, "task.num_batch_buckets=3 needs task.enable_padding=true"),
        (
            {"max_sample_size": 300, "min_sample_size": 400},
            "task.max_sample_size=300 crops below the least of 400",
        ),
    ],
)
def test_contradictions_are_refused_by_the_names_that_users_type(settings, message):
    with pytest.raises(UserError, match=message):
        AudioSettings(**settings)


def test_values_at_the_edges_are_taken_and_a_copy_is_checked_too():
    settings = AudioSettings(min_sample_size=400, max_sample_size=400, max_broken=0, pad=True, num_buckets=2)
    assert settings.sample_rate == 16_000 and AudioSettings(max_broken=1).max_broken == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.pad = False
    with pytest.raises(UserError, match="task.enable_padding=true"):
        dataclasses.replace(settings, pad=False)
