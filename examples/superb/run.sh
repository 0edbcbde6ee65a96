#!/usr/bin/env bash
# SUPERB's keyword spotting (KS) and speaker identification (SID) by s3prl 0.4.18's own recipes, on the teacher and its students. It
# shows that they run to their results; for SUPERB's figures give the recipes SUPERB's corpora and steps: see docs/superb.md.
#
#   bash examples/superb/run.sh [NAME...]
#   DATA=/my/manifests TEACHER=/my/teacher.pt bash examples/superb/run.sh
#
# NAME       teacher, distilled, pruned or skill (default: all that there are)
# DATA       folder of {train,valid,test}.tsv with .keyword and .speaker (default: the speech that the quickstart synthesises). It is
#            laid out as Speech Commands and VoxCeleb1
# COUNT      utterances of each split (default: all)
# TEACHER    a pretrained checkpoint (default: the quickstart's tiny HuBERT)
# DISTILLED  a student of examples/real_speech (default: ./real_speech/wide.pt)
# PRUNED     one of examples/dphubert (default: ./dphubert/params75.stage2.pt)
# SKILL      one of examples/skill (default: ./dphubert/skill75.stage2.pt)
# WORK       where everything goes (default: ./superb)
# UPDATES    steps of each recipe (default: 300, a few minutes on two cores; SUPERB has 200,000)
#
# It needs s3prl: pip install '.[superb]' on Python 3.11 or 3.12. Run it again and it goes on where it was.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
WORK=${WORK:-$PWD/superb}
UPDATES=${UPDATES:-300}
. "$here/../common.sh"
. "$here/../students.sh"

python - <<'PYTHON' || die "s3prl 0.4.18 and what its recipes import are not all in this environment: pip install '$root[superb]'"
import importlib.util, sys
needed = ("s3prl", "transformers", "librosa", "pandas", "tensorboard")
sys.exit(any(importlib.util.find_spec(name) is None for name in needed))
PYTHON

layouts=$WORK/layouts
keep_settings "data $DATA, count ${COUNT:-all}" "$WORK/layouts.settings" "$layouts"
if step "layouts: Speech Commands and VoxCeleb1" "$layouts"; then
    run python "$here/make_layouts.py" "$DATA" "$layouts" --count "${COUNT:-0}"
fi

# run_recipe RECIPE NAME ARGUMENTS...: ends with the recipe's result; a recipe that was stopped goes on from its last checkpoint
run_recipe() {
    local recipe=$1 name=$2
    shift 2
    local folder=$WORK/$name/$recipe
    keep_settings "${encoders[$name]}, $UPDATES updates" "$WORK/$name.$recipe.settings" "$folder"
    step "$recipe: $name" "$folder/evaluate/valid_best/test/result.yaml" || return 0
    # s3prl looks for VoxCeleb1's splits and keeps its caches in HOME; the learning rate is ours, for few updates
    HOME=$layouts/home run python "$here/run_s3prl.py" "$recipe" --verbose WARNING --target_dir "$folder" \
        --build_upstream.name fairseq_distill --build_upstream.path_or_url "${encoders[$name]}" \
        --device cpu --num_workers 0 --build_optimizer.conf.lr 0.001 --train.total_steps "$UPDATES" \
        --train.eval_step "$UPDATES" --train.save_step "$UPDATES" "$@"
}

[ $# -gt 0 ] || set -- "${!encoders[@]}"
for name in "$@"; do
    [ -n "${encoders[$name]:-}" ] || die "$name is none of ${!encoders[*]}"
    measure "$name.macs.json" python "$here/count_macs.py" "${encoders[$name]}" --json
    run_recipe SuperbKS "$name" --prepare_data.gsc1 "$layouts/speech_commands" \
        --prepare_data.gsc1_test "$layouts/speech_commands_test"
    run_recipe SuperbSID "$name" --prepare_data.dataset_root "$layouts/voxceleb1" --train.gradient_accumulate 1
done
python "$here/print_table.py" "$WORK"
