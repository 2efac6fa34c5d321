#!/usr/bin/env bash
# Everything that only a GPU can settle, in one go of less than eight minutes, for a bare GPU machine
# that is only visited: it needs Python with a CUDA torch, nvcc, and what pyproject.toml lists (numpy,
# OpenCV, ultralytics, DALI, ...); no network. gpu_needs.py says first what is not there.
#
#     [OUT=DIR] [PYTHON=python3] [ARCHS=90] benchmarks/gpu.sh [--dry] [STAGE ...]
#
# Stages: build parity tests memcheck racecheck bench train-n train-m (default: all, in this order).
# JSON goes to OUT, or to benchmarks/results; logs too, if OUT is given. A stage that fails, or that
# outlasts its limit, does not stop the later ones; the exit status is 1 then. The limits add up to
# less than TOTAL (of stages that run side by side, the longest); a benchmark that is cut off has written what
# it measured until then. --dry only says what would be run.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

readonly TOTAL=470 # seconds for all of it, grace periods included
readonly GRACE=8   # for a stage that is told to stop
out=${OUT:-benchmarks/results}
python=${PYTHON:-python3}
dry=no
if [[ ${1:-} == --dry ]]; then
  dry=yes
  shift
fi
all=(build parity tests memcheck racecheck bench train-n train-m)
wanted=("${@:-${all[@]}}")
for stage in "${wanted[@]}"; do
  if [[ " ${all[*]} " != *" $stage "* ]]; then
    echo "gpu.sh: no stage $stage; stages are ${all[*]}" >&2
    exit 2
  fi
done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
logs=${OUT:+$OUT/gpu-logs}
logs=${logs:-$work}
mkdir -p "$out" "$logs" "$work/status"
touch "$work/start"
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
[[ -d /usr/local/cuda/bin ]] && export PATH="$PATH:/usr/local/cuda/bin"
export YOLODATA_CUDA=on YOLODATA_CUDA_ARCHS=${ARCHS:-90} YOLODATA_REQUIRE_GPU=1

is_wanted() { [[ " ${wanted[*]} " == *" $1 "* ]]; }

# stage NAME LIMIT COMMAND ...: run it with a log of its own, and note how it went.
stage() {
  local name=$1 limit=$2 rc left began=$SECONDS
  shift 2
  is_wanted "$name" || return 0
  if [[ $dry == yes ]]; then
    printf '%-10s %4d s  %s\n' "$name" "$limit" "$*"
    return 0
  fi
  left=$((TOTAL - GRACE - SECONDS))
  ((limit > left)) && limit=$left
  if ((limit < 10)); then
    echo "$name 0 no time left" >"$work/status/$name"
    return 1
  fi
  timeout --kill-after="$GRACE" "$limit" "$@" >"$logs/$name.log" 2>&1
  rc=$?
  if ((rc == 0)); then
    echo "$name $((SECONDS - began)) passed" >"$work/status/$name"
  elif ((rc == 124 || rc == 137)); then
    echo "$name $((SECONDS - began)) stopped after its limit of $limit s" >"$work/status/$name"
  else
    echo "$name $((SECONDS - began)) failed with status $rc" >"$work/status/$name"
  fi
  return "$rc"
}

# shellcheck disable=SC2329 # bash -c calls it
build() {
  "$python" -m pip install -q --no-build-isolation --no-deps --no-index -e . ||
    "$python" setup.py -q build_ext --inplace # where pip may not install
}
export -f build
export python

if [[ $dry == no ]]; then
  "$python" benchmarks/gpu_needs.py || exit 2
fi

stage build 110 bash -c build

# What is only right or wrong runs side by side; what is timed runs alone, afterwards.
# Without torch's pool of memory every tensor has bounds that the sanitizer can see.
sanitize=(env PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --error-exitcode 9)
small=("$python" benchmarks/small_render.py)
tests=("$python" -m pytest -q -p no:cacheprovider -m gpu)
stage parity 80 "${tests[@]}" tests/test_blocks.py &
stage tests 80 "${tests[@]}" --ignore=tests/test_blocks.py tests &
stage memcheck 80 "${sanitize[@]}" --tool memcheck "${small[@]}" &
stage racecheck 80 "${sanitize[@]}" --tool racecheck "${small[@]}" &
wait

many=$((128 * $(nproc))) # a batch for each of Ultralytics' workers
((many < 2048)) && many=2048
bench=("$python" -m yolodata.bench --keep "$work/data" --many "$many")
stage bench 95 "${bench[@]}" --rounds 3 --seconds 0.6 --only 'gpu-copy-*' --only 'gpu-kernel-*' \
  --only gpu-dali --only 'gpu-yolodata-*' --only 'gpu-ultralytics-none-*' \
  --json "$out/gpu-loader.json"
train=("$python" -m yolodata.bench train --keep "$work/data" --many "$many" --batch 128 --amp)
stage train-n 75 "${train[@]}" --model yolo26n.yaml --rounds 3 --steps 8 \
  --json "$out/gpu-train-n.json"
stage train-m 75 "${train[@]}" --model yolo26m.yaml --rounds 2 --steps 6 \
  --only 'fixed-*' --only 'yolodata-raw-*' --only 'ultralytics-*' --json "$out/gpu-train-m.json"

[[ $dry == yes ]] && exit 0

failed=0
for name in "${wanted[@]}"; do
  if ! grep -q ' passed$' "$work/status/$name" 2>/dev/null; then
    failed=1
    echo "--- $name: the end of its log"
    tail -n 25 "$logs/$name.log" 2>/dev/null
  fi
done
mapfile -t made < <(find "$out" -maxdepth 1 -name 'gpu-*.json' -newer "$work/start" | sort)
"$python" benchmarks/gpu_summary.py "${made[@]}"
echo
for name in "${wanted[@]}"; do
  read -r _ seconds result <"$work/status/$name" || result="did not run"
  printf '%-10s %4s s  %s\n' "$name" "${seconds:-0}" "$result"
done
echo "all of it: $SECONDS s"
exit "$failed"
