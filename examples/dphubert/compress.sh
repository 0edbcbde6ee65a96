# Sourced by run.sh here and in examples/skill, which set WORK: both stages of joint distillation and pruning, and what they reach.
STAGE1=${STAGE1:-400}
STAGE2=${STAGE2:-200}
. "$(dirname "${BASH_SOURCE[0]}")/../common.sh"

# train NAME RECIPE UPDATES OVERRIDES...: a stage
train() {
    local name=$1 recipe=$2 updates=$3
    shift 3
    train_once "$name" distill "$recipe" task.data="$WORK/manifests/all" task.teacher="$teacher" \
        dataset.max_tokens=320000 task.update_seconds=20 task.max_sample_size=160000 task.min_sample_size=null \
        optimization.max_update="$updates" common.log_interval=20 checkpoint.save_interval_updates=100 \
        model.dropout=0 model.attention_dropout=0 model.dropout_input=0 "$@"
}

# The paper has 50,000 updates to reach its target slowly; for a hundredth of them gates need higher rates that do not fall to 0,
# a target that rises for longer, and a second multiplier that starts where there it would get.
schedule=(model.sparsity_warmup=$((STAGE1 * 7 / 10)) model.lambda2=300 optimizer.groups.default.lr_float=0.0005)
for group in default gates multipliers; do
    schedule+=("optimizer.groups.$group.lr_scheduler.warmup_updates=$((STAGE1 / 10))")
done
for group in gates multipliers; do
    schedule+=("optimizer.groups.$group.lr_scheduler.total_num_update=$((STAGE1 * 2))")
done
schedule+=(optimizer.groups.gates.lr_float=0.1 optimizer.groups.multipliers.lr_float=0.03)

# whole waves one by one, so that all checkpoints are compared on the same samples
validate() {
    fairseq-validate "$WORK/manifests/all" --path "$1" --task speech_distillation --user-dir "$root/fairseq_distill" \
        --valid-subset valid --batch-size 1 --cpu --log-format json --num-workers 1 2>&1
}

# compress NAME RECIPE METRIC SPARSITY OVERRIDES...: both stages and what they reach; OVERRIDES are of stage 1
compress() {
    local name=$1 recipe=$2 metric=$3 sparsity=$4
    shift 4
    train "$name.stage1" "$recipe" "$STAGE1" model.size_metric="$metric" model.target_sparsity="$sparsity" "${schedule[@]}" "$@"
    measure "$name.prune.txt" fairseq-distill prune "$WORK/$name.stage1.pt" "$WORK/$name.pruned.pt" --plot "$WORK/$name.png"
    train "$name.stage2" "${recipe}_stage2" "$STAGE2" model.init="$WORK/$name.pruned.pt" \
        "optimization.lr=[0.0005]" lr_scheduler.warmup_updates=$((STAGE2 / 10))
    for stage in stage1 pruned stage2; do
        measure "$name.$stage.valid.txt" validate "$WORK/$name.$stage.pt"
    done
    measure "$name.info.json" fairseq-distill info "$WORK/$name.stage2.pt" --json
    for corpus in wakeword digits; do measure_probe "$name.$corpus.json" "$WORK/$name.stage2.pt" "$corpus"; done
    measure_probe "$name.speakers.json" "$WORK/$name.stage2.pt" librispeech --label speaker
}

measure teacher.info.json fairseq-distill info "$teacher" --json
