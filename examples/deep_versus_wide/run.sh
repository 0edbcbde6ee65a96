#!/usr/bin/env bash
# Deep versus wide on a real teacher and real speech: five shapes of a quarter of its size, from 16 thin layers to one wide one,
# each with layer-to-layer distillation and with prediction from the last layer; then every objective at one shape.
#
#   DATA=/folder/with/speech/and/teacher bash examples/deep_versus_wide/run.sh [NAME...]
#
# NAME     layers_16x128 ... last_1x384 (layers_ or last_, then a shape of the list below), or an objective of the list at the
#          end; default: all. Two lists in two shells share one WORK.
# DATA     holds manifests.py, speech/ and teacher/hubert_small.pt (default: ../shared/data beside the checkout)
# WORK     where everything goes (default: ./deep_versus_wide)
# UPDATES  length of each training (default: 200, about 5 minutes on one core)
# SECOND   a second teacher, for the ensembles (default: none, which leaves them out)
#
# Run it again and it goes on with the first run that is not done. It ends with the tables and the picture of docs/results.md.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
WORK=${WORK:-$PWD/deep_versus_wide}
UPDATES=${UPDATES:-200}
SECOND=${SECOND:-}

. "$here/../common.sh"
. "$here/objectives.sh"

# layers x width -> FFN units, heads: all have 2.58 to 2.62 M parameters, the teacher's 10.46 M / 4
declare -A ffn=([16x128]=240 [8x160]=448 [4x224]=512 [2x288]=704 [1x384]=480)
declare -A heads=([16x128]=4 [8x160]=5 [4x224]=7 [2x288]=9 [1x384]=12)
shapes=(16x128 8x160 4x224 2x288 1x384)
one_shape=8x160

# shape SHAPE: what makes a student of that shape; only its convolutions start as the teacher's
shape() {
    echo model.encoder_layers="${1%x*}" model.encoder_embed_dim="${1#*x}" model.encoder_ffn_embed_dim="${ffn[$1]}" \
        model.encoder_attention_heads="${heads[$1]}"
}

# train NAME RECIPE OVERRIDES...: equal data, updates and rates for all
train() {
    local name=$1 recipe=$2
    shift 2
    train_once "$name" distill "$recipe" task.data="$WORK/manifests/all" dataset.max_tokens=320000 task.max_sample_size=160000 "optimization.lr=[0.001]" "optimization.update_freq=[1]" \
        optimization.max_update="$UPDATES" lr_scheduler.warmup_updates=$((UPDATES / 10)) optimization.clip_norm=5.0 \
        model.dropout=0 model.attention_dropout=0 model.activation_dropout=0 model.dropout_input=0 model.feature_grad_mult=1 \
        common.log_interval=20 checkpoint.save_interval_updates="$UPDATES" "$@"
}

# measure_all NAME CHECKPOINT CORPORA: size and time; probes for the corpora's keywords; speakers
measure_all() {
    measure "$1.info.json" fairseq-distill info "$2" --json --measure
    for corpus in $3; do measure_probe "$1.$corpus.json" "$2" "$corpus"; done
    for corpus in librispeech digits; do measure_probe "$1.$corpus.speaker.json" "$2" "$corpus" --label speaker; done
}
measure_layers() {
    measure "$1.layers.json" python3 "$root/examples/skill/measure_layers.py" "$WORK/$1.pt" "$teacher" \
        "$WORK/manifests/all/train.tsv" "$WORK/manifests/all/valid.tsv"
}

if [ $# -eq 0 ]; then
    for s in "${shapes[@]}"; do set -- "$@" "layers_$s" "last_$s"; done
    set -- "$@" "${objectives[@]}"
fi
measure_all teacher "$teacher" "wakeword digits"
for name in "$@"; do
    s=${name#*_}
    corpora="wakeword digits"
    case $name in
        layers_*x*) train "$name" deep_12x384 task.teacher="$teacher" dataset.batch_size=null $(shape "$s") ;;
        last_*x*)
            train "$name" wide_3x768 task.teacher="$teacher" dataset.batch_size=null model.like_init=front $(shape "$s") ;;
        average | heads)
            [ -n "$SECOND" ] || { echo "== $name: left out, SECOND names no second teacher"; continue; }
            corpora=digits
            train_objective "$name" ;;
        *)
            corpora=digits
            train_objective "$name" ;;
    esac
    measure_all "$name" "$WORK/$name.pt" "$corpora"
    [ "$name" = fithubert ] || measure_layers "$name"  # its frames are not the teacher's
done
for s in 16x128 1x384; do
    student=$WORK/layers_$s.pt
    [ ! -e "$student" ] || measure "similarity_$s.txt" fairseq-distill similarity "$student" "$teacher" \
        "$WORK/manifests/all/valid.tsv" --plot "$WORK/similarity_$s.png"
done
python3 "$here/print_table.py" "$WORK"
