"""What cannot be loaded is said in one sentence that names the file and the cause, and no file is changed."""

import hashlib
import tarfile

import pytest
import torch

from fairseq_distill import load_encoder
from fairseq_distill.checkpoints.reading import read_checkpoint
from fairseq_distill.cli.main import main
from fairseq_distill.errors import UserError

from . import layouts


@pytest.fixture(scope="module")
def hubert():
    return layouts.build_hubert()


@pytest.fixture(scope="module")
def wav2vec2():
    return layouts.build_wav2vec2()


def write(path, model, changes=(), name="hubert", **settings):
    """A checkpoint of `model` with some weights replaced (None: taken away) and some settings."""
    state = model.state_dict()
    for key, value in dict(changes).items():
        if value is None:
            del state[key]
        else:
            state[key] = value
    task = layouts.hubert_task(False) if name == "hubert" else {"_name": "audio_pretraining", "normalize": False}
    return layouts.write_fairseq(path, state, cfg=layouts.hydra_cfg(name, model.cfg, task, **settings))


def assert_refused(path, pattern):
    """`load_encoder` refuses with one sentence; the command line prints it and exits with an error; the file stays."""
    before = hashlib.sha256(path.read_bytes()).digest() if path.is_file() else None
    with pytest.raises(UserError, match=pattern) as refusal:
        load_encoder(path)
    message = str(refusal.value)
    assert str(path) in message and "\n" not in message and len(message) < 700 and "weights_only" not in message
    if before is not None:
        assert hashlib.sha256(path.read_bytes()).digest() == before
    return message


LAYER = "encoder.layers.1.self_attn.q_proj.weight"
WEIGHTS = {
    "missing": ({LAYER: None}, f"{LAYER} is missing"),
    "misshapen": ({LAYER: torch.zeros(47, 48)}, rf"{LAYER} is \(47, 48\), its settings say \(48, 48\)"),
    "whole numbers": ({LAYER: torch.zeros(48, 48, dtype=torch.int64)}, f"{LAYER} is of the type torch.int64"),
    "complex": ({LAYER: torch.zeros(48, 48, dtype=torch.complex64)}, f"{LAYER} is of the type torch.complex64"),
    "sparse": (
        {LAYER: torch.eye(48).to_sparse()},
        f"{LAYER} is a tensor of the layout torch.sparse_coo",
    ),
    "no tensor": ({LAYER: 3}, f"{LAYER} is missing"),
    "too many": ({"encoder.layers.1.adapter.weight": torch.zeros(2)}, "encoder.layers.1.adapter.weight has no place"),
    "missing norm": (
        {"layer_norm.weight": None, "layer_norm.bias": None},
        "layer_norm.weight is missing; layer_norm.bias",
    ),
    "mask embedding": ({"mask_emb": None}, "mask_emb is missing"),
}


@pytest.mark.parametrize("kind", WEIGHTS)
def test_weights_that_do_not_fit_are_named(kind, hubert, tmp_path):
    changes, pattern = WEIGHTS[kind]
    assert_refused(write(tmp_path / "hubert.pt", hubert, changes), pattern)


