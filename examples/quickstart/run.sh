#!/usr/bin/env bash
# From nothing to a distilled speech encoder: speech, units, a tiny HuBERT teacher, its student, and a table.
#
#   bash examples/quickstart/run.sh
#   DATA=/my/manifests TEACHER=/my/hubert_base_ls960.pt bash examples/quickstart/run.sh [overrides of the recipe]
#
# DATA     folder with train.tsv and valid.tsv; with test.tsv and {train,valid,test}.keyword, keywords are probed too
# TEACHER  a pretrained checkpoint; its student is recipe deep_12x384 as it is, plus the overrides on the command line
# WORK     where everything goes (default: ./quickstart, ./quickstart/own with DATA or TEACHER)
# MACHINE  overlay in config/distill/machine (default: cpu; with TEACHER, gpu1 where there is a GPU)
# PYTHON   interpreter for the environment that is made (default: a Python 3.11 or 3.12, else 3.9 or 3.10)
#
# Run it again and it goes on where it was.
set -euo pipefail
export HYDRA_FULL_ERROR=1
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE}  # threads that wait by spinning are many times slower on busy cores
export PYTHONWARNINGS=ignore  # what fairseq, hydra and torch deprecate in each other; fairseq-distill warns in the log
PS4='$ '

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
config=$root/config/distill
started=$SECONDS

die() {
    echo "quickstart: $*" >&2
    exit 1
}

# step TITLE PRODUCT: whether the step is still to do; its last command makes PRODUCT, whole or not at all.
step() {
    if [ -e "$2" ]; then
        echo "== $1: skipped, $2 is there"
        return 1
    fi
    echo "== $1 (after $((SECONDS - started)) s)"
}

# Run a command and show it.
run() { (set -x && "$@"); }

# Run a training and show it; of its log only losses and warnings (all of it is in WORK/.../hydra_train.log).
train() {
    local loss='[{ ]"(valid_)?loss": "([^"]*)"' update='num_updates": "([0-9]+)"'
    run "$@" | sed -unE \
        -e "s/.*\\]\\[(train_inner|valid)\\].*$loss.*$update.*/\\1: update \\4, loss \\3/p" \
        -e '/\]\[(WARNING|ERROR)\]/p'
}

# finish FOLDER PRODUCT: keep the last checkpoint of a training that has ended; one that was stopped leaves no PRODUCT.
finish() {
    cp "$1/checkpoint_last.pt" "$2.partial"
    mv "$2.partial" "$2"
}

# keep_settings SETTINGS FILE PRODUCT: stop if PRODUCT was made with other settings than these.
keep_settings() {
    if [ -e "$3" ] && [ "$(cat "$2")" != "$1" ]; then
        die "$3 was made with other settings ($(cat "$2")) than these ($1); give WORK=another_folder, or remove $WORK"
    fi
    echo "$1" >"$2"
}

# --- what is given
if [ -n "${DATA:-}" ]; then
    for split in train valid; do
        [ -f "$DATA/$split.tsv" ] || die "DATA=$DATA holds no $split.tsv; give a folder of fairseq audio manifests"
    done
    DATA=$(cd "$DATA" && pwd)
fi
if [ -n "${TEACHER:-}" ]; then
    [ -f "$TEACHER" ] || die "TEACHER=$TEACHER is no file; it must be a checkpoint"
    TEACHER=$(cd "$(dirname "$TEACHER")" && pwd)/$(basename "$TEACHER")
fi
own=
[ -z "${DATA:-}${TEACHER:-}" ] || own=/own
WORK=${WORK:-$PWD/quickstart$own}
mkdir -p "$WORK"
WORK=$(cd "$WORK" && pwd)

