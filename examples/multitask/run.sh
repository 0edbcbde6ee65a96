#!/usr/bin/env bash
# Keyword spotting and speaker verification on a real teacher and its students, at once and alone, frozen and fine-tuned: the shape
# of the tables of 2210.16611 (its data and numbers are not known to us).
#
#   DATA=/folder/with/speech/and/teacher bash examples/multitask/run.sh [NAME...]
#
# NAME       ENCODER.MODE.TASKS: an encoder below; frozen or tuned; joint, keyword or speaker (default: all 24, and
#            distilled.padded.joint: frozen, with padding as in stock fairseq)
# DATA       holds manifests.py, speech/ and teacher/hubert_small.pt (default: ../shared/data beside the checkout)
# DISTILLED  a student of examples/real_speech (default: ./real_speech/wide.pt)
# PRUNED     one of examples/dphubert (default: ./dphubert/params75.stage2.pt)
# SKILL      one of examples/skill (default: ./dphubert/skill75.stage2.pt)
# WORK       where everything goes (default: ./multitask)
# UPDATES    length of each fine-tuning (default: 300)
#
# Run it again and it goes on with the first run that is not done. It ends with the tables of docs/results.md.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
WORK=${WORK:-$PWD/multitask}
UPDATES=${UPDATES:-300}

. "$here/../common.sh"
. "$here/../encoders.sh"

# the speaker loss is larger by far (scale 30), and would drown the keywords' in the shared encoder
keyword="{name: keyword, kind: classification, hidden: 256, activation: none, batch_norm: true, sampling: 2.0, \
balanced: true, data: ['$WORK/manifests/wakeword', '$WORK/manifests/digits']}"
speaker="{name: speaker, kind: verification, softmax: am, margin: 0.2, weight: 0.2, sampling: 1.0, data: ['$WORK/manifests/librispeech']}"
declare -A tasks=([joint]="[$keyword, $speaker]" [keyword]="[$keyword]" [speaker]="[$speaker]")
# as many utterances of a task in a batch whether it is alone or not
declare -A batch=([joint]=24 [keyword]=16 [speaker]=8)

train() {
    local name=$1 encoder mode which
    IFS=. read -r encoder mode which <<<"$name"
    # the convolutions stay as they are, as in fairseq's recipes for fine-tuning: half of the time
    local how=(model.freeze=cnn model.freeze_updates=$((UPDATES / 10)) "optimization.lr=[0.001]")
    [ "$mode" = tuned ] || how=(model.freeze=all model.freeze_updates=0 "optimization.lr=[0.003]")
    [ "$mode" != padded ] || how+=(+model.exact_padding=false)
    [ "$which" != speaker ] || how+=(dataset.disable_validation=true)  # of speakers who are not in training
    train_once "$name" finetune kws_sv task.data="$WORK/manifests/wakeword" model.init="${encoders[$encoder]}" \
        task.tasks="${tasks[$which]}" "${how[@]}" dataset.batch_size="${batch[$which]}" task.max_sample_size=32000 \
        optimization.max_update="$UPDATES" lr_scheduler.warmup_updates=$((UPDATES / 10)) \
        common.log_interval=20 checkpoint.save_interval_updates="$UPDATES" model.feature_grad_mult=1
}

if [ $# -eq 0 ]; then
    for encoder in teacher distilled pruned skill; do
        for mode in frozen tuned; do
            for which in joint keyword speaker; do set -- "$@" "$encoder.$mode.$which"; done
        done
    done
    set -- "$@" distilled.padded.joint
fi
for name in "$@"; do
    IFS=. read -r encoder mode which <<<"$name"
    if [ -z "${encoders[$encoder]:-}" ] || [[ ! $mode =~ ^(frozen|tuned|padded)$ ]] || [ -z "${tasks[$which]:-}" ]; then
        echo "$name is none of the runs that this file names at its top" >&2
        exit 1
    fi
    train "$name"
    measure "$encoder.info.json" fairseq-distill info "${encoders[$encoder]}" --json --measure
    [ "$which" = speaker ] || for corpus in wakeword digits; do
        measure "$name.$corpus.json" fairseq-distill evaluate "$WORK/$name.pt" --heads --data "$WORK/manifests/$corpus" --json
    done
    [ "$which" = keyword ] || measure "$name.librispeech.json" \
        fairseq-distill evaluate "$WORK/$name.pt" --heads --data "$WORK/manifests/librispeech" --json
done
python3 "$here/print_table.py" "$WORK"
