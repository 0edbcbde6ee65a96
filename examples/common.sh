# Sourced by the examples on real speech, which set WORK: folders, manifests, and what all of them do in the same way.
export HYDRA_FULL_ERROR=1
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
DATA=$(cd "${DATA:-$root/../shared/data}" && pwd)
mkdir -p "$WORK/results"
WORK=$(cd "$WORK" && pwd)
teacher=$DATA/teacher/hubert_small.pt

# all corpora together, and one by one
if [ ! -e "$WORK/manifests" ]; then
    python3 "$DATA/manifests.py" "$WORK/manifests.partial/all" wakeword barista librispeech digits
    for corpus in wakeword digits librispeech; do
        python3 "$DATA/manifests.py" "$WORK/manifests.partial/$corpus" "$corpus"
    done
    mv "$WORK/manifests.partial" "$WORK/manifests"
fi

# run_training NAME CONFIGS RECIPE OVERRIDES...: in $WORK/NAME, where it goes on with what it finds
run_training() {
    local name=$1 configs=$2 recipe=$3
    shift 3
    fairseq-hydra-train --config-dir "$root/config/$configs" --config-name "$recipe" +machine=cpu \
        hydra.run.dir="$WORK/$name" checkpoint.save_dir="$WORK/$name" \
        dataset.validate_interval=1000 dataset.validate_interval_updates=1000 "$@"
}

# train_once NAME CONFIGS RECIPE OVERRIDES...: NAME.pt is there once it is done
train_once() {
    [ ! -e "$WORK/$1.pt" ] || { echo "== $1: skipped, $WORK/$1.pt is there"; return; }
    echo "== $1: training"
    run_training "$@" || return  # a caller may have switched errors off
    cp "$WORK/$1/checkpoint_last.pt" "$WORK/$1.partial" && mv "$WORK/$1.partial" "$WORK/$1.pt"
}

# measure RESULT COMMAND...: keep what a command prints
measure() {
    local result=$WORK/results/$1
    shift
    [ -e "$result" ] || { "$@" >"$result.$$" && mv "$result.$$" "$result"; }
}

# measure_probe RESULT CHECKPOINT CORPUS OPTIONS...: keep what a linear probe reaches
measure_probe() {
    local result=$1 checkpoint=$2 corpus=$3
    shift 3
    measure "$result" fairseq-distill evaluate "$checkpoint" --data "$WORK/manifests/$corpus" --json --cache "$WORK/features" "$@"
}