# --- environment: the active one if it has everything, else one of our own
imports="import fairseq, fairseq_distill, espeakng_loader, scipy, sklearn, soundfile, torchaudio"
if [ -n "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ] && command -v fairseq-distill >/dev/null &&
    command -v fairseq-hydra-train >/dev/null && python -c "$imports" 2>/dev/null; then
    echo "== install: skipped, ${VIRTUAL_ENV:-$CONDA_PREFIX} has everything"
else
    source "$here/environment.sh"
fi

# --- speech and a teacher, if none was given
speech=${DATA:-$WORK/speech}
teacher=${TEACHER:-$WORK/teacher.pt}
if [ -n "${DATA:-}" ]; then
    echo "== speech: yours, $DATA"
elif step "speech: synthesise words with espeak-ng" "$speech"; then
    run python "$here/make_speech.py" "$speech"
fi

if [ -n "${TEACHER:-}" ]; then
    echo "== teacher: yours, $TEACHER"
else
    keep_settings "speech $speech" "$WORK/teacher.settings" "$WORK/units"
    if step "units: k-means of cepstra" "$WORK/units"; then
        run python "$here/make_units.py" "$speech" "$WORK/units"
    fi
    if step "teacher: pretrain a tiny HuBERT with stock fairseq" "$teacher"; then
        train fairseq-hydra-train --config-dir "$here" --config-name teacher hydra.run.dir="$WORK/teacher" \
            task.data="$speech" task.label_dir="$WORK/units" checkpoint.save_dir="$WORK/teacher"
        finish "$WORK/teacher" "$teacher"
    fi
fi

# --- the student
machine=${MACHINE:-cpu}
if [ -n "${TEACHER:-}" ]; then
    shape=()
    [ -n "${MACHINE:-}" ] || ! python -c "import sys, torch; sys.exit(not torch.cuda.is_available())" || machine=gpu1
else
    # a quarter of the teacher's parameters, layer to layer, in a short training; see the recipe for the rest
    shape=(
        model.encoder_layers=4 model.encoder_embed_dim=96 model.encoder_ffn_embed_dim=304
        model.encoder_attention_heads=3 +model.conv_pos=64
        model.dropout=0 model.attention_dropout=0 model.activation_dropout=0
        "criterion.groups='[[1],[2],[3],[4]]'"
        dataset.batch_size=16 "optimization.lr=[0.002]" lr_scheduler.warmup_updates=40 optimization.max_update=400
        common.log_interval=50 checkpoint.save_interval_updates=100
    )
fi
distil=(
    fairseq-hydra-train --config-dir "$config" --config-name deep_12x384 "+machine=$machine"
    task.data="$speech" task.teacher="$teacher" hydra.run.dir="$WORK/student" checkpoint.save_dir="$WORK/student"
    ${shape[@]+"${shape[@]}"} "$@"
)
student=$WORK/student.pt
settings="speech $speech, teacher $teacher, overrides: ${*:-none}"
keep_settings "$settings" "$WORK/student.settings" "$WORK/student/checkpoint_last.pt"
if step "start: one update, to have what distillation starts from" "$WORK/start.pt"; then
    train "${distil[@]}" optimization.max_update=1
    finish "$WORK/student" "$WORK/start.pt"
fi
if step "student: distil the teacher" "$student"; then
    train "${distil[@]}"
    finish "$WORK/student" "$student"
fi

# --- the table
results=$WORK/results
mkdir -p "$results"
# measure RESULT ARGUMENTS: keep the JSON of a fairseq-distill command
measure() {
    local result=$results/$1.json
    shift
    if step "measure: $(basename "$result" .json)" "$result"; then
        run fairseq-distill "$@" --json >"$result.partial"
        mv "$result.partial" "$result"
    fi
}
measure teacher.info info "$teacher"
measure student.info info "$student"
if [ -f "$speech/train.keyword" ] && [ -f "$speech/valid.keyword" ] && [ -f "$speech/test.keyword" ]; then
    probe=(--data "$speech" --label keyword --cache "$WORK/features")
    measure teacher.keyword evaluate "$teacher" "${probe[@]}"
    measure student.keyword evaluate "$student" "${probe[@]}"
    measure start.keyword evaluate "$WORK/start.pt" "${probe[@]}"
    measure random.keyword evaluate "$student" "${probe[@]}" --random-weights 1
else
    echo "== keywords: not probed, $speech lacks one of {train,valid,test}.keyword"
fi
echo "== done in $((SECONDS - started)) s; student: $student"
python "$here/print_table.py" "$results" "$WORK/student/hydra_train.log"
