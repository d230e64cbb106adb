#!/usr/bin/env bash
# Proves and times samcore on an NVIDIA GPU, for anyone who has one:
#
#     scripts/gpu.sh                          # everything, about an hour
#     scripts/gpu.sh --quick                  # the same, with short timings and few kernels under the sanitizer
#     scripts/gpu.sh check repeat             # only these parts
#     scripts/gpu.sh --device cuda:1 --out DIR
#
# A part that fails is recorded and the rest goes on. Needed are the binary (target/release/samcore, else the one that SAMCORE
# names, else cargo builds it), NVRTC, and data/fashion-mnist; compute-sanitizer and a Python with torch where they are there.
# DIR [benches/results/gpu] gets a log and raw results (JSON) of each part, and summary.json.
set -uo pipefail
cd "$(dirname "$0")/.."

ALL="machine check sanitizer repeat curve fashion start tune kernels steps peer"
device=cuda out=${OUT:-benches/results/gpu} quick= parts=
while [ $# -gt 0 ]; do
    case $1 in
        --device) device=${2:?--device wants cuda or cuda:N}; shift 2 ;;
        --out) out=${2:?--out wants a folder}; shift 2 ;;
        --quick) quick=1; shift ;;
        -h | --help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
        -*) echo "gpu.sh: unknown flag $1; known: --device --out --quick" >&2; exit 2 ;;
        *)
            case " $ALL " in *" $1 "*) parts+=" $1" ;; *) echo "gpu.sh: no part '$1'; there are: $ALL" >&2; exit 2 ;; esac
            shift
            ;;
    esac
done
parts=${parts:-$ALL}
mkdir -p "$out" || exit 73
out=$(cd "$out" && pwd)

samcore=${SAMCORE:-target/release/samcore}
if [ ! -x "$samcore" ]; then
    command -v cargo >/dev/null || { echo "gpu.sh: no $samcore and no cargo to build it: SAMCORE=/path/to/samcore" >&2; exit 69; }
    cargo build --release --locked || exit 70
fi
samcore=$(realpath "$samcore")
# The program looks for data/ here; the parts run in this folder.
seconds=$([ "$quick" ] && echo 2 || echo 10)
dtypes="f32 tf32 bf16 f16"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python=
for candidate in ${SAMCORE_PYTHON:-} python3 python; do
    "$candidate" -c 'import torch' 2>/dev/null && { python=$candidate; break; }
done

# Runs a command and tells what it was, so that a log can be repeated.
run() { echo "+ $*" >&2; "$@"; }
skip() { echo "skipped: $*"; return 77; }
train() { run "$samcore" train --device "$device" --quiet "$@"; }

machine() {
    run nvidia-smi
    run nvidia-smi --query-gpu=name,driver_version,memory.total,power.limit,clocks.max.sm --format=csv
    run "$samcore" info --json | tee "$out/machine.json"
}

# Every operation and a model of each kind against the definitions in f64.
check() {
    local failed=0
    for dtype in $dtypes; do
        run "$samcore" check --device "$device" --dtype "$dtype" --json >"$out/check_$dtype.json" || { failed=1; echo "FAILED in $dtype"; }
        tail -c 2000 "$out/check_$dtype.json"
    done
    # Each kernel of the convolutions by force.
    for rung in plain mma wgmma; do
        SAMCORE_RUNGS=$rung run "$samcore" check --device "$device" --dtype bf16 conv2d conv_norm_relu residual_block linear || failed=1
    done
    return $failed
}

# NVIDIA's own checker over the same checks. Leaks are not asked for: a process that ends gives everything back.
sanitizer() {
    local sanitizer failed=0 names="conv2d batch_norm linear max_pool cross_entropy ingest update"
    sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda*/bin/compute-sanitizer 2>/dev/null | tail -n 1)
    [ "$sanitizer" ] || { skip "no compute-sanitizer (it comes with the CUDA toolkit)"; return; }
    [ "$quick" ] && names="conv2d batch_norm"
    for tool in memcheck racecheck initcheck; do
        for dtype in f32 bf16; do
            run timeout 1200 "$sanitizer" --tool "$tool" --error-exitcode 9 "$samcore" check --device "$device" --dtype "$dtype" $names || {
                failed=1
                echo "FAILED: $tool in $dtype"
            }
        done
    done
    return $failed
}

# The same training twice: the same bits.
repeat() {
    local failed=0
    for dtype in f32 bf16; do
        for i in 1 2; do
            train --dtype "$dtype" --opt sam --steps 200 --out "$work/repeat_${dtype}_$i" || return
        done
        run cmp "$work/repeat_${dtype}_1/last.safetensors" "$work/repeat_${dtype}_2/last.safetensors" || failed=1
        run cmp "$work/repeat_${dtype}_1/steps.jsonl" "$work/repeat_${dtype}_2/steps.jsonl" || failed=1
    done
    return $failed
}

losses() { sed -n 's/.*"loss":\([-+0-9.e]*\).*/\1/p' "$1"; }

