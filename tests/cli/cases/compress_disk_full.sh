# A full disk: said so, exit code 5 (retryable); the temporary file is gone, the journal is kept, and
# with more room the work goes on.
mkdir small
mount -t tmpfs -o size=1m tmpfs small 2>/dev/null || { echo "mounting a small tmpfs is not allowed here"; exit 77; }
trap 'umount small' EXIT
try upg compress data/phi4-micro -o small/out.upg --no-calibration --quiet 2>&1 |
    sed -E "s/m[0-9]+: writing at byte [0-9]+/M: writing at byte N/"
ls -A small
mount -o remount,size=20m small
try upg compress data/phi4-micro -o small/out.upg --no-calibration --quiet --resume >/dev/null
ls -A small
