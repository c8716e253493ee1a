#!/bin/bash
# Tests and measures the cuda backend on the machine that has the GPU.
#
#     scripts/gpu_campaign.sh FOLDER RESULTS [memcheck] [racecheck]
#
# FOLDER holds libupg_cuda.so, the tests named below and cuda_bench of one build, and in lib/ the shared
# libraries that the machine may lack; RESULTS receives tests.txt, bench.txt, bench.json. To build:
#
#     cmake -B build/cuda -DCMAKE_BUILD_TYPE=Release -DUPG_CUDA=ON
#     cmake --build build/cuda --target upg_cuda cuda_backend_test cuda_draw_test \
#         cuda_outliers_test cuda_race_test cuda_bench
#
# racecheck sees shared memory only: what blocks tell each other through global memory is out of its
# sight; that is checked by results, which must not differ from run to run. The tests look for data where the sources were when it was built.
set -u
folder=$(cd "$1" && pwd) results=$2
mkdir -p "$results"
export LD_LIBRARY_PATH=$folder/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
export UPG_CUDA_MODULE=$folder/libupg_cuda.so

nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader | tee "$results/gpu.txt"
timeout -s KILL 120 "$folder/cuda_backend_test" >"$results/tests.txt" 2>&1
status=$?
for test in cuda_draw_test cuda_outliers_test cuda_race_test; do
    timeout -s KILL 60 "$folder/$test" >>"$results/tests.txt" 2>&1 || status=1
done
grep -E '^\[|greedy|one launch against' "$results/tests.txt"
timeout -s KILL 240 "$folder/cuda_bench" "$results/bench.json" 2>&1 | tee "$results/bench.txt"
shift 2
if [[ " $* " = *" memcheck "* ]]; then
    # The test asks for more memory than there is on purpose: API errors are not what is looked for.
    timeout -s KILL 240 compute-sanitizer --tool memcheck --report-api-errors no --error-exitcode 9 \
        "$folder/cuda_backend_test" >"$results/memcheck.txt" 2>&1 || status=1
    tail -2 "$results/memcheck.txt"
fi
if [[ " $* " = *" racecheck "* ]]; then
    timeout -s KILL 120 compute-sanitizer --tool racecheck --error-exitcode 9 \
        "$folder/cuda_race_test" >"$results/racecheck.txt" 2>&1 || status=1
    tail -2 "$results/racecheck.txt"
fi
exit $status
