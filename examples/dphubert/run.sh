#!/usr/bin/env bash
# DPHuBERT on a real teacher and real speech: distil and prune together, cut, distil again, evaluate. Twice: 75 % of the parameters
# go, and half of the MACs.
#
#   DATA=/folder/with/speech/and/teacher bash examples/dphubert/run.sh [params75] [macs50]
#
# DATA     holds manifests.py, speech/ and teacher/hubert_small.pt (default: ../shared/data beside the checkout)
# WORK     where everything goes (default: ./dphubert)
# STAGE1   updates of stage 1 (default: 400, about 10 minutes on two cores)
# STAGE2   updates of stage 2 (default: 200, about 3 minutes)
#
# Run it again and it goes on where it was. It ends with the tables of docs/results.md.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
WORK=${WORK:-$PWD/dphubert}
. "$here/compress.sh"

[ $# -gt 0 ] || set -- params75 macs50
for name in "$@"; do
    case $name in
        params75) compress params75 dphubert params 0.75 ;;
        macs50) compress macs50 dphubert macs 0.5 ;;
        *) echo "$name is neither params75 nor macs50" >&2 && exit 1 ;;
    esac
done
python3 "$here/print_table.py" "$WORK"
