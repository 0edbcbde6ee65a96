"""Error rates of fine-tuned models of each era, beside the stock network's own scores and the textbook's distance."""

import json
from argparse import Namespace

import numpy as np
import pytest
import soundfile
import torch
from omegaconf import OmegaConf

from fairseq_distill.checkpoints.reading import load_encoder
from fairseq_distill.cli.main import main
from fairseq_distill.encoder import pieces
from fairseq_distill.errors import UserError
from fairseq_distill.evaluation.ctc import decode, load_recogniser

from ..builders import LARGE, write_data
from ..checkpoints import layouts
from ..checkpoints.ctc_layouts import PRETRAINED, FineTuned, make_dictionary, make_noise
from .edits import count_edits

# ending, tokens, what units are called, and where a word ends or begins
TOKENS = {
    "letters": ("ltr", [*"ENO'|"], "letters", "|"),
    "phones": ("phn", ["sil", "aa", "b", "ih", "@@"], "tokens", None),
    "characters": ("char", [*"今天气很好"], "characters", None),
    "pieces": ("bpe", ["\u2581NO", "\u2581", "ON", "E", "N"], "pieces", "\u2581"),
}


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    """Manifests over noise."""
    return write_data(tmp_path_factory.mktemp("speech"), lengths=(9000, 4001, 7000), copies=1, splits=("test",))


def write_labels(speech, folder, labels, symbols):
    """A folder with the manifest and random transcripts; returns (folder, tokens of each row)."""
    folder.mkdir(exist_ok=True)
    (folder / "test.tsv").write_text((speech / "test.tsv").read_text())
    random = np.random.default_rng(5)
    lines = [[str(token) for token in random.choice(symbols, size)] for size in (30, 12, 20)]
    text = "".join(" ".join(line) + "\n" for line in lines)
    (folder / f"test.{labels}").write_text(text, encoding="utf-8")
    return folder, lines


def read_waves(speech):
    root, *rows = (speech / "test.tsv").read_text().splitlines()
    return [torch.from_numpy(soundfile.read(f"{root}/{row.split()[0]}", dtype="float32")[0]) for row in rows]


