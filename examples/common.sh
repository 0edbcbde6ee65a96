# Sourced by all examples but the quickstart, which set WORK: settings, speech, teacher, and what all of them do in the same way.
# README.md beside this file says what DATA holds. Set here:
#
#   teacher                  checkpoint: TEACHER, or the quickstart's
#   training                 folder of manifests that encoders are distilled on
#   corpora                  name -> folder of manifests with labels
#   KEYWORDS, SPEAKERS       names of the corpora whose keywords or speakers are learnt and measured (default: all that have labels)
#   depth, thirds, layers    the teacher's number of layers; groups of it: layers at a third, two thirds and all of it; every layer
#   tiny                     not empty: the teacher is the quickstart's, for which students are smaller
. "$(dirname "${BASH_SOURCE[0]}")/steps.sh"
. "$(dirname "${BASH_SOURCE[0]}")/speech_and_teacher.sh"

[ -z "${TEACHER:-}" ] || [ -f "$TEACHER" ] || die "TEACHER=$TEACHER is no file; it must be a checkpoint"
[ -z "${DATA:-}" ] || [ -f "$DATA/train.tsv" ] || [ -f "$DATA/all/train.tsv" ] ||
    die "DATA=$DATA holds neither train.tsv nor all/train.tsv; examples/README.md says what it may hold"
mkdir -p "$WORK/results"
WORK=$(cd "$WORK" && pwd)
activate_environment

if [ -z "${DATA:-}" ]; then
    QUICKSTART=${QUICKSTART:-$PWD/quickstart}
    mkdir -p "$QUICKSTART"
    QUICKSTART=$(cd "$QUICKSTART" && pwd)
    DATA=$QUICKSTART/speech
    synthesise_speech "$DATA"
fi
DATA=$(cd "$DATA" && pwd)
declare -A corpora
if [ -f "$DATA/train.tsv" ]; then
    training=$DATA
    corpora[$(basename "$DATA")]=$DATA
else
    training=$DATA/all
    for manifest in "$DATA"/*/train.tsv; do
        folder=$(dirname "$manifest")
        corpora[$(basename "$folder")]=$folder
    done
fi
# list_corpora LABEL: those with train.LABEL, valid.LABEL and test.LABEL, by name
list_corpora() {
    local name
    for name in $(printf '%s\n' "${!corpora[@]}" | sort); do
        local folder=${corpora[$name]}
        if [ -f "$folder/train.$1" ] && [ -f "$folder/valid.$1" ] && [ -f "$folder/test.$1" ]; then echo "$name"; fi
    done
}
KEYWORDS=${KEYWORDS-$(list_corpora keyword)}
SPEAKERS=${SPEAKERS-$(list_corpora speaker)}
for corpus in $KEYWORDS $SPEAKERS; do
    [ -n "${corpora[$corpus]:-}" ] || die "KEYWORDS or SPEAKERS names $corpus, but DATA=$DATA has only ${!corpora[*]}"
done

tiny=
if [ -z "${TEACHER:-}" ]; then
    tiny=yes
    home=${QUICKSTART:-$WORK}
    TEACHER=$home/teacher.pt
    pretrain_teacher "$training" "$home" ${TEACHER_UPDATES:+optimization.max_update="$TEACHER_UPDATES"}
fi
teacher=$(cd "$(dirname "$TEACHER")" && pwd)/$(basename "$TEACHER")

# measure_size NAME CHECKPOINT: parameters, MACs, and the time they take on this machine
measure_size() { measure "$1.info.json" fairseq-distill info "$2" --json --measure; }

measure_size teacher "$teacher"
depth=$(python -c 'import json, sys; print(json.load(open(sys.argv[1]))["layers"])' "$WORK/results/teacher.info.json")
[ "$depth" -ge 3 ] || die "$teacher has $depth layers: the examples need a teacher of at least 3"
thirds="[[$((depth / 3))],[$((depth * 2 / 3))],[$depth]]"
layers=$(seq -s '],[' "$depth")
layers="[[$layers]]"

# train_once NAME CONFIGS RECIPE OVERRIDES...: in WORK/NAME, where it goes on with what it finds; NAME.pt is there once it is done
train_once() {
    step "train: $1" "$WORK/$1.pt" || return 0
    run_training "$@"
    finish "$WORK/$1" "$WORK/$1.pt"
}
run_training() {
    local name=$1 configs=$2 recipe=$3
    shift 3
    train fairseq-hydra-train --config-dir "$root/config/$configs" --config-name "$recipe" +machine=cpu \
        hydra.run.dir="$WORK/$name" checkpoint.save_dir="$WORK/$name" \
        dataset.validate_interval=1000 dataset.validate_interval_updates=1000 "$@"
}

# measure_probes NAME CHECKPOINT OPTIONS...: what linear probes reach on keywords and speakers
measure_probes() {
    local name=$1 checkpoint=$2 corpus
    shift 2
    for corpus in $KEYWORDS; do measure_probe "$name" "$checkpoint" "$corpus" keyword "$@"; done
    for corpus in $SPEAKERS; do measure_probe "$name" "$checkpoint" "$corpus" speaker "$@"; done
}
measure_probe() {
    local name=$1 checkpoint=$2 corpus=$3 label=$4
    shift 4
    measure "$name.$corpus.$label.json" fairseq-distill evaluate probe "$checkpoint" --data "${corpora[$corpus]}" \
        --label "$label" --json --cache "$WORK/features" "$@"
}

# measure_layers NAME STUDENT: how near each of a student's layers is to the teacher's
measure_layers() {
    measure "$1.layers.json" python "$root/examples/skill/measure_layers.py" "$2" "$teacher" \
        "$training/train.tsv" "$training/valid.tsv"
}
