#!/usr/bin/env bash
# Two students of a teacher, each a quarter of its size: deep and thin, shallow and wide.
#
#   bash examples/real_speech/run.sh
#   DATA=/my/manifests TEACHER=/my/teacher.pt bash examples/real_speech/run.sh
#
# DATA     folder of train.tsv, valid.tsv and test.tsv, with labels .keyword or .speaker to probe, or of one such folder for each
#          corpus: see examples/README.md (default: the speech that the quickstart synthesises)
# TEACHER  a pretrained checkpoint (default: the quickstart's tiny HuBERT); students' sizes are for one of 12 layers of 256
# WORK     where everything goes (default: ./real_speech)
# UPDATES  length of each training (default: 500, about 10 minutes on two cores)
#
# Run it again and it goes on where it was. With real speech it ends with the table of docs/results.md.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
WORK=${WORK:-$PWD/real_speech}
UPDATES=${UPDATES:-500}
. "$here/../common.sh"

# layers, width, FFN neurons and heads of both
deep="12 128 384 4" wide="2 256 1024 8" more=()
[ -z "$tiny" ] || deep="4 96 304 3" wide="1 192 320 6" more=(+model.conv_pos=64)

# distil NAME RECIPE SHAPE GROUPS: what both trainings share, and what differs
distil() {
    local name=$1 recipe=$2 groups=$4 depth width ffn heads
    read -r depth width ffn heads <<<"$3"
    local settings=(
        "$name" distill "$recipe" task.data="$training" task.teacher="$teacher" criterion.groups="'$groups'"
        model.encoder_layers="$depth" model.encoder_embed_dim="$width" model.encoder_ffn_embed_dim="$ffn"
        model.encoder_attention_heads="$heads" ${more[@]+"${more[@]}"}
        dataset.batch_size=null dataset.max_tokens=320000 task.max_sample_size=160000
        "optimization.lr=[0.001]" lr_scheduler.warmup_updates=$((UPDATES / 10)) lr_scheduler.total_num_update="$UPDATES"
        model.dropout=0 model.attention_dropout=0 model.activation_dropout=0 model.feature_grad_mult=1
        common.log_interval=50 checkpoint.save_interval_updates=100
    )
    # one update first: its validation is the loss that distillation starts from
    [ -e "$WORK/$name/checkpoint_last.pt" ] || run_training "${settings[@]}" optimization.max_update=1
    train_once "${settings[@]}" optimization.max_update="$UPDATES"
}

distil deep deep_12x384 "$deep" "$layers"
distil wide wide_3x768 "$wide" "$thirds"

measure_probes teacher_trained "$teacher"
for name in deep wide; do
    measure_size "$name" "$WORK/$name.pt"
    measure_probes "${name}_trained" "$WORK/$name.pt"
    # what the same shape reaches without any training
    measure_probes "${name}_random" "$WORK/$name.pt" --random-weights 1
done
python "$here/print_table.py" "$WORK"
