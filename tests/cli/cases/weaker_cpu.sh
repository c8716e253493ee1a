# Without AVX-512 and AVX2 the same program runs, says so, and gives the same text.
for cpu in avx2 scalar; do
    UPG_CPU=$cpu upg doctor --json | python3 -c 'import json, sys
print(json.load(sys.stdin)["isa"] in ("none", sys.argv[1]))' $cpu
    UPG_CPU=$cpu upg run micro.upg -p "The old man" -n 12 --exact-prompts -q >"$cpu.txt" || exit
    upg run micro.upg -p "The old man" -n 12 --exact-prompts -q | cmp - "$cpu.txt" && echo same
done
