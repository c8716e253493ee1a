#!/bin/bash
# On the GPU machine, from the repository root: tests of every variant, a sweep, the fastest in full,
# ncu of a prompt, memcheck, racecheck. FOLDER/gpu_variants.sh RESULTS; FOLDER holds v6.so (all), v5.so
# (without keys ahead), v2.so, v1.so (fewer changes), base.so, cuda_backend_test, cuda_bench, lib/
G=$(cd "$(dirname "$0")" && pwd); O=$1; T0=$(date +%s)
el() { echo $(( $(date +%s) - T0 )); }
export LD_LIBRARY_PATH=$G/lib
mkdir -p /tmp/wt /tmp/r; ln -sfn $PWD /tmp/wt/cuda2
nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv,noheader | tee $O/gpu.txt
for v in v6 v5 v2 v1; do
  ( UPG_CUDA_MODULE=$G/$v.so UPG_G=8 timeout -s KILL 45 $G/cuda_backend_test >/tmp/r/t_$v.txt 2>&1; echo $? >/tmp/r/rc_$v ) &
done
wait
ok=""
for v in v6 v5 v2 v1; do
  rc=$(cat /tmp/r/rc_$v); echo "TEST $v rc $rc at $(el)"; grep -E "FAILED|Error|differs|instead|greedy" /tmp/r/t_$v.txt | head -8
  echo "===== $v" >>$O/tests.txt; cat /tmp/r/t_$v.txt >>$O/tests.txt
  [ $rc = 0 ] && ok="$ok $v"
done
echo "OK:$ok"
[ -z "$ok" ] && ok=" v6"
best=0; bv=; bg=1; bw=8; bs=0
sweep() { # module, counters
  echo "== sweep $1 G $2 at $(el)"
  UPG_G=$2 UPG_SWEEP=decode UPG_CUDA_MODULE=$G/$1.so timeout -s KILL 25 $G/cuda_bench /tmp/r/x.json 40 >/tmp/r/s.txt 2>&1 || echo "sweep rc $?"
  cat /tmp/r/s.txt | tee -a $O/sweep.txt | grep -E "sweep|BEST|steps"
  set -- $1 $2 $(grep BEST /tmp/r/s.txt)
  if [ -n "$4" ] && [ "$(echo "$4 > $best" | bc -l 2>/dev/null || awk "BEGIN{print ($4 > $best)}")" = 1 ]; then best=$4; bv=$1; bg=$2; bw=$5; bs=$6; fi
}
set -- $ok; first=$1
sweep $first 1
case $first in v6|v5) sweep $first 8;; esac
sweep base 1
echo "CHOSEN $bv G $bg W $bw S $bs at $best, $(el) s"
export UPG_G=$bg UPG_W=$bw UPG_S=$bs UPG_CUDA_MODULE=$G/$bv.so
timeout -s KILL 60 $G/cuda_bench $O/bench.json 2>&1 | tee $O/bench.txt
echo "bench done at $(el)"
timeout -s KILL 40 $G/cuda_backend_test >/tmp/r/tf.txt 2>&1; echo "final test rc $? at $(el)"; echo "===== final" >>$O/tests.txt; cat /tmp/r/tf.txt >>$O/tests.txt
( UPG_SWEEP=prefill timeout -s KILL 25 ncu --clock-control none --metrics gpu__time_duration.sum -c 24 $G/cuda_bench /tmp/r/x.json 2 >$O/ncu.txt 2>&1 ); grep -E "gpu__time|^  [a-zA-Z_<].*\(" $O/ncu.txt | awk '{print $1,$2,$3}' | paste - - | tail -26
echo "ncu done at $(el)"
timeout -s KILL 60 compute-sanitizer --tool memcheck --report-api-errors no --error-exitcode 9 $G/cuda_backend_test >$O/memcheck.txt 2>&1; echo "memcheck rc $? at $(el)"; tail -2 $O/memcheck.txt
timeout -s KILL 100 compute-sanitizer --tool racecheck --error-exitcode 9 $G/cuda_backend_test >$O/racecheck.txt 2>&1; echo "racecheck rc $? at $(el)"; tail -3 $O/racecheck.txt
