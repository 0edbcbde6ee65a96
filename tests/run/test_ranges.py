"""Numbers outside of their field's range are refused by name; every numeric field has a range."""

import math
from dataclasses import dataclass, field, fields
from typing import Any

import pytest
from omegaconf import OmegaConf

from fairseq_distill.distillation.settings import SpeechDistillationCriterionConfig
from fairseq_distill.encoder.config import EncoderConfig
from fairseq_distill.errors import UserError
from fairseq_distill.models.speech_student import SpeechStudentConfig
from fairseq_distill.multitask.settings import SpeechMultitaskConfig, SpeechMultitaskCriterionConfig
from fairseq_distill.run.ranges import FAIRSEQ, INHERITED, Range, check_fairseq, check_ranges, find_range
from fairseq_distill.run.settings import check_model, check_run, check_section
from fairseq_distill.tasks.speech_distillation import SpeechDistillationConfig
from fairseq_distill.tasks.speech_multitask import SpeechMultitaskTaskConfig

SETTINGS = {
    "encoder": EncoderConfig,
    "model": SpeechStudentConfig,
    "multitask model": SpeechMultitaskConfig,
    "task": SpeechDistillationConfig,
    "multitask task": SpeechMultitaskTaskConfig,
    "criterion": SpeechDistillationCriterionConfig,
    "multitask criterion": SpeechMultitaskCriterionConfig,
}


def list_numbers(kind):
    """Fields of a dataclass that hold one number."""
    return [
        f
        for f in fields(kind)
        if any(name in str(f.type) for name in ("'int'", "'float'", "[int]", "[float]"))
        and "List" not in str(f.type)
        and "Tuple" not in str(f.type)
    ]


@pytest.mark.parametrize("section", SETTINGS)
def test_every_numeric_field_refuses_what_is_outside_of_its_range(section):
    kind = SETTINGS[section]
    numbers = list_numbers(kind)
    assert len(numbers) > 4
    check_ranges(kind(), kind)
    for number in numbers:
        allowed = find_range(number)
        assert allowed is not None, f"{kind.__name__}.{number.name} has no range"
        wrong = [allowed.low - 1, -math.inf, math.nan, math.inf]
        wrong += [allowed.high + 1] if allowed.high is not None else []
        wrong += [allowed.low] if allowed.above else []
        for value in wrong:
            with pytest.raises(ValueError, match=rf"^part\.{number.name}=.* must be "):
                check_ranges(kind(**{number.name: value}), kind, "part")
        inside = [allowed.low] if not allowed.above else [allowed.low + 0.5]
        for value in inside + ([allowed.high] if allowed.high is not None else []):
            check_ranges(kind(**{number.name: value}), kind, "part")


def test_every_inherited_range_is_of_a_field():
    names = {f.name for kind in SETTINGS.values() for f in fields(kind)}
    assert set(INHERITED) <= names


@dataclass
class Settings:
    """Settings with each kind of range."""

    share: float = field(default=0.5, metadata={"range": Range(0, 1)})
    rate: float = field(default=1.0, metadata={"range": Range(0, above=True)})
    count: int = field(default=1, metadata={"range": Range(1)})
    part: float = field(default=0.5, metadata={"range": Range(0, 1, above=True)})
    free: Any = None


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("share", 1.5, "task.share=1.5 must be from 0 to 1"),
        ("rate", 0, "task.rate=0 must be above 0"),
        ("count", -3, "task.count=-3 must be at least 1"),
        ("part", 0, "task.part=0 must be above 0 and at most 1"),
    ],
)
def test_the_sentence_says_what_is_allowed(name, value, sentence):
    for settings in (Settings(**{name: value}), OmegaConf.create({name: value})):
        with pytest.raises(UserError) as refusal:
            check_section(settings, Settings, "task")
        assert str(refusal.value) == sentence
    check_section(OmegaConf.create({"share": None, "free": -5}), Settings, "task")


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        *((section, name, ranges[name].low - 1) for section, ranges in FAIRSEQ.items() for name in ranges),
        ("optimization", "update_freq", [2, 0]),
        ("optimization", "lr", [math.nan]),
        ("optimization", "clip_norm", math.inf),
        ("optimizer.groups.gates", "lr_float", -0.02),
        ("optimizer.groups.gates", "lr_float", math.nan),
    ],
)
def test_numbers_of_other_sections_are_refused_by_name(section, name, value):
    """fairseq divides by an update_freq of 0, and climbs with a negative rate."""
    run = OmegaConf.create({"optimization": {"lr": [0.1], "update_freq": [1]}, "optimizer": {"_name": "composite"}})
    check_run(run)
    OmegaConf.update(run, f"{section}.{name}", value, merge=False)
    OmegaConf.set_struct(run, True)
    with pytest.raises(UserError, match=rf"^{section}\.{name}=.* must be at least"):
        check_run(run)


def test_a_model_is_checked_by_the_dataclass_that_it_is_registered_with():
    check_model(OmegaConf.create({"_name": "speech_student", "lambda2": 300.0, "sparsity_warmup": 0}))
    with pytest.raises(UserError, match=r"^model\.lambda2=-300\.0 must be at least 0$"):
        check_model(OmegaConf.create({"_name": "speech_student", "lambda2": -300.0}))
    with pytest.raises(UserError, match=r"^model\.freeze_updates=-1 must be at least 0$"):
        check_model(OmegaConf.create({"_name": "speech_multitask", "freeze_updates": -1}))
    check_model(OmegaConf.create({"_name": "somebody's", "lambda2": -300.0}))


def test_sections_that_a_run_has_not_are_passed_over():
    """The argparse commands hand over a run whose optimizer is None."""
    check_run({})
    sparse = {"dataset": {"max_tokens": None, "batch_size": 3}, "optimizer": {"groups": None}}
    for run in ({}, {"optimizer": None, "optimization": None}, {"optimizer": {"_name": "adam"}, "dataset": {}}, sparse):
        check_run(OmegaConf.create(run))
    with pytest.raises(ValueError, match=r"optimization\.lr=.*must be at least 0"):
        check_fairseq(OmegaConf.create({"optimizer": None, "optimization": {"lr": [-1.0]}}))
