# Guesses change nothing about the text, greedy or sampled; the statistics count them.
text="The cat sat on the mat. The dog sat on the mat. The cat sat on the"
for options in "--temp 0" "--temp 0.5 --seed 3" "--temp 0.8 --seed 4 --repeat-penalty 1.1" "--temp 0 --kv-int8"; do
    upg run micro.upg -p "$text" -n 120 --quiet $options >plain
    for draft in 1 4 7; do
        upg run micro.upg -p "$text" -n 120 --quiet $options --draft $draft | cmp - plain && echo same
    done
done
upg run micro.upg -p "$text" -n 120 --temp 0 --draft 7 2>&1 >/dev/null | grep -oE "decode 120 tokens|[1-9][0-9]* guessed" | sed 's/^[0-9]* g/N g/'
upg bench micro.upg -n 4 -p 0 -r 5 -t 1 --draft 3 --json --quiet | python3 -c 'import json, sys
plain, guessing = json.load(sys.stdin)["cases"][1:]
print(plain["name"], plain["guessed"], guessing["name"], 0.4 < guessing["guessed"] < 0.75)'
try upg run micro.upg -p "$text" --draft 8
