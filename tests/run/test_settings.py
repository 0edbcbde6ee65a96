"""Settings that a run resolves are written into its own config, and each is logged."""

import logging

from omegaconf import OmegaConf

from fairseq_distill.run.settings import find_run, settle


def make_run():
    """(run, a merged copy of its model section as fairseq hands it over)."""
    run = OmegaConf.create({"model": {"_name": "speech_student", "depth": 2}, "optimization": {"update_freq": [1]}})
    copy = OmegaConf.merge(run.model, {"width": 8})
    copy.__dict__["_parent"] = run
    for config in (run, copy):
        OmegaConf.set_struct(config, True)
    return run, copy


def test_each_value_is_written_twice_and_logged_once(caplog):
    run, copy = make_run()
    assert find_run(copy) is run
    with caplog.at_level(logging.INFO):
        settle(find_run(copy), "model", {"width": 16, "depth": 2, "groups": "[[1]]"}, "as a test has it", copy)
    assert copy.width == run.model.width == 16 and copy.groups == run.model.groups == "[[1]]"
    assert caplog.messages == ["model.width=16 (as a test has it)", "model.groups=[[1]] (as a test has it)"]
    settle(find_run(copy), "model", {"width": 16}, "as a test has it", copy)
    assert len(caplog.messages) == 2, "what is there already is not logged"


def test_a_default_that_the_run_does_not_name_is_written_too():
    run, copy = make_run()
    settle(run, "model", {"width": 8}, "as it is", copy)
    assert run.model.width == 8


def test_another_section_and_a_model_without_a_run(caplog):
    run, copy = make_run()
    with caplog.at_level(logging.INFO):
        settle(run, "optimization", {"update_freq": [4]}, "four batches")
        settle({}, "model", {"depth": 3}, "alone", copy)
    assert run.optimization.update_freq == [4] and copy.depth == 3 and run.model.depth == 2
    assert caplog.messages == ["optimization.update_freq=[4] (four batches)", "model.depth=3 (alone)"]
