#!/usr/bin/env bash
# Changes the code in one place at a time and tells which changes no test notices: cargo-mutants (`cargo install cargo-mutants --locked`)
# over what Rust computes and checks. Each of about 4,000 mutants costs a build and the tests of its area, a minute on two cores, so a part
# of them is tried at a time:
#
#   tools/xtask/mutants.sh 7/40            # the eighth fortieth of all areas
#   tools/xtask/mutants.sh 7/40 src/data   # of one
#
# A mutant that survives here may fail a test of another area: apply it by hand and run all of them before another test is written.
# The folder mutants.out-AREA has the list, the changes and the logs. Works in place, on a clean tree.
set -euo pipefail
cd "$(dirname "$0")/../.."
shard=${1:?the part, such as 0/40}
shift
areas=("${@:-src/common src/data src/eval src/train src/model src/ops}")
read -ra areas <<<"${areas[*]}"
[[ -z $(git status --porcelain --untracked-files=no) ]] || { echo "error: the tree has changes; commit or stash them" >&2; exit 2; }

# Modules of the suite whose tests an area's mutants should fail.
tests_of() {
    case $1 in
    src/common) echo data:: text_kinds:: sampling:: masks:: gradients:: initial_weights:: model:: model_files:: ;;
    src/data) echo data:: tokenize:: tokenizers:: text_kinds:: store_run:: sampling:: ;;
    src/eval) echo cli:: text_kinds:: runs:: pooling:: ;;
    src/train) echo training:: runs:: run_ends:: signals:: store_run:: model_files:: initial_weights:: pooling:: cli:: ;;
    src/model) echo model:: model_arguments:: model_files:: recorded:: training:: captures:: initial_weights:: gradients:: ;;
    src/ops) echo out_of_range:: adamw:: bias_gelu:: column_sum:: embedding:: group_by_key:: layer_norm:: linear:: matmul:: reduce:: rows:: segment_sum:: masks:: cross_entropy:: bag_of_words:: attention:: ;;
    *) echo "error: $1 is no area" >&2 && return 2 ;;
    esac
}

for area in "${areas[@]}"; do
    tests=$(tests_of "$area")
    # The host device alone: without nvcc a mutant is built in seconds.
    # shellcheck disable=SC2086
    env -u NVCC -u CUDA_HOME -u CUDA_PATH cargo mutants --in-place --baseline=skip --timeout 150 --profile mutants \
        --file "$area/**" --sharding round-robin --shard "$shard" --output "mutants.out-${area##*/}" --no-shuffle \
        --cargo-test-arg=--lib --cargo-test-arg=--bins --cargo-test-arg=--test=suite -- -- $tests || true
done
