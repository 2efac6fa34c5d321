#!/usr/bin/env bash
# One visit to a bare GPU machine: everything that only a GPU can settle, the most valuable first.
#
#     bash benchmarks/gpu/visit.sh [OPTION ...] [STAGE ...]          (in the repository's root)
#
#     --budget S   seconds for all of it (560)
#     --files N    most files in the output folder, at least 3 (8)
#     --out DIR    output folder ($OUT, else WORK/out)
#     --work DIR   everything else (/tmp/yolodata-visit)
#     --kit DIR    what kit.py made (.gpu); without one, what is installed is used
#     --cpu        rehearse on a machine without a GPU, in small
#     --list       print the stages and what they would run
#     --sources    print a hash of what the core is compiled from
#
# Made for one call: nothing relies on a second one. Each stage has a limit and a log, and what it measured is in the
# output folder before the next one begins. What is only right or wrong runs side by side; what is timed runs alone.
# A stage that passed is not run again in the same WORK, so that a second call goes on where the first one stopped.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 2
repo=$PWD here=$PWD/benchmarks/gpu
budget=560 files=8 w=/tmp/yolodata-visit out=${OUT:-} kit=$PWD/.gpu device=cuda list=
while [[ ${1:-} == --* ]]; do
  case $1 in
    --budget) budget=$2; shift ;;
    --files) files=$2; shift ;;
    --out) out=$2; shift ;;
    --work) w=$2; shift ;;
    --kit) kit=$2; shift ;;
    --cpu) device=cpu ;;
    --list) list=1 ;;
    --sources) find csrc setup.py yolodata/dali/compilers.py -type f | LC_ALL=C sort | xargs sha256sum | sha256sum; exit ;;
    *) echo "visit.sh: no option $1; options are --budget --files --out --work --kit --cpu --list --sources" >&2; exit 2 ;;
  esac
  shift
done
out=${out:-$w/out}
checks=(smoke memcheck racecheck tests data)
training=(resume-fp16 resume-bf16 ddp oom trains)
all=("${checks[@]}" probe probe-also raw few theirs profile train-m jpeg "${training[@]}" memory peers freed decode ncu
  doctor doctor-ours train-n)
wanted=("${@:-${all[@]}}")
for name in "${wanted[@]}"; do
  [[ " ${all[*]} " == *" $name "* ]] || { echo "visit.sh: no stage $name; stages are ${all[*]}" >&2; exit 2; }
done
((files >= 3 && budget > 0)) || { echo "visit.sh: --files must be at least 3, --budget above 0" >&2; exit 2; }
[[ $list ]] || mkdir -p "$w/logs" "$w/status" "$w/results" "$out"
exec 3>&1

say() { printf '[%4d s] %s\n' "$SECONDS" "$*" >&3; }
is_wanted() { [[ " ${wanted[*]} " == *" $1 "* && ! -e $w/status/$1.passed ]]; }

# What came of it until now, into $out: report.txt, logs.txt, and the results, in one file if there are too many.
collect() {
  local log
  {
    for log in "$w"/logs/*.log; do
      [[ -e $log ]] || continue
      echo "=== ${log##*/} ($(cat "$w/status/$(basename "$log" .log)" 2>/dev/null))"
      if (($(stat -c %s "$log") > 900000)); then
        head -c 300000 "$log"; echo "[...]"; tail -c 500000 "$log"
      else
        cat "$log"
      fi
    done
  } >"$out/logs.txt"
  python3 - "$w/results" "$out" $((files - 2)) <<'P'
import json, sys
from pathlib import Path
source, out, most = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
found = {}
for file in sorted(source.glob("*.json")):
    try:
        found[file.name] = json.loads(file.read_text())
    except ValueError:
        pass  # being written
whole = {"results.json": found} if len(found) > most else found
for file in out.glob("*.json"):
    if file.name not in whole:
        file.unlink()
