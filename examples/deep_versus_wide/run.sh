#!/usr/bin/env bash
# Deep versus wide: five shapes of a quarter of the teacher's size, from 16 thin layers to one wide one, each with layer-to-layer
# distillation and with prediction from the last layer; then every objective at one shape.
#
#   bash examples/deep_versus_wide/run.sh [NAME...]
#   DATA=/my/manifests TEACHER=/my/teacher.pt bash examples/deep_versus_wide/run.sh
#
# NAME     layers_16x128 ... last_1x384 (layers_ or last_, then a shape of the list below), or an objective of the list in
#          objectives.sh; default: all. Two lists in two shells share one WORK.
# DATA     folder of train.tsv, valid.tsv and test.tsv, with labels .keyword or .speaker to probe, or of one such folder for each
#          corpus: see examples/README.md (default: the speech that the quickstart synthesises)
# TEACHER  a pretrained checkpoint (default: the quickstart's tiny HuBERT); students' sizes are for one of 12 layers of 256
# SECOND   a second teacher, for the ensembles (default: none, which leaves them out)
# WORK     where everything goes (default: ./deep_versus_wide)
# UPDATES  length of each training (default: 200, about 5 minutes on one core)
#
# Run it again and it goes on with the first run that is not done. With real speech it ends with the tables and the picture of
# docs/results.md.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
WORK=${WORK:-$PWD/deep_versus_wide}
UPDATES=${UPDATES:-200}
SECOND=${SECOND:-}
[ -z "$SECOND" ] || SECOND=$(cd "$(dirname "$SECOND")" && pwd)/$(basename "$SECOND")
. "$here/../common.sh"
. "$here/objectives.sh"

# layers x width -> FFN neurons, heads
if [ -z "$tiny" ]; then  # all have 2.58 to 2.62 M parameters, the teacher's 10.46 M / 4
    shapes=(16x128 8x160 4x224 2x288 1x384)
    declare -A ffn=([16x128]=240 [8x160]=448 [4x224]=512 [2x288]=704 [1x384]=480)
    declare -A heads=([16x128]=4 [8x160]=5 [4x224]=7 [2x288]=9 [1x384]=12)
    one_shape=8x160
    more=()
else  # all have 0.49 to 0.50 M parameters, 2.01 M / 4
    shapes=(8x64 6x80 4x96 2x144 1x192)
    declare -A ffn=([8x64]=264 [6x80]=248 [4x96]=304 [2x144]=288 [1x192]=320)
    declare -A heads=([8x64]=2 [6x80]=2 [4x96]=3 [2x144]=4 [1x192]=6)
    one_shape=4x96
    more=(+model.conv_pos=64)
fi

# train_shape NAME RECIPE SHAPE OVERRIDES...: equal data, updates and rates for all; only the convolutions start as the teacher's
train_shape() {
    local name=$1 recipe=$2 shape=$3
    shift 3
    train_once "$name" distill "$recipe" task.data="$training" \
        model.encoder_layers="${shape%x*}" model.encoder_embed_dim="${shape#*x}" \
        model.encoder_ffn_embed_dim="${ffn[$shape]}" model.encoder_attention_heads="${heads[$shape]}" ${more[@]+"${more[@]}"} \
        dataset.max_tokens=320000 task.max_sample_size=160000 "optimization.lr=[0.001]" "optimization.update_freq=[1]" \
        optimization.max_update="$UPDATES" lr_scheduler.warmup_updates=$((UPDATES / 10)) optimization.clip_norm=5.0 \
        model.dropout=0 model.attention_dropout=0 model.activation_dropout=0 model.dropout_input=0 model.feature_grad_mult=1 \
        common.log_interval=20 checkpoint.save_interval_updates="$UPDATES" "$@"
}
# layer_to_layer NAME SHAPE OVERRIDES...: every layer of the teacher from the student's layer at its depth
layer_to_layer() {
    local name=$1 shape=$2
    shift 2
    train_shape "$name" deep_12x384 "$shape" task.teacher="$teacher" dataset.batch_size=null criterion.groups="'$layers'" "$@"
}
# from_last NAME SHAPE OVERRIDES...: three layers of the teacher from the student's last layer
from_last() {
    local name=$1 shape=$2
    shift 2
    train_shape "$name" wide_3x768 "$shape" task.teacher="$teacher" dataset.batch_size=null model.like_init=front \
        criterion.groups="'$thirds'" "$@"
}

if [ $# -eq 0 ]; then
    for s in "${shapes[@]}"; do set -- "$@" "layers_$s" "last_$s"; done
    set -- "$@" "${objectives[@]}"
fi
measure_probes teacher "$teacher"
for name in "$@"; do
    case $name in
        layers_*x* | last_*x*)
            s=${name#*_}
            [ -n "${ffn[$s]:-}" ] || die "$name: no shape out of ${shapes[*]}"
            case $name in
                layers_*) layer_to_layer "$name" "$s" ;;
                *) from_last "$name" "$s" ;;
            esac ;;
        average | heads)
            [ -n "$SECOND" ] || { echo "== $name: left out, SECOND names no second teacher"; continue; }
            train_objective "$name" ;;
        *) train_objective "$name" ;;
    esac
    measure_size "$name" "$WORK/$name.pt"
    measure_probes "$name" "$WORK/$name.pt"
    [ "$name" = fithubert ] || measure_layers "$name" "$WORK/$name.pt"  # its frames are not the teacher's
done
for s in "${shapes[0]}" "${shapes[-1]}"; do
    student=$WORK/layers_$s.pt
    [ ! -e "$student" ] || measure "similarity_$s.txt" fairseq-distill similarity "$student" "$teacher" "$training/valid.tsv" \
        --plot "$WORK/similarity_$s.png"
done
python "$here/print_table.py" "$WORK"
