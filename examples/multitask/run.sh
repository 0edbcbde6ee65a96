#!/usr/bin/env bash
# Keyword spotting and speaker verification on a teacher and its students, at once and alone, frozen and fine-tuned: the shape of
# the tables of 2210.16611 (docs/papers/multitask.md).
#
#   bash examples/multitask/run.sh [NAME...]
#   DATA=/my/manifests TEACHER=/my/teacher.pt bash examples/multitask/run.sh
#
# NAME       ENCODER.MODE.TASKS: teacher, distilled, pruned or skill; frozen or tuned; joint, keyword or speaker (default: all of
#            the encoders that there are, and distilled.padded.joint: frozen, with padding as in stock fairseq)
# DATA       folder of {train,valid,test}.tsv with labels .keyword and .speaker, or of one folder for each corpus, with at least
#            one of both: see examples/README.md (default: the speech that the quickstart synthesises)
# KEYWORDS, SPEAKERS  names of the corpora to take keywords and speakers from (default: all that have such labels)
# TEACHER    a pretrained checkpoint (default: the quickstart's tiny HuBERT)
# DISTILLED  a student of examples/real_speech (default: ./real_speech/wide.pt)
# PRUNED     one of examples/dphubert (default: ./dphubert/params75.stage2.pt)
# SKILL      one of examples/skill (default: ./dphubert/skill75.stage2.pt)
# WORK       where everything goes (default: ./multitask)
# UPDATES    length of each fine-tuning (default: 300)
#
# Run it again and it goes on with the first run that is not done. With real speech it ends with the tables of docs/results.md.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
WORK=${WORK:-$PWD/multitask}
UPDATES=${UPDATES:-300}
. "$here/../common.sh"
. "$here/../students.sh"
[ -n "$KEYWORDS" ] || die "no corpus of DATA=$DATA has {train,valid,test}.keyword"
[ -n "$SPEAKERS" ] || die "no corpus of DATA=$DATA has {train,valid,test}.speaker"

# list_folders CORPUS...: the list that a task's `data` is
list_folders() {
    local name list=
    for name in "$@"; do list+="${list:+, }'${corpora[$name]}'"; done
    echo "[$list]"
}
keyword_folders=$(list_folders $KEYWORDS) speaker_folders=$(list_folders $SPEAKERS)
# the speaker loss is larger by far (scale 30), and would drown the keywords' in the shared encoder
keyword="{name: keyword, kind: classification, hidden: 256, activation: none, batch_norm: true, sampling: 2.0, \
balanced: true, data: $keyword_folders}"
speaker="{name: speaker, kind: verification, softmax: am, margin: 0.2, weight: 0.2, sampling: 1.0, data: $speaker_folders}"
declare -A tasks=([joint]="[$keyword, $speaker]" [keyword]="[$keyword]" [speaker]="[$speaker]")
declare -A measured=([joint]="$KEYWORDS $SPEAKERS" [keyword]=$KEYWORDS [speaker]=$SPEAKERS)
# as many utterances of a task in a batch whether it is alone or not
declare -A batch=([joint]=24 [keyword]=16 [speaker]=8)

# fine_tune NAME ENCODER MODE TASKS
fine_tune() {
    local name=$1 encoder=$2 mode=$3 which=$4
    # the convolutions stay as they are, as in fairseq's recipes for fine-tuning: half of the time
    local how=(model.freeze=cnn model.freeze_updates=$((UPDATES / 10)) "optimization.lr=[0.001]")
    [ "$mode" = tuned ] || how=(model.freeze=all model.freeze_updates=0 "optimization.lr=[0.003]")
    [ "$mode" != padded ] || how+=(+model.exact_padding=false)
    [ "$which" != speaker ] || how+=(dataset.disable_validation=true)  # of speakers who are not in training
    train_once "$name" finetune kws_sv task.data="${corpora[${KEYWORDS%%[[:space:]]*}]}" model.init="${encoders[$encoder]}" \
        task.tasks="${tasks[$which]}" "${how[@]}" dataset.batch_size="${batch[$which]}" task.max_sample_size=32000 \
        optimization.max_update="$UPDATES" lr_scheduler.warmup_updates=$((UPDATES / 10)) \
        common.log_interval=20 checkpoint.save_interval_updates="$UPDATES" model.feature_grad_mult=1
}

if [ $# -eq 0 ]; then
    for encoder in "${!encoders[@]}"; do
        for mode in frozen tuned; do
            for which in joint keyword speaker; do set -- "$@" "$encoder.$mode.$which"; done
        done
    done
    [ -z "${encoders[distilled]:-}" ] || set -- "$@" distilled.padded.joint
fi
for name in "$@"; do
    IFS=. read -r encoder mode which <<<"$name"
    if [ -z "${encoders[$encoder]:-}" ] || [[ ! $mode =~ ^(frozen|tuned|padded)$ ]] || [ -z "${tasks[$which]:-}" ]; then
        die "$name is none of the runs that this file names at its top, with an encoder out of ${!encoders[*]}"
    fi
    fine_tune "$name" "$encoder" "$mode" "$which"
    measure_size "$encoder" "${encoders[$encoder]}"
    for corpus in $(printf '%s\n' ${measured[$which]} | sort -u); do
        measure "$name.$corpus.heads.json" fairseq-distill evaluate heads "$WORK/$name.pt" --data "${corpora[$corpus]}" --json
    done
done
python "$here/print_table.py" "$WORK"
