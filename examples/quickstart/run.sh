#!/usr/bin/env bash
# From nothing to a distilled speech encoder: speech, units, a tiny HuBERT teacher, its student, and a table.
#
#   bash examples/quickstart/run.sh
#   DATA=/my/manifests TEACHER=/my/hubert_base_ls960.pt bash examples/quickstart/run.sh [overrides of the recipe]
#
# DATA     folder with train.tsv and valid.tsv; with test.tsv and {train,valid,test}.keyword, keywords are probed too
# TEACHER  a pretrained checkpoint; its student is recipe deep_12x384 as it is, plus the overrides on the command line
# WORK     where everything goes (default: ./quickstart, ./quickstart/own with DATA or TEACHER)
# UPDATES  length of each training (default: 400; with TEACHER that of the recipe)
# MACHINE  overlay in config/distill/machine (default: cpu; with TEACHER, gpu1 where there is a GPU)
# PYTHON   interpreter for the environment that is made (default: a Python 3.11 or 3.12, else 3.9 or 3.10)
#
# Run it again and it goes on where it was.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/../steps.sh"
. "$here/../speech_and_teacher.sh"

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
length=()
[ -z "${UPDATES:-}" ] || length=(optimization.max_update="$UPDATES")

activate_environment

# --- speech and a teacher, if none was given
speech=${DATA:-$WORK/speech}
teacher=${TEACHER:-$WORK/teacher.pt}
if [ -n "${DATA:-}" ]; then
    echo "== speech: yours, $DATA"
else
    synthesise_speech "$speech"
fi
if [ -n "${TEACHER:-}" ]; then
    echo "== teacher: yours, $TEACHER"
else
    pretrain_teacher "$speech" "$WORK" ${length[@]+"${length[@]}"}
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
    fairseq-hydra-train --config-dir "$root/config/distill" --config-name deep_12x384 "+machine=$machine"
    task.data="$speech" task.teacher="$teacher" hydra.run.dir="$WORK/student" checkpoint.save_dir="$WORK/student"
    ${shape[@]+"${shape[@]}"} ${length[@]+"${length[@]}"} "$@"
)
student=$WORK/student.pt
settings="speech $speech, teacher $teacher, overrides: ${*:-none}${UPDATES:+, $UPDATES updates}"
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
measure teacher.info.json fairseq-distill info "$teacher" --json
measure student.info.json fairseq-distill info "$student" --json
# probe NAME CHECKPOINT OPTIONS...
probe() {
    local name=$1 checkpoint=$2
    shift 2
    measure "$name.keyword.json" fairseq-distill evaluate probe "$checkpoint" --data "$speech" --label keyword --json \
        --cache "$WORK/features" "$@"
}
if [ -f "$speech/train.keyword" ] && [ -f "$speech/valid.keyword" ] && [ -f "$speech/test.keyword" ]; then
    probe teacher "$teacher"
    probe student "$student"
    probe start "$WORK/start.pt"
    probe random "$student" --random-weights 1
else
    echo "== keywords: not probed, $speech lacks one of {train,valid,test}.keyword"
fi
echo "== done in $((SECONDS - started)) s; student: $student"
python "$here/print_table.py" "$WORK/results" "$WORK/student/hydra_train.log"
