# Sourced by run.sh here and in examples/skill, which set WORK: both stages of joint distillation and pruning, and what they reach.
STAGE1=${STAGE1:-${UPDATES:-400}}
STAGE2=${STAGE2:-$(((STAGE1 + 1) / 2))}
. "$(dirname "${BASH_SOURCE[0]}")/../common.sh"

# train_stage NAME RECIPE UPDATES OVERRIDES...
train_stage() {
    local name=$1 recipe=$2 updates=$3
    shift 3
    train_once "$name" distill "$recipe" task.data="$training" task.teacher="$teacher" \
        dataset.max_tokens=320000 task.update_seconds=20 task.max_sample_size=160000 task.min_sample_size=null \
        optimization.max_update="$updates" common.log_interval=$((updates < 20 ? 1 : 20)) checkpoint.save_interval_updates=100 \
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
    fairseq-validate "$training" --path "$1" --task speech_distillation --user-dir "$root/fairseq_distill" \
        --valid-subset valid --batch-size 1 --cpu --log-format json --num-workers 1 2>&1
}

# compress NAME RECIPE METRIC SPARSITY OVERRIDES...: both stages and what they reach; OVERRIDES are of stage 1
compress() {
    local name=$1 recipe=$2 metric=$3 sparsity=$4 groups=()
    shift 4
    # the recipe's own for twelve layers; those of skill come with the file that holds them
    [ "$recipe" != dphubert ] || groups=(criterion.groups="'[[f],${thirds#[}'")
    train_stage "$name.stage1" "$recipe" "$STAGE1" model.size_metric="$metric" model.target_sparsity="$sparsity" \
        "${schedule[@]}" ${groups[@]+"${groups[@]}"} "$@"
    measure "$name.prune.txt" fairseq-distill prune "$WORK/$name.stage1.pt" "$WORK/$name.pruned.pt" --plot "$WORK/$name.png"
    train_stage "$name.stage2" "${recipe}_stage2" "$STAGE2" model.init="$WORK/$name.pruned.pt" ${groups[@]+"${groups[@]}"} \
        "optimization.lr=[0.0005]" lr_scheduler.warmup_updates=$((STAGE2 / 10))
    for stage in stage1 pruned stage2; do
        measure "$name.$stage.valid.txt" validate "$WORK/$name.$stage.pt"
    done
    measure_size "$name" "$WORK/$name.stage2.pt"
    measure_probes "$name" "$WORK/$name.stage2.pt"
}
