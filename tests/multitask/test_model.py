"""The model: what is frozen when, what padding changes, and where it starts."""

from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf

from fairseq_distill import load_encoder
from fairseq_distill.errors import UserError
from fairseq_distill.models.speech_multitask import SpeechMultitask, SpeechMultitaskConfig
from fairseq_distill.multitask.task_list import parse_tasks

from ..builders import CLASSES, LARGE, TASKS, build_multitask, make_waves, save_teacher


def changed(model, before):
    """Names of the parameters that are not what they were."""
    return {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}


def train(model, updates, first=0):
    """Updates on noise the way fairseq makes them: mode, number of updates, step. Returns what each step changed."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    steps = []
    for number in range(first, first + updates):
        before = {name: p.clone() for name, p in model.named_parameters()}
        model.train()
        model.set_num_updates(number)
        optimizer.zero_grad()
        output = model(*make_waves(padded=True, seed=number))
        sum(scores.pow(2).sum() for scores in output.scores.values()).backward()
        optimizer.step()
        steps.append(changed(model, before))
    return steps


def of_encoder(names):
    """Those of the encoder."""
    return {name for name in names if name.startswith("encoder.")}


@pytest.mark.parametrize(
    "settings", [{}, dict(extractor_mode="layer_norm", family="wav2vec2")], ids=["hubert", "wav2vec2"]
)
def test_scores_and_embeddings_have_the_tasks_shapes_and_ignore_padding(settings):
    model = build_multitask(**settings)
    waves, mask = make_waves(padded=True)
    out = model(waves, mask)
    assert {name: tuple(s.shape) for name, s in out.scores.items()} == {"keyword": (3, 3), "speaker": (3, 4)}
    assert out.embeddings["speaker"].shape == (3, 12) and out.embeddings["keyword"].shape == (3, 48)
    for row in range(3):
        length = int((~mask[row]).sum())
        alone = model(waves[row : row + 1, :length])
        for name in alone.scores:
            torch.testing.assert_close(alone.scores[name][0], out.scores[name][row], atol=2e-4, rtol=2e-3)


def test_nothing_frozen_trains_everything_that_is_heard():
    model = build_multitask(freeze="none")
    (step,) = train(model, 1)
    assert step == {name for name, p in model.named_parameters() if p.requires_grad}
    assert "encoder.mask_emb" not in step and "encoder.feature_extractor.conv_layers.0.0.weight" in step


def test_frozen_encoder_stays_and_runs_as_in_evaluation():
    model = build_multitask(freeze="all", dropout=0.5, dropout_input=0.5)
    for step in train(model, 2):
        assert step and not of_encoder(step)
    model.train()
    assert model.heads.training and not model.encoder.training
    waves, _ = make_waves()
    first, second = model(waves), model(waves)
    assert torch.equal(first.encoder.hidden[3], second.encoder.hidden[3])
    assert not first.encoder.hidden[3].requires_grad and first.scores["keyword"].requires_grad


def test_frozen_convolutions_stay_and_the_rest_trains():
    model = build_multitask(freeze="cnn")
    (step,) = train(model, 1)
    assert not any(name.startswith("encoder.feature_extractor.") for name in step)
    assert "encoder.encoder.layers.0.fc1.weight" in step and "encoder.post_extract_proj.weight" in step
    assert not model.encoder.feature_extractor.training and model.encoder.encoder.training


def test_encoder_wakes_up_after_freeze_updates_also_in_a_resumed_run():
    model = build_multitask(freeze_updates=2, dropout=0.5)
    steps = train(model, 4)
    assert [bool(of_encoder(step)) for step in steps] == [False, False, True, True]
    assert model.encoder.training
    assert bool(of_encoder(train(build_multitask(freeze_updates=2), 1, first=2)[0]))


def test_final_norm_is_trained_where_a_task_hears_it():
    pre_norm = build_multitask(**LARGE)
    assert not pre_norm.encoder.encoder.layer_norm.weight.requires_grad
    last = build_multitask([{**TASKS[0], "layers": "last"}, TASKS[1]], **LARGE)
    assert last.encoder.encoder.layer_norm.weight.requires_grad
    only_last = build_multitask([{**TASKS[0], "layers": "last"}])
    out = only_last(make_waves()[0])
    assert [h is None for h in out.encoder.hidden] == [True, True, True, False]


def test_gates_are_kept_as_they_are():
    model = build_multitask(prune=["heads", "ffn"])
    (step,) = train(model, 1)
    assert not any("gates" in name for name in step)
    waves, _ = make_waves()
    model.train()
    model.encoder.encoder.eval()
    assert torch.equal(model(waves).scores["speaker"], model(waves).scores["speaker"])


def test_half_precision_keeps_scores_in_single():
    model = build_multitask(learn_task_weights=True).to(torch.bfloat16)
    waves, mask = make_waves(padded=True)
    out = model(waves.to(torch.bfloat16), mask)
    assert all(scores.dtype == torch.float32 and scores.isfinite().all() for scores in out.scores.values())
    assert out.log_variance.dtype == torch.float32


def test_build_takes_shape_and_weights_of_any_encoder(tmp_path):
    path = save_teacher(tmp_path / "teacher.pt", seed=3, normalize=True)
    cfg = OmegaConf.structured(SpeechMultitaskConfig(init=path, dropout=0.25))
    model = SpeechMultitask.build_model(
        cfg, SimpleNamespace(tasks=parse_tasks(TASKS), classes=CLASSES, cfg=SimpleNamespace(sample_rate=16_000))
    )
    assert cfg.init == "" and cfg.encoder_embed_dim == 48 and cfg.normalize and model.cfg.dropout == 0.25
    for key, value in load_encoder(path).state_dict().items():
        assert torch.equal(model.encoder.state_dict()[key], value), key
    cfg.init = str(tmp_path / "nowhere.pt")
    with pytest.raises(UserError, match="model.init=.*nowhere.pt: no such file"):
        SpeechMultitask.build_model(
            cfg, SimpleNamespace(tasks=parse_tasks(TASKS), classes=CLASSES, cfg=SimpleNamespace(sample_rate=16_000))
        )
