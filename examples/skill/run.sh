#!/usr/bin/env bash
# SKILL beside DPHuBERT: the teacher's layer clusters and how stable they are, then students of both recipes at three sparsities,
# equal in all but their targets, and how near they come to every layer of the teacher.
#
#   bash examples/skill/run.sh [clusters] [skill50] [params50] [skill75] [params75] [skill85] [params85]
#   DATA=/my/manifests TEACHER=/my/teacher.pt bash examples/skill/run.sh
#
# DATA     folder of train.tsv, valid.tsv and test.tsv, with labels .keyword or .speaker to probe, or of one such folder for each
#          corpus: see examples/README.md (default: the speech that the quickstart synthesises)
# TEACHER  a pretrained checkpoint (default: the quickstart's tiny HuBERT)
# WORK     where everything goes (default: ./dphubert, as examples/dphubert/run.sh, whose params75 is one of these students)
# UPDATES  length of stage 1 (default: 400, about 10 minutes on two cores); stage 2 has half of it, or STAGE2
#
# Run it again and it goes on where it was. With real speech it ends with the tables of docs/results.md.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
WORK=${WORK:-$PWD/dphubert}
. "$here/../dphubert/compress.sh"
mkdir -p "$WORK/clusters"
groups=$WORK/clusters/1200s_seed0.json
number=$((depth < 8 ? 2 : 4))

# find_clusters SECONDS SEED: four clusters, as many targets as DPHuBERT has, from all frames of so much speech
find_clusters() {
    local file=$WORK/clusters/$1s_seed$2
    if step "clusters: $1 s of speech, seed $2" "$file.json"; then
        run fairseq-distill clusters "$teacher" "$training/train.tsv" --seconds "$1" --seed "$2" \
            --clusters "$number" --share 1 --plot "$file.png" --out "$file.json" >"$file.txt"
    fi
}

find_clusters 1200 0
[ $# -gt 0 ] || set -- clusters skill50 params50 skill75 params75 skill85 params85
for name in "$@"; do
    sparsity=0.${name: -2}
    case $name in
        clusters)
            for seed in 0 1 2; do
                for seconds in 60 300 1200; do find_clusters "$seconds" "$seed"; done
            done ;;
        skill50 | skill75 | skill85) compress "$name" skill params "$sparsity" criterion.groups_file="$groups" ;;
        params50 | params75 | params85) compress "$name" dphubert params "$sparsity" ;;
        *) die "$name is none of the runs that this file names at its top" ;;
    esac
    [ "$name" = clusters ] || measure_layers "$name" "$WORK/$name.stage2.pt"
done
python "$here/print_table.py" "$WORK"
