# A whole file; one bit flipped anywhere: found, with chunk and tensor; cut off; no such file.
cp micro.upg copy.upg
try upg verify copy.upg --quiet
for offset in 3 100 5000 2000000; do
    cp micro.upg copy.upg
    tamper flip copy.upg $offset
    upg verify copy.upg --quiet >out
    echo "flipped at $offset: exit $?, $(grep -o 'damaged: first bad chunk at byte [0-9]*' out)"
done
for offset in -1 -300; do
    cp micro.upg copy.upg
    tamper flip copy.upg $offset
    upg verify copy.upg --quiet >out
    echo "flipped at $offset: exit $?, $(grep -o '^damaged' out)"
done
tamper truncate copy.upg 5000
upg verify copy.upg --quiet >out
echo "cut: exit $?, $(grep -o '^damaged' out)"
cp micro.upg copy.upg
tamper flip copy.upg 2000000
upg verify copy.upg --quiet | grep -cE '"(model\.layers|lm_head)[a-z0-9._]*"'
upg run copy.upg -p text -n 1 --check --quiet 2>/dev/null
echo "run --check: exit $?"
