# A disk that is too small: what lacks is named with its parts, exit code 5; and that it would fit
# without a journal.
mkdir small
mount -t tmpfs -o size=6m tmpfs small 2>/dev/null || { echo "mounting a small tmpfs is not allowed here"; exit 77; }
trap 'umount small' EXIT
try upg plan data/phi4-micro --no-calibration -q -o small/out.upg 2>&1 >/dev/null
try upg plan data/phi4-micro --no-calibration -q -o small/out.upg --no-journal >/dev/null
mount -o remount,size=2m small
try upg plan data/phi4-micro --no-calibration -q -o small/out.upg --no-journal 2>&1 >/dev/null