# WRN-16-4 with SAM, a few steps on the GPU and on the CPU. Rounding errors grow from step to step: the first ten losses must
# agree to 1 %, f32; what becomes of the others is told.
curve() {
    local steps=30 flags
    flags="--data fashion-mnist --model wrn-16-4 --opt sam --lr 0.02 --batch 64 --steps $steps"
    run "$samcore" train --device cpu --quiet $flags --out "$work/curve_cpu" || return
    for dtype in $dtypes; do
        train --dtype "$dtype" $flags --out "$work/curve_$dtype" || return
    done
    for name in cpu $dtypes; do losses "$work/curve_$name/steps.jsonl" >"$work/losses_$name"; done
    (cd "$work" && paste losses_cpu losses_f32 losses_tf32 losses_bf16 losses_f16) | awk -v OFS=, '
        BEGIN { print "step", "cpu", "f32", "tf32", "bf16", "f16" }
        { print NR, $1, $2, $3, $4, $5; d = ($2 - $1) / $1; if (d < 0) d = -d; if (NR <= 10 && !(d < 0.01)) bad++ }
        END { if (NR < 10) bad++; exit bad > 0 }' | tee "$out/curve_wrn_16_4.csv"
    return "${PIPESTATUS[1]}"
}

# A whole SAM training, with the default recipe.
fashion() {
    local epochs=$([ "$quick" ] && echo 2 || echo 8)
    for dtype in f32 bf16 f16; do
        train --dtype "$dtype" --opt sam --epochs "$epochs" --json --out "$work/fashion_$dtype" >"$out/fashion_$dtype.json" || return
        cp "$work/fashion_$dtype/metrics.csv" "$out/fashion_$dtype.csv"
        cat "$out/fashion_$dtype.json"
    done
}

# From the start to the end of a run of one step, evaluation and checkpoint included; kernels compiled, then found.
start() {
    local kernels="$work/kernels" began
    for which in cold warm; do
        for model in cnn wrn-28-10; do
            began=$(date +%s.%N)
            SAMCORE_CACHE="$kernels" train --model "$model" --data fashion-mnist --opt sam --dtype bf16 --steps 1 \
                --out "$work/start_${which}_$model" || return
            awk -v began="$began" -v now="$(date +%s.%N)" -v which="$which" -v model="$model" \
                'BEGIN { printf "{\"start\":\"%s\",\"model\":\"%s\",\"seconds\":%.2f}\n", which, model, now - began }'
        done
    done >"$work/start" || return
    grep '"start"' "$work/start" | tee "$out/start.json"
}

# Which kernel is the fastest for which convolution; the parts after this one use it.
tune() {
    run "$samcore" bench --device "$device" --dtype tf32,bf16,f16 --step cnn,wrn-28-10 --tune "$out/rungs.txt" --json "$out/tune.jsonl" &&
        cat "$out/rungs.txt"
}
tuned() { if [ -s "$out/rungs.txt" ]; then export SAMCORE_RUNGS="$out/rungs.txt"; fi; }

kernels() {
    tuned
    for dtype in $dtypes; do
        run "$samcore" bench --device "$device" --dtype "$dtype" --seconds 0.2 --json "$out/kernels_$dtype.jsonl" || return
    done
}

steps() {
    tuned
    run "$samcore" bench --device "$device" --dtype f32,tf32,bf16,f16 --step cnn,wrn-28-10 --opt sgd,sam --batch 128 \
        --seconds "$seconds" --json "$out/steps.jsonl" && cat "$out/steps.jsonl"
}

# PyTorch on the same card, right after.
peer() {
    [ "$python" ] || { skip "no Python with torch (SAMCORE_PYTHON names one)"; return; }
    local visible=()
    case $device in *:*) visible=(env CUDA_VISIBLE_DEVICES="${device#*:}") ;; esac
    run "${visible[@]}" "$python" benches/peers/torch_gpu.py --sweep --models cnn,wrn-28-10 --seconds "$seconds" \
        --limit "$([ "$quick" ] && echo 300 || echo 1800)" --out "$out/peer.jsonl"
    cat "$out/peer.jsonl"
    "$python" benches/peers/torch_gpu.py --ratios "$out/steps.jsonl" "$out/peer.jsonl" | tee "$out/ratios.txt"
    return "${PIPESTATUS[0]}"
}

summary=()
bad=0
for part in $parts; do
    echo "== $part"
    began=$SECONDS
    # In a subshell: what a part sets is gone after it.
    ("$part") >"$out/$part.log" 2>&1
    code=$?
    case $code in 0) word=ok ;; 77) word=skipped ;; *) word=FAILED bad=1 ;; esac
    summary+=("$part $word $code $((SECONDS - began))")
    [ "$word" = ok ] || tail -n 5 "$out/$part.log"
done

{
    echo '['
    for i in "${!summary[@]}"; do
        read -r part word code took <<<"${summary[$i]}"
        comma=$([ "$i" -lt $((${#summary[@]} - 1)) ] && echo ,)
        echo "{\"part\":\"$part\",\"result\":\"$word\",\"code\":$code,\"seconds\":$took}$comma"
    done
    echo ']'
} >"$out/summary.json"
echo
printf '%-10s %-8s %5s %8s\n' part result code seconds
for line in "${summary[@]}"; do
    # shellcheck disable=SC2086
    printf '%-10s %-8s %5s %8s\n' $line
done
echo "results: $out"
exit $bad
