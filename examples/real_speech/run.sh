#!/usr/bin/env bash
# Two students of a real teacher on real speech, each a quarter of its size: deep and thin, shallow and wide.
#
#   DATA=/folder/with/speech/and/teacher bash examples/real_speech/run.sh
#
# DATA     holds manifests.py, speech/ and teacher/hubert_small.pt (default: ../shared/data beside the checkout)
# WORK     where everything goes (default: ./real_speech)
# UPDATES  length of each training (default: 500, about 10 minutes on two cores)
#
# Run it again and it goes on where it was. It ends with the table of docs/results.md.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
WORK=${WORK:-$PWD/real_speech}
UPDATES=${UPDATES:-500}

. "$here/../common.sh"

# distil NAME RECIPE OVERRIDES...: what both trainings share, and what differs
distil() {
    local name=$1 recipe=$2
    shift 2
    common=(
        "$name" distill "$recipe" task.data="$WORK/manifests/all" task.teacher="$teacher"
        dataset.batch_size=null dataset.max_tokens=320000 task.max_sample_size=160000
        "optimization.lr=[0.001]" lr_scheduler.warmup_updates=50 lr_scheduler.total_num_update="$UPDATES"
        model.dropout=0 model.attention_dropout=0 model.activation_dropout=0 model.feature_grad_mult=1
        common.log_interval=50 checkpoint.save_interval_updates=100
        "$@"
    )
    # one update first: its validation is the loss that distillation starts from
    [ -e "$WORK/$name/checkpoint_last.pt" ] || run_training "${common[@]}" optimization.max_update=1
    train_once "${common[@]}" optimization.max_update="$UPDATES"
}

distil deep deep_12x384 model.encoder_embed_dim=128 model.encoder_ffn_embed_dim=384 model.encoder_attention_heads=4
distil wide wide_3x768 model.encoder_layers=2 model.encoder_embed_dim=256 model.encoder_ffn_embed_dim=1024 \
    model.encoder_attention_heads=8

measure_all() {  # NAME CHECKPOINT WEIGHTS [OPTIONS]
    local name=$1 checkpoint=$2 weights=$3
    shift 3
    for corpus in wakeword digits; do measure_probe "$name.$weights.$corpus.json" "$checkpoint" "$corpus" "$@"; done
    measure_probe "$name.$weights.speakers.json" "$checkpoint" librispeech --label speaker "$@"
}
for name in teacher deep wide; do
    checkpoint=$WORK/$name.pt
    [ "$name" != teacher ] || checkpoint=$teacher
    measure "$name.info.json" fairseq-distill info "$checkpoint" --json
    measure_all "$name" "$checkpoint" trained
    # what the same shape reaches without any training
    [ "$name" = teacher ] || measure_all "$name" "$checkpoint" random --random-weights 1
done
python3 "$here/print_table.py" "$WORK"