for name, values in whole.items():
    (out / name).write_text(json.dumps(values, indent=1) + "\n")
P
  cp -f "$w/report.txt" "$out/" 2>/dev/null
  return 0
}

# stage NAME LIMIT COMMAND...: with a log of its own; fails if it failed.
stage() {
  local name=$1 limit=$2 rc left began=$SECONDS
  shift 2
  is_wanted "$name" || return 0
  if [[ $list ]]; then
    printf '%-12s %4d s  %s\n' "$name" "$limit" "$*"
    return 0
  fi
  [[ $device == cpu ]] && limit=$((3 * limit)) # a rehearsal's machine does other things, too
  left=$((budget - SECONDS - 8))
  ((limit > left)) && limit=$left
  if ((limit < 8)); then
    echo "no time left" >"$w/status/$name"
    return 1
  fi
  timeout --kill-after=6 "$limit" "$@" >"$w/logs/$name.log" 2>&1 3>&-
  rc=$?
  case $rc in
    0) echo "passed in $((SECONDS - began)) s" >"$w/status/$name"; touch "$w/status/$name.passed" ;;
    124 | 137) echo "stopped after its limit of $limit s" >"$w/status/$name" ;;
    *) echo "FAILED with status $rc after $((SECONDS - began)) s" >"$w/status/$name" ;;
  esac
  say "$name: $(cat "$w/status/$name")"
  return "$rc"
}

show() { # NAME PATTERN [LINES]: what a log says of what was found
  [[ $list || ! -e $w/logs/$1.log || " ${wanted[*]} " != *" $1 "* ]] && return 0
  grep -aE "$2" "$w/logs/$1.log" | tail -n "${3:-16}" | cut -c1-180 >&3
  collect
}

wait_for_stages() { # all that runs beside this script but its collector
  local job
  for job in $(jobs -p); do [[ $job == "${collector:-}" ]] || wait "$job"; done
}

# ---- the environment: what the kit brings, and the core, carried or built here
export PYTHONPATH=$repo PYTHONUNBUFFERED=1 YOLODATA_CACHE=$w/cache YOLODATA_CUDA=on
export YOLO_OFFLINE=true YOLO_AUTOINSTALL=false YOLO_CONFIG_DIR=$w/config MPLCONFIGDIR=$w/config MPLBACKEND=Agg
photographs=$w/kit/data
if [[ -e $kit/kit.tar.xz ]]; then
  export PYTHONPATH=$repo:$w/kit/site YOLODATA_CUDA_ARCHS
  YOLODATA_CUDA_ARCHS=$(cat "$kit/arch")
  [[ -e $photographs/coco-mini/data.yaml ]] && export YOLODATA_TEST_DATA=$photographs
else
  photographs=${YOLODATA_TEST_DATA:-$w/none}