SETTINGS = {
    "fewer layers": (dict(encoder_layers=2), "encoder.layers.2.* has no place in these settings.*and 11 more"),
    "more layers": (
        dict(encoder_layers=5),
        r"say 5 encoder.layers, but there are weights of 3: encoder.layers.3.\* is missing",
    ),
    "very many layers": (dict(encoder_layers=9_999), "encoder.layers.3"),
    "endless layers": (dict(encoder_layers=10**9), "encoder_layers=1000000000 must be from 1 to 10,000"),
    "no negative distance": (
        dict(relative_position_embedding=True, num_buckets=32, max_distance=-(10**9)),
        "max_distance=-1000000000 must be from 1 to",
    ),
    "distances that make no logarithm": (
        dict(relative_position_embedding=True, num_buckets=32, max_distance=8),
        "max_distance=8 must be above a quarter of num_buckets=32",
    ),
    "a long text": (dict(reuse_attention="x" * 500_000), "reuse_attention="),
    "width": (dict(encoder_embed_dim=64), r"mask_emb is \(48,\), its settings say \(64,\).*and \d+ more"),
    "endless width": (dict(encoder_embed_dim=10**12, conv_pos_groups=1), "hubert.pt"),
    "no bias": (dict(conv_bias=True), "feature_extractor.conv_layers.0.0.bias is missing"),
    "other norm": (dict(extractor_mode="layer_norm"), "feature_extractor.conv_layers.0.2.1.weight is missing"),
    "heads": (dict(encoder_attention_heads=5), "encoder_embed_dim=48 is not a multiple of encoder_attention_heads=5"),
    "text for a number": (dict(encoder_layers="3"), "encoder_layers='3' is not of type"),
    "number for a choice": (dict(extractor_mode=3), "extractor_mode=3 is not of type"),
    "adapters": (dict(layer_type="trf_adp"), "layer_type=trf_adp is not supported"),
    "conformer": (dict(layer_type="conformer"), "layer_type=conformer is not supported"),
    "activation": (dict(activation_fn="swish"), "activation_fn=swish is not supported"),
    "architecture no text": (dict(_name=["hubert"]), "hubert.pt"),
    "no architecture": (dict(_name=None), None),
}


@pytest.mark.parametrize("kind", SETTINGS)
def test_settings_that_do_not_fit_are_named(kind, hubert, tmp_path):
    settings, pattern = SETTINGS[kind]
    path = write(tmp_path / "hubert.pt", hubert, **settings)
    if pattern is None:  # told from what only HuBERT has
        assert read_checkpoint(path).name == "hubert"
    else:
        assert_refused(path, pattern)


def test_quantized_input_is_refused(wav2vec2, tmp_path):
    assert_refused(write(tmp_path / "w2v.pt", wav2vec2, name="wav2vec2", quantize_input=True), "quantize_input")
    cropping = write(tmp_path / "cropping.pt", wav2vec2, name="wav2vec2", crop_seq_to_multiple=4)
    assert_refused(cropping, "crop_seq_to_multiple=4")


def test_fine_tuned_without_the_settings_inside(wav2vec2, tmp_path):
    path = layouts.write_wav2vec_ctc(tmp_path / "ctc.pt", wav2vec2, w2v_args=None)
    assert_refused(path, "fine-tuned but lacks the settings.*w2v_args.*pretrained checkpoint instead")


def test_adapters_of_a_fine_tuned_model(wav2vec2, tmp_path):
    path = layouts.write_wav2vec_ctc(tmp_path / "mms.pt", wav2vec2, layer_type="trf_adp")
    assert_refused(path, "layer_type=trf_adp is not supported")


def test_settings_taken_out(hubert, tmp_path):
    assert_refused(layouts.write_fairseq(tmp_path / "x.pt", hubert.state_dict(), args=None), "neither 'cfg' nor 'args'")


OTHER_FILES = {
    "web page": (b"\n<!DOCTYPE html><html><body>Not found</body></html>", "web page.*download it again"),
    "error page": (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "web page"),
    "git-lfs": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
        "git-lfs pointer.*git lfs pull",
    ),
    "empty": (b"", "is empty"),
    "text": (b'{"error": "Entry not found"}', "cannot be read as a checkpoint"),
    "noise": (bytes(range(256)) * 40, "cannot be read as a checkpoint"),
    "zip of something else": (b"PK\x05\x06" + bytes(18), "cannot be read as a checkpoint"),
}


@pytest.mark.parametrize("kind", OTHER_FILES)
def test_files_that_are_no_checkpoints(kind, tmp_path, capsys):
    content, pattern = OTHER_FILES[kind]
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    message = assert_refused(path, pattern)
    assert main(["info", str(path)]) == 1
    printed = capsys.readouterr()
    assert printed.out == "" and message in printed.err and "Traceback" not in printed.err