def evaluate(capsys, *arguments):
    """What `evaluate ctc --json` prints."""
    assert main(["evaluate", "ctc", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("era", ["hydra", "argparse"])
@pytest.mark.parametrize("kind", ["wav2vec2", "hubert"])
@pytest.mark.parametrize("tokens", TOKENS)
def test_errors_are_those_of_the_stock_network(era, kind, tokens, speech, tmp_path, capsys):
    labels, symbols, name, mark = TOKENS[tokens]
    tuned = FineTuned(kind, symbols, labels, task="audio_pretraining" if kind == "wav2vec2" else None)
    data, lines = write_labels(speech, tmp_path / "data", labels, symbols)
    if era == "hydra":
        tuned.write_hydra(tmp_path / "tuned.pt")
    else:
        tuned.write_argparse(tmp_path / "tuned.pt")
        tuned.dictionary.save(str(data / f"dict.{labels}.txt"))
    result = evaluate(capsys, tmp_path / "tuned.pt", "--data", data)
    found = [tuned.recognise(wave) for wave in read_waves(speech)]
    assert len({token for line in found for token in line}) > 5 and result["labels"] == labels
    assert (result["unit"], result["units"], result["unknown_units"]) == (name, 62, 0)
    assert result["unit_errors"] == sum(map(count_edits, found, lines)) and result["uer"] == result["unit_errors"] / 62
    if mark is None:
        assert result["wer"] is result["word_errors"] is result["wer_interval"] is result["cer"] is None
        return
    # </s> and <s> are no part of fairseq's texts
    texts = ["".join(token for token in line if token != "</s>").replace(mark, " ").split() for line in found]
    words = ["".join(line).replace(mark, " ").split() for line in lines]
    assert (result["word_errors"], result["words"]) == (sum(map(count_edits, texts, words)), sum(map(len, words)))
    assert result["wer"] == result["word_errors"] / result["words"] and result["cer"] > 0


BLANKS = [("wav2vec2", {"blank_weight": 2.5}), ("wav2vec2 large", {"blank_weight": 0.4, "blank_mode": "set"})]


@pytest.mark.parametrize("kind, blank", [*((kind, {}) for kind in PRETRAINED), *BLANKS])
def test_every_family_decodes_as_stock_does(kind, blank, tmp_path):
    """Pre-norm models with a layer-norm extractor on normalised waves too; the weight of the blank is wav2vec_ctc's."""
    tuned = FineTuned(kind, [*"ENO|"], **blank)
    recogniser = load_recogniser(tuned.write_hydra(tmp_path / "tuned.pt"), tmp_path)
    assert not recogniser.model.training and recogniser.model.encoder.normalize_input == tuned.normalize
    waves = [make_noise(), make_noise(4001), make_noise()[: recogniser.model.encoder.cfg.shortest_wave]]
    found = [[recogniser.dictionary.symbols[number] for number in decode(recogniser, wave)] for wave in waves]
    assert found == [tuned.recognise(wave) for wave in waves] and len(set(found[0])) > 5


def test_wavlm_inside_wav2vec_ctc_is_read(tmp_path):
    """fairseq has no WavLM to compare with: by an encoder of its own and the output layer."""
    weights = layouts.make_wavlm_state(large=False)
    path = layouts.write_wavlm(tmp_path / "wavlm.pt", weights)
    settings = {**torch.load(path, weights_only=True)["cfg"], "_name": "wavlm"}
    output = torch.nn.Linear(48, 8)
    for parameter in output.parameters():
        torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(3))
    model = {"_name": "wav2vec_ctc", "w2v_args": {"model": settings, "task": {"normalize": False}}}
    parts = {"w2v_encoder.proj": output.state_dict(), "w2v_encoder.w2v_model": weights}
    state = {f"{part}.{key}": value for part, entries in parts.items() for key, value in entries.items()}
    cfg = {"model": model, "task": {"_name": "audio_finetuning", "labels": "ltr", "normalize": True}}
    layouts.write_fairseq(tmp_path / "a.pt", state, cfg=cfg, task_state={"target_dictionary": make_dictionary("ENO|")})
    recogniser = load_recogniser(tmp_path / "a.pt", tmp_path)
    encoder, wave = load_encoder(path), make_noise(9000)
    with torch.no_grad():
        best = output(encoder(torch.nn.functional.layer_norm(wave, wave.shape)[None]).x)[0].argmax(-1).tolist()
    kept = [token for n, token in enumerate(best) if token and (n == 0 or token != best[n - 1])]
    assert decode(recogniser, wave) == kept and len(set(kept)) > 1


def test_weights_of_the_blank_change_what_is_found(tmp_path):
    """That the comparison above can fail."""
    lengths = []
    for weight in (0.0, 2.5):
        tuned = FineTuned("wav2vec2", [*"ENO|"], blank_weight=weight)
        lengths.append(len(decode(load_recogniser(tuned.write_hydra(tmp_path / "a.pt"), tmp_path), make_noise())))
    assert lengths[0] > lengths[1] > 0


def test_the_task_that_fine_tunes_decides_on_normalised_waves(tmp_path):
    tuned = FineTuned("wav2vec2", [*"ENO|"])
    tuned.task["normalize"] = True
    assert load_recogniser(tuned.write_hydra(tmp_path / "a.pt"), tmp_path).model.encoder.normalize_input
    tuned.task.pop("normalize")
    assert not load_recogniser(tuned.write_hydra(tmp_path / "a.pt"), tmp_path).model.encoder.normalize_input


def test_settings_that_the_file_lacks_are_the_pretrained_ones(speech, tmp_path, capsys):
    """As the task hubert_pretraining leaves it; the path in the file is not opened though there is a file."""
    tuned = FineTuned("hubert large", [*"ENO|"])
    pretrained = layouts.write_hubert(tmp_path / "hubert.pt", layouts.build_hubert(**LARGE), normalize=True)
    data, lines = write_labels(speech, tmp_path / "data", "ltr", [*"ENO|"])
    bare = tuned.write_hydra(tmp_path / "bare.pt", w2v_args=None, w2v_path=str(pretrained))
    with pytest.raises(UserError, match=r"bare.pt lacks the settings .*\(--pretrained FILE\); its .* is .*hubert.pt"):
        load_recogniser(bare, data)
    result = evaluate(capsys, bare, "--data", data, "--pretrained", pretrained)
    found = [tuned.recognise(wave) for wave in read_waves(speech)]
    assert result["unit_errors"] == sum(map(count_edits, found, lines))
    other = layouts.write_hubert(tmp_path / "other.pt", layouts.build_hubert(encoder_layers=2))
    with pytest.raises(UserError, match="bare.pt: the weights do not fit the settings of hubert: .*layers.2"):
        load_recogniser(bare, data, pretrained=other)


@pytest.mark.parametrize("holder", ["DictConfig", "Namespace", "DictConfig in args"])
def test_settings_of_the_pretrained_model_are_read_from_any_holder(holder, tmp_path):
    tuned = FineTuned("wav2vec2 large", [*"ENO|"], task="audio_pretraining")
    write = tuned.write_argparse if holder.endswith("args") else tuned.write_hydra
    state = torch.load(write(tmp_path / "a.pt"), weights_only=False)
    if holder == "DictConfig":
        state["cfg"] = OmegaConf.create(state["cfg"])
    elif holder == "Namespace":
        inner = state["cfg"]["model"]["w2v_args"]
        state["cfg"]["model"]["w2v_args"] = Namespace(**{**inner["model"], "arch": "wav2vec2", "normalize": True})
    else:
        state["args"].w2v_args = OmegaConf.create(tuned.w2v_args())
    torch.save(state, tmp_path / "a.pt")
    tuned.dictionary.save(str(tmp_path / "dict.ltr.txt"))
    recogniser = load_recogniser(tmp_path / "a.pt", tmp_path)
    found = [recogniser.dictionary.symbols[number] for number in decode(recogniser, make_noise(9000))]
    assert found == tuned.recognise(make_noise(9000)) and found


@torch.no_grad()
def test_a_long_wave_is_heard_in_pieces_and_normalised_whole(monkeypatch, tmp_path):
    tuned = FineTuned("wav2vec2", [*"ENO|"])
    tuned.task["normalize"] = True
    model = load_recogniser(tuned.write_hydra(tmp_path / "a.pt"), tmp_path).model
    wave = 3 + 2 * torch.randn(9000, generator=torch.Generator().manual_seed(0))
    whole = model(wave[None])
    monkeypatch.setattr(pieces, "LONGEST", 0.2)
    bounds = pieces.cut_wave(len(wave), model.encoder.cfg)
    assert len(bounds) > 2
    normal = (wave - wave.mean()) / (wave.var(unbiased=False) + 1e-5).sqrt()
    model.encoder.normalize_input = False
    expected = [model.output(model.encoder.encode(normal[None, start:stop]).x) for start, stop in bounds]
    model.encoder.normalize_input = True
    found = model(wave[None])
    assert found.shape == whole.shape and not torch.allclose(found, whole, atol=1e-3)
    torch.testing.assert_close(found, torch.cat(expected, 1), atol=1e-4, rtol=1e-4)
