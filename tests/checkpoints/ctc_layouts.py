"""Models that stock fairseq fine-tunes by CTC, with random weights, as files of each era and as the network itself."""

from argparse import Namespace

import torch
import torch.nn.functional as F
from fairseq.data import Dictionary
from fairseq.models.hubert.hubert_asr import HubertCtc
from fairseq.models.wav2vec.wav2vec2_asr import Wav2VecCtc

from ..builders import LARGE, build_dictionary
from . import layouts

# what was pre-trained: (builder, its settings, waves are normalised)
PRETRAINED = {
    "wav2vec2": (layouts.build_wav2vec2, {}, False),
    "wav2vec2 large": (layouts.build_wav2vec2, LARGE, True),
    "hubert": (layouts.build_hubert, {}, False),
    "hubert large": (layouts.build_hubert, LARGE, True),
    "data2vec_audio": (layouts.build_data2vec, {}, True),
}


def make_dictionary(symbols) -> Dictionary:
    """Fairseq's dictionary of these tokens."""
    dictionary = Dictionary()
    for symbol in symbols:
        dictionary.add_symbol(symbol)
    return dictionary


def make_noise(samples=16_000) -> torch.Tensor:
    """A wave (samples,)."""
    return 1 + 3 * torch.randn(samples, generator=torch.Generator().manual_seed(2))


class FineTuned:
    """A stock network around a pre-trained one, and its settings as fairseq has them.

    Args:
        kind: of `PRETRAINED`.
        symbols: its tokens, without fairseq's own.
        labels: ending of its label files.
        task: fairseq's name of the task that fine-tuned it.
        **model: settings of the fine-tuning model, such as blank_weight.
    """

    def __init__(self, kind, symbols, labels="ltr", task=None, **model):
        self.kind, self.family = kind, kind.split()[0]
        build, changes, self.normalize = PRETRAINED[kind]
        pretrained = build(**changes)
        self.dictionary = make_dictionary(symbols)
        self.pretrained = pretrained.cfg
        is_hubert = self.family == "hubert"
        self.name = "hubert_ctc" if is_hubert else "wav2vec_ctc"
        self.inner_task = layouts.hubert_task(self.normalize) if is_hubert else {"_name": "audio_pretraining"}
        self.inner_task["normalize"] = self.normalize
        self.settings = layouts.fine_tuned_settings(self.name, self.normalize, self.w2v_args())
        self.settings.update(model)
        self.task = {"_name": "audio_finetuning", "labels": labels, "normalize": self.normalize}
        if is_hubert:
            self.task = {**layouts.hubert_task(self.normalize), "fine_tuning": True, "labels": [labels]}
        self.state = {"dictionaries": [build_dictionary(9)], "target_dictionary": self.dictionary}
        state = self.state if is_hubert else {"target_dictionary": self.dictionary}
        network = HubertCtc if is_hubert else Wav2VecCtc
        self.network = layouts.build_fine_tuned(network, self.settings, self.task, state, pretrained)
        self._spread_tokens()
        self.settings["w2v_args"] = self.w2v_args()  # the network has rewritten its copy
        self.task.update({"_name": task} if task else {})

    @torch.no_grad()
    def _spread_tokens(self):
        """Make every token the best of some frames of `make_noise`: random weights hear one and the same all along."""
        out = self._run(make_noise())
        std, mean = torch.std_mean(out["encoder_out"][:, 0], dim=0)
        output = self.network.w2v_encoder.proj
        output.weight.div_(std[:, None])
        output.bias.sub_(mean).div_(std)

    def w2v_args(self):
        """Settings of the pre-trained model in the hydra era."""
        return layouts.hydra_cfg(self.family, self.pretrained, self.inner_task)

    def write_hydra(self, path, inside=True, criterion="ctc", **model):
        """The file of the hydra era; `inside` = with its dictionary."""
        cfg = layouts.hydra_cfg(self.name, {**self.settings, **model}, self.task)
        cfg["criterion"] = {"_name": criterion, "post_process": "letter"}
        state = {"target_dictionary": self.dictionary} if inside else {}
        return layouts.write_fairseq(path, self.network.state_dict(), cfg=cfg, task_state=state)

    def write_argparse(self, path):
        """The file of the argparse era: one namespace for all, no dictionary."""
        inner = {**layouts.plain_settings(self.pretrained), **self.inner_task, "task": self.inner_task["_name"]}
        inner.update(arch=self.family, data="/nowhere", sample_rate=16_000, criterion="wav2vec")
        outer = {**self.settings, **self.task, "arch": self.name, "task": self.task["_name"], "criterion": "ctc"}
        outer.update(w2v_args=Namespace(**{key: value for key, value in inner.items() if key != "_name"}))
        args = Namespace(**{key: value for key, value in outer.items() if key != "_name"})
        return layouts.write_fairseq(path, self.network.state_dict(), args=args)

    @torch.no_grad()
    def _run(self, wave):
        wave = F.layer_norm(wave, wave.shape) if self.normalize else wave
        return self.network(source=wave[None], padding_mask=torch.zeros(1, len(wave), dtype=torch.bool))

    def recognise(self, wave):
        """Tokens of a wave (samples,) by the stock network: the best of each frame, without repeats and blanks."""
        scores = self.network.get_normalized_probs(self._run(wave), log_probs=True)  # (frames, 1, tokens)
        best = scores[:, 0].argmax(-1).tolist()
        kept = [token for n, token in enumerate(best) if n == 0 or token != best[n - 1]]
        return [self.dictionary[token] for token in kept if token != 0]
