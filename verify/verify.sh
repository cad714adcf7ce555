#!/usr/bin/env bash
# Verifies and measures retromae on this machine with the programs of this folder: no Rust, no compiler, no network.
#
# Stages, in this order, until the time is over: the wrappers of kernels/arch against their host twins, every test, compute-sanitizer,
# 20 training steps against the host device, the benches in both orders, PyTorch. README.md tells more.
#
# Needs bash, coreutils, grep and sed; uses python3, compute-sanitizer and nvidia-smi where they are.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: verify.sh [--device cuda|host] [--minutes N] [--out DIR]

  --device   what to verify: the first CUDA device (default), or the host device
  --minutes  when to stop (default 10)
  --out      where to leave logs, result.json and summary.md (default retromae-verify-DATE in the working directory)

Exits with 0 when every check passed, 1 when a stage failed, 3 when the time did not suffice for every check.
TEXT
}

refuse() {
    printf 'error: %s\n' "$1" >&2
    exit 2
}

# ---------------------------------------------------------------------------------------------------------------------------------
# What is asked
# ---------------------------------------------------------------------------------------------------------------------------------

device=cuda
minutes=10
out=
while (($#)); do
    case $1 in
    --device | --minutes | --out)
        (($# >= 2)) || refuse "$1 has no value"
        declare "${1#--}=$2"
        shift 2
        ;;
    -h | --help)
        usage
        exit 0
        ;;
    *) refuse "$1 is no option; --help lists them" ;;
    esac
done
[[ $device == cuda || $device == host ]] || refuse "--device was $device; it should be cuda or host"
[[ $minutes =~ ^[1-9][0-9]{0,3}$ ]] || refuse "--minutes was $minutes; it should be a whole number from 1 to 9999"

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
for program in suite retromae xtask; do
    [[ -x $here/bin/$program ]] || refuse "bin/$program is missing beside verify.sh; the bundle is incomplete"
done
started=$(date -u +%Y-%m-%dT%H:%M:%SZ)
out=${out:-retromae-verify-${started//:/}}
mkdir -p -- "$out" || refuse "--out was $out, which cannot be made"
out=$(cd -- "$out" && pwd)
[[ -z $(ls -A -- "$out") ]] || refuse "--out was $out, which is not empty; it should be a new folder"
mkdir "$out/logs" "$out/device" "$out/peers" "$out/training"

# ---------------------------------------------------------------------------------------------------------------------------------
# Surroundings
# ---------------------------------------------------------------------------------------------------------------------------------

# Folders in which CUDA's libraries may be: the toolkit's, and those of PyTorch's packages.
library_folders() {
    local folder
    for folder in "${CUDA_HOME:-}"/lib64 "${CUDA_PATH:-}"/lib64 /usr/local/cuda/lib64 /usr/local/cuda-*/lib64; do
        printf '%s\n' "$folder"
    done
    command -v python3 >/dev/null || return 0
    python3 - <<'PYTHON' || true
import glob, os, sys
for path in filter(None, sys.path):
    for library in sorted(glob.glob(os.path.join(path, "nvidia", "**", "libcublasLt.so*"), recursive=True), reverse=True):
        print(os.path.dirname(library))
PYTHON
}

# This bundle's programs look there after the user's own folders. PyTorch does not: it brings the versions that it needs.
programs_path() {
    local folder path=${LD_LIBRARY_PATH:-}
    while read -r folder; do
        if compgen -G "$folder/libcublasLt.so*" >/dev/null && [[ :$path: != *:$folder:* ]]; then
            path=${path:+$path:}$folder
        fi
    done < <(library_folders 2>/dev/null)
    printf '%s' "$path"
}

libraries=$(programs_path)
export RETROMAE_BIN="$here/bin/retromae"
# Algorithms of matrix products are measured anew, and nothing is left outside the folder of the results.
export RETROMAE_CACHE_DIR="${RETROMAE_CACHE_DIR:-$out/cache}"

# Runs a program of the bundle.
ours() { env ${libraries:+LD_LIBRARY_PATH="$libraries"} "$@"; }

smi() {
    command -v nvidia-smi >/dev/null || return 0
    local fields=name,compute_cap,memory.total,driver_version,clocks.sm,clocks.mem,temperature.gpu,power.draw
    local first=${CUDA_VISIBLE_DEVICES:-0}
    if timeout 20 nvidia-smi -i "${first%%,*}" --query-gpu="$fields" --format=csv,noheader,nounits >"$out/device/smi.tmp" 2>/dev/null; then
        mv "$out/device/smi.tmp" "$out/device/smi-$1.csv"
    else
        rm -f "$out/device/smi.tmp"
    fi
}

# A text as a JSON string.
json_string() {
    local text=${1//\\/\\\\}
    text=${text//\"/\\\"}
    printf '"%s"' "$(tr -d '\000-\037' <<<"$text")"
}

write_software() {
    command -v python3 >/dev/null || return 0
    timeout 20 python3 - >"$out/device/software.tmp" 2>/dev/null <<'PYTHON' || return 0
import importlib.metadata, json, platform
found = {"python": platform.python_version()}
for name in ("torch", "triton", "transformers", "liger-kernel", "cut-cross-entropy", "flash-attn",
             "nvidia-cudnn-cu12", "nvidia-cudnn-cu13", "nvidia-cublas-cu12", "nvidia-cublas"):
    try:
        found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pass
print(json.dumps(found))
PYTHON
    mv "$out/device/software.tmp" "$out/device/software.json"
}

describe_machine() {
    local cpu
    cpu=$(sed -n 's/^model name[^:]*: *//p' /proc/cpuinfo 2>/dev/null | head -n 1 || true)
    printf '{"device":"%s","minutes":%s,"started":"%s","host_cpu":%s,"host_threads":%s}\n' \
        "$device" "$minutes" "$started" "$(json_string "${cpu:-$(uname -m)}")" "$(nproc)" >"$out/run.json"
    cp -- "$here/build.json" "$out/build.json" 2>/dev/null || true
    ours "$here/bin/retromae" info --json >"$out/device/info.json"
    write_software
    if [[ $device == cuda ]]; then smi before; fi
}

# ---------------------------------------------------------------------------------------------------------------------------------
# Stages
# ---------------------------------------------------------------------------------------------------------------------------------

stages=(twins tests memcheck racecheck training bench-forward bench-reverse peers)
# Whoever trusts a device needs these to pass; the other stages measure as far as the time goes.
checks=" twins tests memcheck racecheck training "
# Seconds that are kept for what comes later: of each minute.
for_peers=$((minutes * 15))
after_checks=$((minutes * 22))
after_tests=$((minutes * 26))
done_stages=" "
failed=0
unchecked=0
current=
current_start=0
child=

left() { printf '%s' $((60 * minutes - SECONDS)); }

# name, status, note, and counts of tests if there are any
record() {
    local tests=
    if (($# > 3)); then tests=",\"tests\":{\"passed\":$4,\"failed\":$5,\"ignored\":$6}"; fi
    printf '{"name":"%s","status":"%s","seconds":%s%s,"note":%s}\n' \
        "$1" "$2" $((SECONDS - current_start)) "$tests" "$(json_string "$3")" >>"$out/stages.jsonl"
    done_stages+="$1 "
    printf '%-14s %s%s%s\n' "$1" "$2" "${4:+, $4 tests passed, ${5:-} failed}" "${3:+: $3}"
    if [[ $2 == failed ]]; then failed=1; fi
    if [[ $2 == not_reached && $checks == *" $1 "* ]]; then unchecked=1; fi
    current=
}

# Runs a command for at most so many seconds, its output in the stage's log; 124 when they did not suffice. In the background, as only
# then a signal is heard at once.
run() {
    local seconds=$1 status=0 begun=$SECONDS
    shift
    timeout --kill-after=10 "$seconds" "$@" >>"$out/logs/$current.log" 2>&1 &
    child=$!
    wait "$child" || status=$?
    child=
    if ((status == 137 && SECONDS - begun >= seconds)); then status=124; fi
    return "$status"
}

# Whether a stage may begin: it has at least a few seconds.
begin() {
    current=$1
    current_start=$SECONDS
    limit=$2
    if ((limit >= 5)); then
        printf '%-14s at most %s s\n' "$1" "$limit"
        return 0
    fi
    record "$1" not_reached "the time was over"
    return 1
}

# Seconds for a stage that must leave some for those after it.
all_but() {
    local seconds=$(($(left) - $1))
    printf '%s' $((seconds > 0 ? seconds : 0))
}

is_timeout() { (($1 == 124)); }

# Adds up what the test programs in a log reported; prints passed, failed, ignored.
count_tests() {
    sed -n 's/^test result: .* \([0-9]*\) passed; \([0-9]*\) failed; \([0-9]*\) ignored;.*/\1 \2 \3/p' "$1" |
        { local p=0 f=0 i=0 a b c; while read -r a b c; do ((p += a, f += b, i += c)) || true; done; printf '%s %s %s\n' "$p" "$f" "$i"; }
}

# Records a stage of tests from its log and exit status.
record_tests() {
    local name=$1 status=$2 log="$out/logs/$1.log" passed failures ignored note=
    read -r passed failures ignored < <(count_tests "$log")
    # A test that does not apply to this machine says so.
    ignored=$((ignored + $(grep -c '^ignored: ' "$log" || true)))
    if is_timeout "$status"; then
        note="not done in $limit s"
    elif ((status != 0)); then
        note=$(grep -m 1 -E '^test .* FAILED$|ERROR SUMMARY|^error:|panicked at' "$log" || true)
        note="exit status $status${note:+: $note}"
    elif ((passed + failures == 0)); then
        note="0 tests"
        status=1
    fi
    record "$name" "$( ((status == 0)) && printf passed || printf failed)" "$note" "$passed" "$failures" "$ignored"
}

# Tests multiply hundreds of sizes once: measuring algorithms for each would take longer than the tests.
suite() {
    local seconds=$1 status=0
    shift
    run "$seconds" env ${libraries:+LD_LIBRARY_PATH="$libraries"} RETROMAE_TEST_DEVICE="$device" RETROMAE_GEMM_TUNE=0 "$@" --show-output || status=$?
    record_tests "$current" "$status"
}

stage_twins() {
    begin twins "$(all_but "$after_tests")" || return 0
    suite "$limit" "$here/bin/suite" twins::
}

stage_tests() {
    begin tests "$(all_but "$after_tests")" || return 0
    suite "$limit" "$here/bin/suite" --skip twins::
}

stage_sanitizer() {
    local tool=$1 sanitizer
    if [[ $device == host ]]; then
        current_start=$SECONDS
        record "$tool" skipped "compute-sanitizer is for GPUs"
        return 0
    fi
    sanitizer=$(command -v compute-sanitizer || compgen -G "/usr/local/cuda*/bin/compute-sanitizer" | head -n 1 || true)
    if [[ -z $sanitizer ]]; then
        current_start=$SECONDS
        record "$tool" skipped "there is no compute-sanitizer on this machine"
        return 0
    fi
    begin "$tool" "$(all_but "$after_checks")" || return 0
    suite "$limit" "$sanitizer" --tool "$tool" --error-exitcode 86 --target-processes application-only \
        "$here/bin/suite" every_kernel:: --test-threads 1
}

# One training run on a device, into a folder.
train() {
    run "$(all_but "$for_peers")" env ${libraries:+LD_LIBRARY_PATH="$libraries"} "RETROMAE_HOST_ORDER=$3" "$here/bin/retromae" pretrain \
        --corpus "$here/corpus" --device "$1" --dtype f32 --steps 20 --seed 1 --vocab-size 1000 --batch-tokens 512 --max-len 64 \
        --held-out 0 --out "$2"
}

stage_training() {
    begin training "$(all_but "$for_peers")" || return 0
    # On the host device alone, the other order of threads stands for the other device.
    local other=$device name=$device order=forward status=0 note=
    if [[ $device == host ]]; then name="host, reverse" order=reverse; fi
    train host "$out/training/a" forward || status=$?
    if ((status == 0)); then train "$other" "$out/training/b" "$order" || status=$?; fi
    if ((status == 0)); then
        run 60 "$here/bin/xtask" compare-runs "$out/training/a/training.jsonl" "$out/training/b/training.jsonl" --bound 2e-3 \
            --steps 20 --name-a host --name-b "$name" --out "$out/training.json" || status=$?
    fi
    if is_timeout "$status"; then
        note="not done in time"
    elif ((status != 0)); then
        note=$(grep -m 1 '^error:' "$out/logs/training.log" || true)
        note=${note:-exit status $status}
    fi
    record training "$( ((status == 0)) && printf passed || printf failed)" "$note"
    # The weights of a comparison are of no use.
    rm -rf "$out"/training/*/checkpoint "$out"/training/*/model.safetensors
}

# What is measured first, as patterns of names: a run that is cut lacks lengths and head sizes, not operations.
passes=('^([^at]|a[^t]|t[^w])' '^(at|tw).*_d64$' '^(at|tw).*_d(32|128)$')

stage_bench() {
    local order=$1 end=$2 pass one status=0 note=
    if [[ ! -x $here/bin/bench ]]; then
        current_start=$SECONDS
        record "bench-$order" skipped "the bundle has no bench"
        return 0
    fi
    begin "bench-$order" $((end - SECONDS)) || return 0
    for pass in "${passes[@]}"; do
        one=124
        if ((end - SECONDS >= 5)); then
            one=0
            run $((end - SECONDS)) env ${libraries:+LD_LIBRARY_PATH="$libraries"} CRITERION_HOME="$out/criterion/$order" \
                RETROMAE_BENCH_DEVICE="$device" RETROMAE_BENCH_ORDER="$order" RETROMAE_BENCH_BOUNDS="$out/bounds.jsonl" \
                "$here/bin/bench" --bench --noplot "$pass" || one=$?
        fi
        # A failure weighs more than the time.
        if ((one != 0 && (status == 0 || status == 124))); then status=$one; fi
    done
    note=$(grep -m 1 -E '^error:|panicked at|skipped: .* differs from' "$out/logs/$current.log" || true)
    if ((status == 124)) && [[ -z $note ]]; then
        record "$current" cut ""
    elif ((status != 0)) || [[ -n $note ]]; then
        record "$current" failed "exit status $status${note:+: $note}"
    else
        record "$current" passed ""
    fi
}

stage_peers() {
    local on=$device status=0 note
    if [[ $device == host ]]; then on=cpu; fi
    current_start=$SECONDS
    if [[ ! -f $here/peers/run.py ]]; then
        record peers skipped "the bundle has no peers"
    elif ! command -v python3 >/dev/null; then
        record peers skipped "there is no python3 on this machine"
    else
        begin peers "$(left)" || return 0
        local tenths=$(((limit > 20 ? limit - 15 : limit) * 10 / 60))
        PYTHONDONTWRITEBYTECODE=1 run "$limit" python3 "$here/peers/run.py" --device "$on" \
            --minutes "$((tenths / 10)).$((tenths % 10))" --out "$out/peers/figures.jsonl" || status=$?
        note=$(tail -n 1 "$out/logs/peers.log")
        case $status in
        0) record peers passed "" ;;
        3) record peers skipped "$note" ;;
        124) record peers cut "" ;;
        *) record peers failed "exit status $status: $note" ;;
        esac
    fi
}

# ---------------------------------------------------------------------------------------------------------------------------------
# The whole run
# ---------------------------------------------------------------------------------------------------------------------------------

collate() {
    local stage
    current_start=$SECONDS
    for stage in "${stages[@]}"; do
        if [[ $done_stages != *" $stage "* ]]; then record "$stage" not_reached "the run ended before"; fi
    done
    if [[ $device == cuda ]]; then smi after; fi
    "$here/bin/xtask" collate --dir "$out" --out "$out/result.json" --summary "$out/summary.md" ||
        { failed=1 && printf 'error: no result could be made of %s\n' "$out" >&2; }
}

interrupted() {
    trap '' INT TERM HUP
    if [[ -n $child ]]; then
        kill -TERM "$child" 2>/dev/null || true
        wait "$child" 2>/dev/null || true
    fi
    if [[ -n $current ]]; then record "$current" interrupted ""; fi
    collate
    printf '\ninterrupted; what there is: %s\n' "$out/summary.md"
    exit 130
}

main() {
    ours "$here/bin/retromae" info
    if [[ $device == cuda ]]; then
        local missing
        missing=$(ours "$here/bin/retromae" info | sed -n 's/^cuda  *not available: //p')
        if [[ -n $missing ]]; then
            rm -rf -- "$out"
            refuse "there is no CUDA device to verify: $missing. --device host verifies the host device"
        fi
    fi
    describe_machine
    trap interrupted INT TERM HUP
    printf '\n%s minutes, until %s; logs in %s\n' "$minutes" "$(date -d "+$((60 * minutes - SECONDS)) seconds" +%H:%M:%S)" "$out/logs"
    stage_twins
    stage_tests
    stage_sanitizer memcheck
    stage_sanitizer racecheck
    stage_training
    # Both orders share what is not the peers'.
    local rest
    rest=$(all_but "$for_peers")
    stage_bench forward $((SECONDS + rest / 2))
    rest=$(all_but "$for_peers")
    stage_bench reverse $((SECONDS + rest))
    stage_peers
    collate
    printf '\nresult:  %s\nsummary: %s\n' "$out/result.json" "$out/summary.md"
    if ((failed)); then exit 1; fi
    if ((unchecked)); then exit 3; fi
}

main
