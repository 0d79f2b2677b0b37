#!/bin/sh
# ScienceQA, CRPE and HallusionBench of one checkpoint, with the flag off and on, and one table of their scores.
#
#     MODEL_PATH=checkpoints/llava-1.5-7b-hf sh scripts/eval_downstream.sh [arguments of eval/scienceqa.py and the like]
#
# The same command goes on with what was killed. Answers: <RESULTS>/<benchmark>/<model>/balance-{off,on}/answers.jsonl
set -eu
cd "$(dirname "$0")/.."

MODEL_PATH=${MODEL_PATH:-checkpoints/llava-1.5-7b-hf}
BENCHMARKS=${BENCHMARKS:-scienceqa crpe hallusionbench}
SCIENCEQA=${SCIENCEQA:-playground/data/eval/scienceqa}                  # llava_test_CQM-A.json and images/test/
CRPE=${CRPE:-playground/data/eval/crpe}                                 # crpe_*.jsonl, abnormal_images/ and coco/val2017/
HALLUSIONBENCH=${HALLUSIONBENCH:-playground/data/eval/hallusionbench}   # HallusionBench.json, VD/ and VS/
RESULTS=${RESULTS:-results}
SCORER=${SCORER:-official}    # or lmms, vlmevalkit
PARTIAL=${PARTIAL:-}          # --allow_partial: go on after error rows, score what is there and label it
PROCESSES=${PROCESSES:-1}     # on this machine, one GPU each

# shellcheck source=scripts/environment.sh
. scripts/environment.sh

model=$(basename "$MODEL_PATH")
if [ "$PROCESSES" = 1 ]; then run="python"; else run="torchrun --nproc_per_node $PROCESSES"; fi

# ask BENCHMARK FLAG DIRECTORY [arguments]
ask() {
    benchmark=$1
    flag=$2
    output=$3
    shift 3
    case $benchmark in
        scienceqa) set -- --eval_file "$SCIENCEQA/llava_test_CQM-A.json" --img_path "$SCIENCEQA/images/test" "$@" ;;
        crpe) set -- --eval_file "$CRPE/crpe_exist.jsonl" "$CRPE/crpe_relation.jsonl" --img_path "$CRPE" "$@" ;;
        hallusionbench)
            set -- --eval_file "$HALLUSIONBENCH/HallusionBench.json" --img_path "$HALLUSIONBENCH" "$@" ;;
        *) echo "error: BENCHMARKS has $benchmark: choose among scienceqa crpe hallusionbench" >&2 && exit 2 ;;
    esac
    status=0
    $run "eval/$benchmark.py" --model_path "$MODEL_PATH" --position_balance "$flag" --output_dir "$output" "$@" || status=$?
    # 1: every item has a row, some of them an error.
    [ "$status" = 0 ] || { [ "$status" = 1 ] && [ -n "$PARTIAL" ]; } || exit "$status"
    [ "$status" = 0 ] || worst=$status
}

worst=0
for benchmark in $BENCHMARKS; do
    folder=$RESULTS/$benchmark/$model
    ask "$benchmark" false "$folder/balance-off" "$@"
    ask "$benchmark" true "$folder/balance-on" "$@"
    # shellcheck disable=SC2086  # PARTIAL is nothing or one word
    python eval/score.py "$benchmark" --scorer "$SCORER" $PARTIAL --output_json "$folder/scores.json" --labels off on \
        --answers_file "$folder/balance-off/answers.jsonl" --answers_file "$folder/balance-on/answers.jsonl" > /dev/null
done
set --
for benchmark in $BENCHMARKS; do
    set -- "$@" "$RESULTS/$benchmark/$model/scores.json"
done
python eval/score_table.py --scores "$@"
exit "$worst"