fi
export PATH="$PATH:/usr/local/cuda/bin:/usr/local/cuda/compute-sanitizer"
for tool in /opt/nvidia/nsight-compute/*/; do [[ -d $tool ]] && PATH="$PATH:${tool%/}"; done
[[ $device == cpu ]] || export YOLODATA_REQUIRE_GPU=1
cores=$(env -u OMP_NUM_THREADS nproc) # which it would heed

usable() {
  python3 -c 'import sys, torch; from yolodata import _native as n; print("CUDA", n.cuda_build(), "torch", torch.__version__,
torch.cuda.is_available()); sys.exit(n.cuda_build() == "none" and sys.argv[1] != "cpu")' "$device"
}

lacking() { # what cannot be imported, by name, before any time is spent; fails if nothing goes without it
  python3 - <<'P'
import importlib, importlib.util, sys
needed = ["torch", "ultralytics", "numpy", "cv2", "PIL", "simplejpeg", "safetensors", "xxhash", "yaml", "tqdm", "fsspec",
          "psutil", "tenacity", "pytest", "hypothesis"]
missing = [name for name in needed if importlib.util.find_spec(name) is None]
for name, loss in (("nvidia.dali", "rows and tests with JPEG on the GPU"), ("pynvml", "the GPU's busy share"),
                   ("albumentations", "its row, and the tests of its transforms")):
    try:
        importlib.import_module(name)
    except ImportError as error:
        print(f"{name} cannot be imported ({error}): {loss} will be missing")
if missing:
    sys.exit(f"install {' '.join(missing)} for {sys.executable} first")
P
}

prepare() {
  local suffix core
  mkdir -p "$w/config" "$w/cache"
  if [[ -e $kit/kit.tar.xz && ! -e $w/kit.done ]]; then
    mkdir -p "$w/kit"
    python3 - "$kit/kit.tar.xz" "$w/kit" <<'P' || { echo "the kit cannot be unpacked"; exit 1; }
import sys, tarfile
with tarfile.open(sys.argv[1], "r:xz") as tar:
    tar.extractall(sys.argv[2], filter="data")
P
    # Not PYTHONPATH alone: some tests give their children another one.
    echo "$w/kit/site" >"$(python3 -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/yolodata-visit.pth"
    touch "$w/kit.done"
  fi
  {
    nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.sm,clocks.max.sm --format=csv,noheader
    python3 --version; nvcc --version | tail -n 2; c++ --version | head -n 1; ldd --version | head -n 1
    echo "$cores cores, $(free -g | awk '/Mem:/{print $2}') GiB, $(git rev-parse --short=12 HEAD || cat "$kit/commit")"
    df -h /tmp /dev/shm | tail -n 2; ulimit -n
  } >"$w/logs/machine.log" 2>&1
  head -n 3 "$w/logs/machine.log"
  lacking 2>&1 | tee "$w/logs/lacking.log"
  ((PIPESTATUS[0] == 0)) || { collect; exit 1; }
  if [[ -e $kit/kit.tar.xz ]]; then # a core that lies here may be of other sources
    suffix=$(python3 -c 'import sysconfig; print(sysconfig.get_config_var("EXT_SUFFIX"))')
    core=$repo/yolodata/_native$suffix
    rm -f "$core"
    if [[ $(bash "$here/visit.sh" --sources) == "$(cat "$kit/sources" 2>/dev/null)" ]]; then
      cp "$w/kit/native.so" "$core" 2>/dev/null
    fi
  fi
  if ! usable >"$w/logs/core.log" 2>&1; then
    say "there is no core that loads and is of these sources: it is built here"
    [[ ${core:-} ]] && rm -f "$core"
    (timeout 150 python3 setup.py -q build_ext --inplace && usable) >>"$w/logs/core.log" 2>&1 ||
      { tail -n 30 "$w/logs/core.log"; collect; exit 1; }
  fi
  say "core: $(tail -n 1 "$w/logs/core.log")"
  if [[ $device == cuda ]]; then # Ultralytics' workers keep four batches each there
    mount -o remount,size="$(($(free -g | awk '/Mem:/{print $2}') / 2))G" /dev/shm 2>/dev/null
  fi
}

make_data() { # the pictures of all benchmarks
  python3 - "$w/data" "$images" "$many" "$imgsz" <<'P'
import sys
from pathlib import Path
from yolodata.bench import data
images, many, imgsz = map(int, sys.argv[2:])
wanted = data.Wanted(None, images, many, imgsz, 0)
print(data.prepare(wanted, Path(sys.argv[1]), {"files", "raw", "raw-many", "jpeg"}, print).by_codec)
P
}

# GPU tests are found by their mark, and run file by file, side by side.
# shellcheck disable=SC2329 # bash -c calls it
run_tests() { # EXPRESSION SECONDS: those whose names fit; 1 if one failed
  local test found name failed=0 begun=()
  # Without pytest-xdist, which is not there.
  test=(python3 -m pytest -q -p no:cacheprovider -o addopts=--import-mode=importlib -m gpu -k "$1")
  mapfile -t found < <(grep -l 'mark\.gpu' tests/test_*.py) # others may need what is not there
  "${test[@]}" --collect-only "${found[@]}" >"$w/logs/collect-$3.log" 2>&1
  mapfile -t found < <(grep -oE '^tests/[a-z_/]+\.py' "$w/logs/collect-$3.log" | sort -u)
  grep -a '^SKIPPED' "$w/logs/collect-$3.log" # a module whose imports are missing
  grep -a '^ERROR' "$w/logs/collect-$3.log" && failed=1
  ((${#found[@]})) || { echo "no test fits -m gpu -k '$1'"; return 1; }
  for name in "${found[@]}"; do
    timeout --kill-after=4 "$2" "${test[@]}" --durations=5 "$name" >"$w/logs/tests-$(basename "$name" .py)-$3.log" 2>&1 &
    begun+=($!)
  done
  for i in "${!found[@]}"; do
    wait "${begun[i]}"
    rc=$?
    ((rc)) && failed=1
    echo "${found[i]}: status $rc; $(tail -n 1 "$w/logs/tests-$(basename "${found[i]}" .py)-$3.log")"
    ((rc)) && grep -aE '^(FAILED|ERROR)|^E  ' "$w/logs/tests-$(basename "${found[i]}" .py)-$3.log" | head -n 20
  done
  return $failed
}
export -f run_tests make_data
if [[ $list ]]; then
  cores=16
else
  prepare
  (while sleep 15; do collect 2>/dev/null; done) & # whatever stops this script, the logs are there
  collector=$!
  trap 'kill "$collector" 2>/dev/null' EXIT
fi

images=256 many=$((128 * cores > 2048 ? 128 * cores : 2048)) imgsz=640
probe=(python3 "$here/probe.py" "$w/data/raw/train")
small=() # of the probe
bench=(python3 -m yolodata.bench --keep "$w/data" --rounds 3 --seconds 0.5)
train=(python3 -m yolodata.bench train --keep "$w/data" --device "$device")
n=(--model yolo26n.yaml --batch 128 --amp --rounds 3 --steps 10)
memory=()
doctor_of=(batch=128 --seconds 45)
right=120 # seconds of what is only right or wrong
if [[ $device == cpu ]]; then
  images=8 many=16 imgsz=64 cores=2 right=240
  small=(--device cpu --imgsz 64 --batch 4 --rounds 2)
  bench=(python3 -m yolodata.bench --keep "$w/data" --rounds 1 --seconds 0.05 --batch 2 --gpu-batch 2)
  n=(--model yolo26n.yaml --batch 2 --rounds 1 --steps 1)
  memory=(--batch 2)
  doctor_of=(batch=2 imgsz=64 --seconds 8)
fi
export w images many imgsz
bench+=(--images "$images" --many "$many" --imgsz "$imgsz")
train+=(--images "$images" --many "$many" --imgsz "$imgsz")

# ---- right or wrong: side by side; the pictures of the benchmarks are made meanwhile
sanitize=(env PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --error-exitcode 9) # every tensor has bounds of its own
side() { # in the background, but for --list
  if [[ $list ]]; then stage "$@"; else stage "$@" & fi
}
stage smoke 60 python3 benchmarks/small_render.py --device "$device"
show smoke 'DIFFERENT|Error' 8
side data 120 bash -c make_data
if [[ $device == cuda ]]; then
  side memcheck 60 "${sanitize[@]}" --tool memcheck python3 benchmarks/small_render.py
  side racecheck 60 "${sanitize[@]}" --tool racecheck python3 benchmarks/small_render.py
fi
side tests 100 bash -c 'run_tests "$@"' run_tests 'not train and not memory_is_freed' 90 quick
wait_for_stages
for name in memcheck racecheck; do show "$name" 'ERROR SUMMARY|RACECHECK SUMMARY' 3; done
show tests 'status|SKIPPED|FAILED|ERROR|^E  ' 40
show data 'Error' 4

# ---- fast or slow: one after the other
stage probe 40 "${probe[@]}" "$w/results/gpu-kernel.json" "${small[@]}"
show probe 'img/s|FAILED|driver'
if [[ $list || -e $w/kit/also.so ]]; then
  if [[ ! $list ]] && is_wanted probe-also; then # our Python around the other core
    mkdir -p "$w/also"
    cp -r yolodata "$w/also/"
    cp "$w/kit/also.so" "$w/also/yolodata/$(basename "$(python3 -c 'from yolodata import _native; print(_native.__file__)')")"
  fi
  stage probe-also 40 env PYTHONPATH="$w/also:${PYTHONPATH#*:}" "${probe[@]}" "$w/results/gpu-kernel-also.json" \
    --note "the core of commit $(cat "$w/kit/also" 2>/dev/null)" "${small[@]}"
  show probe-also 'img/s|FAILED'
fi
if [[ $device == cuda ]]; then
  stage raw 85 "${bench[@]}" --start-limit 35 --only 'gpu-copy-*' --only 'gpu-yolodata-raw-*' \
    --json "$w/results/gpu-raw.json"
else
  stage raw 85 "${bench[@]}" --only 'yolodata-raw-1' --only 'copy-1' --json "$w/results/gpu-raw.json"
fi
show raw '^yolodata,|^copy|FAILED|left out|waiting'
stage few 95 "${train[@]}" "${n[@]}" --start-limit 60 --cores 2 --only 'fixed-2' --only 'yolodata-raw-2' \
  --only 'ultralytics-2' --json "$w/results/gpu-train-n-2.json"
show few '^yolodata,|never|^Ultralytics,|FAILED|failed|left out|waiting'
if [[ $device == cuda ]]; then
  stage theirs 125 "${train[@]}" "${n[@]}" --start-limit 45 --cores "$cores" --only "fixed-$cores" \
    --only "yolodata-raw-$cores" --only "ultralytics*-$cores" --json "$w/results/gpu-train-n-theirs.json"
  show theirs '^yolodata,|never|^Ultralytics,|FAILED|failed|left out|waiting'
fi
stage profile 75 "${train[@]}" "${n[@]}" --rounds 1 --steps 4 --profile --start-limit 60 --cores "$cores" \
  --only "fixed-$cores" --only "yolodata-raw-$cores" --json "$w/results/gpu-profile.json"
show profile 'profiler|before the first|FAILED' 30
if [[ $device == cuda ]]; then # 128 pictures of the medium model do not fit into 80 GB: 0.6 GB of activations each
  stage train-m 100 "${train[@]}" --model yolo26m.yaml --batch 64 --amp --rounds 3 --steps 6 --start-limit 45 \
    --cores "$cores" --only "fixed-$cores" --only "yolodata-raw-$cores" --only "ultralytics-$cores" \
    --json "$w/results/gpu-train-m.json"
  show train-m '^yolodata,|never|^Ultralytics,|FAILED|failed|left out|waiting|GiB'
  stage jpeg 75 "${bench[@]}" --start-limit 40 --only gpu-dali --only 'gpu-yolodata-jpeg-*' \
    --json "$w/results/gpu-jpeg.json"
  show jpeg '^yolodata,|^DALI,|FAILED|left out|waiting'
fi

# ---- trainings that are right or wrong: side by side
side resume-fp16 "$right" python3 "$here/training.py" resume "$w/resume-fp16" --device "$device"
[[ $device == cpu ]] || side resume-bf16 "$right" python3 "$here/training.py" resume "$w/resume-bf16" --device "$device" --amp bf16
side ddp "$right" python3 "$here/training.py" ddp "$w/ddp" --device "$device"
side oom "$right" python3 "$here/training.py" oom "$w/oom" --device "$device"
side trains "$right" bash -c 'run_tests "$@"' run_tests 'train and not memory_is_freed' $((right - 10)) train
wait_for_stages
for name in "${training[@]}"; do show "$name" '^training|status|FAILED|ERROR|^E  |does not suffice' 14; done

# ---- what is left
stage memory 75 python3 "$here/memory.py" "$w/data/raw-many/train" "$w/data/jpeg/train" "$w/results/gpu-memory.json" \
  --device "$device" "${memory[@]}"
show memory '^memory' 24
if [[ $device == cuda ]]; then
  stage peers 75 "${bench[@]}" --start-limit 45 --only gpu-copy-host --only "gpu-ultralytics-none-$cores" \
    --json "$w/results/gpu-peers.json"
  show peers '^Ultralytics,|^copy|FAILED|left out|waiting'
  stage freed 60 python3 -m pytest -q -p no:cacheprovider -o addopts=--import-mode=importlib -m gpu -k memory_is_freed tests/test_d*.py # nobody else may use memory
  show freed 'passed|failed|FAILED|^E  ' 8
fi
stage decode 75 python3 "$here/decode.py" "$photographs" "$w/data/jpeg/train" "$w/results/gpu-decode.json" --device "$device"
show decode '^decode:' 30
if [[ $device == cuda ]]; then
  stage ncu 45 ncu --clock-control none -k 'regex:render_kernel' -s 24 -c 1 --section SpeedOfLight --section Occupancy \
    --section SchedulerStats --section WarpStateStats --section InstructionStats --section MemoryWorkloadAnalysis \
    --section ComputeWorkloadAnalysis "${probe[@]}" - --launches 24 --only gpu-kernel-uint8
  show ncu 'Duration|Throughput|Achieved Occ|Executed Ipc|Issue Slots|Executed Instr|Spilling Req|Hit Rate|Active Warps' 24
fi
# What the doctor says of a set-up with Ultralytics' loader, and with ours; 1 is that it complains.
doctor=(bash -c '"$@"; (($? < 2))' doctor python3 -m yolodata doctor)
doctor_of=(model=yolo26n.yaml "device=${device/cuda/0}" "${doctor_of[@]}" --only machine --only data --only memory)
stage doctor 75 "${doctor[@]}" "$w/data/set/data.yaml" "${doctor_of[@]}" --json "$w/results/gpu-doctor-theirs.json"
show doctor 'waits|complain|measured|calculated|:' 40
stage doctor-ours 75 "${doctor[@]}" "$w/data/raw" "${doctor_of[@]}" --json "$w/results/gpu-doctor-ours.json"
show doctor-ours 'waits|complain|measured|calculated|:' 40
if [[ $device == cuda ]]; then
  stage train-n 90 "${train[@]}" "${n[@]}" --rounds 5 --steps 16 --start-limit 60 --cores "$cores" --only "fixed-$cores" \
    --only "yolodata-*-$cores" --json "$w/results/gpu-train-n.json"
  show train-n '^yolodata,|never|FAILED|GiB'
fi
[[ $list ]] && exit 0

kill "$collector" 2>/dev/null
failed=0
{
  cat "$w/logs/machine.log"
  for name in "${wanted[@]}"; do
    result=$(cat "$w/status/$name" 2>/dev/null || echo 'did not run')
    printf '%-12s %s\n' "$name" "$result"
  done
  python3 benchmarks/tables.py --results "$w/results" 2>&1
  grep -ahE 'img/s' "$w"/logs/probe*.log 2>/dev/null
} >"$w/report.txt"
collect
for name in "${wanted[@]}"; do
  grep -qE 'FAILED|stopped' "$w/status/$name" 2>/dev/null && failed=1
done
echo
cat "$w/report.txt"
echo "all of it: $SECONDS s; in $out: $(ls "$out" | tr '\n' ' ')"
exit "$failed"
