# A checkpoint with random weights: same bytes for any number of threads, compresses; what is refused.
upg synth one --arch phi4-micro --layers 1 --tokenizer data/phi4-micro --shard-size 3M -q || exit
upg synth two --arch phi4-micro --layers 1 --tokenizer data/phi4-micro --shard-size 3M -q -t 1
ls one
for file in one/*; do cmp "$file" "two/${file#one/}"; done
upg synth three --config data/phi4-micro/config.json --seed 5 --heavy-tailed -q
ls three
upg compress one -o one.upg --no-calibration -q | head -n 1
# A .upg file of random codes: whole, runnable, the same weights as those made in memory.
upg synth coded.upg --coded --arch phi4-micro --layers 1 --tokenizer data/phi4-micro -q || exit
upg verify coded.upg -q
upg run coded.upg -p "Once" -n 4 --temp 0 -q >text && [ -s text ] && echo "coded: runs"
try upg synth coded.upg --coded --arch phi4-micro -q
try upg synth other.upg --coded --config data/phi4-micro/config.json -q
try upg synth other.upg --coded --arch phi4-micro --seed 3 -q
try upg synth one --arch phi4-micro -q
try upg synth four -q
try upg synth four --arch phi5 -q
try upg synth four --arch phi4-micro --config data/phi4-micro/config.json
try upg synth four --config none.json -q
try upg synth four --arch phi4-micro --tokenizer none -q
sed 's/8192/4000/; s/8191/3998/; s/8188/3999/' data/phi4-micro/config.json >small.json
try upg synth four --config small.json --tokenizer data/phi4-micro -q
try upg synth none/four --arch phi4-micro -q
ls
