"""Whose arithmetic an encoder follows, told by its settings and weights; its name is only the first thing looked at."""

from typing import Any, Iterable, Mapping, Optional, Tuple

# fairseq's names of models -> their arithmetic; our own students say so in their settings
FAMILY_OF = {
    "hubert": "hubert",
    "wav2vec2": "wav2vec2",
    "data2vec_audio": "data2vec",
    "wavlm": "wavlm",
    "speech_student": "",
    "speech_multitask": "",
}
# and back, for files that lost their name
NAME_OF = {family: name for name, family in FAMILY_OF.items() if family}
# networks that share names of settings and weights with ours, and compute something else
NOT_COMPUTED = {
    "data2vec_multi": "data2vec 2.0 has other layers and positions",
    "multires_hubert": "MR-HuBERT has layers at several frame rates",
    "wav2vec": "wav2vec 1.0 and vq-wav2vec have no transformer",
}


def find_family(name: Any, model: Mapping[str, Any], task: Mapping[str, Any], weights: Iterable[str]) -> Optional[str]:
    """The value of `EncoderConfig.family`, "" where the settings have it already, None where nothing tells.

    Families differ in how they round the length of padded waves to frames. A derived model has its ancestor's rule, and
    it has its ancestor's settings, which fairseq writes down whole.

    Args:
        name: of the model in fairseq, or None.
        model: its settings.
        task: those of the task that trained it.
        weights: names of its weights.
    """
    if isinstance(name, str) and name in FAMILY_OF:
        return FAMILY_OF[name]
    names = set(weights)
    trained_by = str(task.get("_name") or task.get("task"))
    # (family, settings of which one tells it, weights of which one does, tasks)
    marks: Tuple[Tuple[str, Tuple[str, ...], Tuple[str, ...], Tuple[str, ...]], ...] = (
        ("wavlm", (), ("encoder.relative_attention_bias.",), ()),
        (
            "hubert",
            ("untie_final_proj", "skip_masked", "skip_nomask", "label_rate"),
            ("label_embs_concat",),
            ("hubert_pretraining",),
        ),
        ("data2vec", ("average_top_k_layers", "ema_transformer_only", "ema_layers_only"), (), ()),
        (
            "wav2vec2",
            ("quantize_targets", "num_negatives", "negatives_from_everywhere"),
            ("quantizer.", "project_q."),
            ("audio_pretraining",),
        ),
    )
    for family, fields, parts, tasks in marks:
        if family == "data2vec" and "post_extract_proj.weight" not in names:
            continue  # wav2vec 2.0's network, trained as data2vec is
        if any(field in model for field in fields) or trained_by in tasks:
            return family
        if any(weight.startswith(part) for weight in names for part in parts):
            return family
    return None