def test_paths_that_are_no_files(tmp_path):
    assert_refused(tmp_path, "is a folder")
    assert_refused(tmp_path / "missing.pt", "no such file")
    with tarfile.open(tmp_path / "model.tar", "w") as archive:
        archive.add(__file__)
    assert_refused(tmp_path / "model.tar", "tar archive")


def test_checkpoints_of_something_else(tmp_path):
    for content, pattern in (
        ([1, 2], "no fairseq or WavLM checkpoint.*is a list"),
        ({"state_dict": {}, "epoch": 3}, "holds state_dict, epoch"),
        ({}, "holds nothing"),
        ({"model": 3, "cfg": {}}, "holds model, cfg"),
        ({"model": {}, "cfg": "x"}, "x.pt"),
        ({"model": {}, "cfg": {"model": "x"}}, "x.pt"),
        ({"model": {}, "cfg": {"model": {}}}, "architecture None"),
        ({"model": {}, "cfg": {"model": {"_name": "hubert"}, "task": {"sample_rate": "x"}}}, "x.pt"),
    ):
        torch.save(content, tmp_path / "x.pt")
        assert_refused(tmp_path / "x.pt", pattern)


@pytest.mark.parametrize("zipped", [True, False])
def test_cut_short(zipped, hubert, tmp_path, capsys):
    path = layouts.write_hubert(tmp_path / "hubert.pt", hubert, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    for part in (0.001, 0.1, 0.5, 0.9, 0.999):
        path.write_bytes(whole[: int(len(whole) * part)])
        assert_refused(path, "is cut short" if zipped else "cannot be read as a checkpoint")
    assert main(["info", str(path)]) == 1
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("zipped", [True, False])
def test_damaged_bytes_give_a_sentence_or_a_model(zipped, hubert, tmp_path):
    path = layouts.write_hubert(tmp_path / "hubert.pt", hubert, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    generator = torch.Generator().manual_seed(0)
    refused = 0
    for _ in range(60):
        damaged = bytearray(whole)
        # the settings stand at the start, the directory of an archive at the end
        for position in torch.randint(0, 20_000, (4,), generator=generator).tolist():
            damaged[position if position < 16_000 else position - 20_000] = position % 256
        path.write_bytes(damaged)
        try:
            load_encoder(path)
        except UserError as error:
            assert str(path) in str(error)
            refused += 1
    assert refused > 10


@torch.no_grad()
def test_older_format_and_half_precision_load(hubert, tmp_path):
    wave = torch.randn(1, 2000, generator=torch.Generator().manual_seed(3))
    zipped = load_encoder(layouts.write_hubert(tmp_path / "zipped.pt", hubert))
    legacy = load_encoder(layouts.write_hubert(tmp_path / "old.pt", hubert, _use_new_zipfile_serialization=False))
    assert torch.equal(legacy(wave).x, zipped(wave).x)
    halved = {key: value.half() for key, value in hubert.state_dict().items()}
    half = load_encoder(write(tmp_path / "half.pt", hubert, halved))
    assert all(value.dtype == torch.float32 for value in half.state_dict().values())
    for key, value in half.state_dict().items():
        assert torch.equal(value, hubert.state_dict()[key].half().float()), key


def test_loaded_weights_can_be_changed_without_changing_the_file(hubert, tmp_path):
    path = layouts.write_hubert(tmp_path / "hubert.pt", hubert)
    before = path.read_bytes()
    encoder = load_encoder(path)
    assert all(parameter.requires_grad for parameter in encoder.parameters())
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.zero_()
    encoder.train()(torch.randn(1, 2000)).x.sum().backward()
    del encoder
    assert path.read_bytes() == before
    assert load_encoder(path).mask_emb.abs().sum() > 0


def test_a_safetensors_file_is_called_so(tmp_path):
    header = b'{"weight":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    assert_refused(path, "safetensors file, of Hugging Face's form: give its folder")
