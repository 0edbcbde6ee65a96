# Sourced by the examples that fine-tune, after common.sh: the teacher, and a student of each kind that there is.
declare -A encoders=([teacher]=$teacher)
# add_student NAME CHECKPOINT EXAMPLE
add_student() {
    if [ -f "$2" ]; then
        encoders[$1]=$(cd "$(dirname "$2")" && pwd)/$(basename "$2")
    else
        echo "== $1: left out, there is no $2 (bash examples/$3/run.sh makes it)"
    fi
}
add_student distilled "${DISTILLED:-real_speech/wide.pt}" real_speech
add_student pruned "${PRUNED:-dphubert/params75.stage2.pt}" dphubert
add_student skill "${SKILL:-dphubert/skill75.stage2.pt}" skill
