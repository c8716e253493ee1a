# Output that cannot be written is an error, not a silence.
[ -e /dev/full ] || { echo "no /dev/full here"; exit 77; }
upg help >/dev/full
echo "[exit $?]"
upg run micro.upg -p text -n 3 --quiet >/dev/full
echo "[exit $?]"
