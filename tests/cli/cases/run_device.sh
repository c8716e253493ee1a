# A device that is not there is refused, never replaced by another.
try upg run micro.upg -p text --device cuda:0 2>/dev/null
try upg run micro.upg -p text --device abacus 2>log
grep -o 'no device "abacus"' log
