# A full disk: said so, exit code 5 (retryable), and the temporary file is gone.
mkdir small
mount -t tmpfs -o size=1m tmpfs small 2>/dev/null || { echo "mounting a small tmpfs is not allowed here"; exit 77; }
trap 'umount small' EXIT
try upg compress data/phi4-micro -o small/out.upg --no-calibration --quiet 2>&1 | sed -E "s/[0-9]+ bytes/N bytes/"
ls -A small
