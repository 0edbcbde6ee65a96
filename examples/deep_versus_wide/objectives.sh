# Sourced by run.sh: every objective at one shape, to compare with that shape's layer_to_layer: every layer of the teacher from
# the student's layer at its depth, L1 - log sigmoid cosine, mean over layers. Here is what each changes in it.
objectives=(linear_heads hints fithubert masking armhubert attention_maps star dicehubert units_beside started average heads)
no_distances=(criterion.l1=0 criterion.log_sigmoid_cosine=0)
hints=("${no_distances[@]}" criterion.mse=1 +criterion.hint=0.1 +criterion.reduce_groups=sum)
masking=("${hints[@]}" +criterion.masking=true +model.mask_prob=0.8 +model.mask_length=10)

# units of a layer at three quarters of the teacher
make_units() {
    if step "units: k-means of the teacher" "$WORK/units/units.json"; then
        run fairseq-distill units "$teacher" "$training"/{train,valid}.tsv --layer $((depth * 3 / 4)) --clusters 100 \
            --out "$WORK/units"
    fi
}
# train_one NAME OVERRIDES...
train_one() {
    local name=$1
    shift
    layer_to_layer "$name" "$one_shape" "$@"
}

train_objective() {
    case $1 in
        linear_heads)  # from the last layer, but a Linear for each of the three layers of the teacher
            from_last "$1" "$one_shape" model.prediction_head=linear ;;
        hints) train_one "$1" "${hints[@]}" ;;
        fithubert) train_one "$1" "${hints[@]}" +model.time_reduction=2 ;;
        masking) train_one "$1" "${masking[@]}" ;;
        armhubert)  # every second map reused
            train_one "$1" "${masking[@]}" "+model.reuse_attention=[$(seq -s, 2 2 "${one_shape%x*}")]" ;;
        attention_maps) train_one "$1" +criterion.attention_maps=0.1 ;;
        star) train_one "$1" "${no_distances[@]}" model.prediction_head=none +criterion.temporal_relations=1 +criterion.layer_relations=1 ;;
        dicehubert)  # the stock task; short waves too
            make_units
            train_shape "$1" dicehubert "$one_shape" task.label_dir="$WORK/units" task.min_sample_size=null \
                +model.init="$teacher" +model.like_init=front ;;
        units_beside)
            make_units
            train_one "$1" +criterion.masked_prediction=0.1 +task.label_dir="$WORK/units" ;;
        started)  # the teacher's projection is cut too
            train_one "$1" +model.init_choice=every +model.init_width=activations +model.project_features=true ;;
        average) train_one "$1" task.teacher="'$teacher,$SECOND'" ;;
        heads) train_one "$1" task.teacher="'$teacher,$SECOND'" +task.combine_teachers=heads ;;
        *) die "$1 is none of the runs that run.sh names at its top" ;;
    esac
}
