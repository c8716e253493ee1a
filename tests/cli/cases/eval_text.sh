# Text is cut into windows; the rest that does not fill one is dropped.
printf 'The old man sat by the fire and told a story of the sea. %.0s' {1..60} >text.txt
upg eval micro.upg --text text.txt --window 64 --json --quiet >result || exit
python3 - <<'END'
import json
result = json.load(open("result"))
assert result["tokens"] == 63 * result["windows"] and result["windows"] > 3, result
assert result["perplexity"] < 40, result
END
upg eval micro.upg --text text.txt --window 64 --quiet | sed -E 's/[0-9.]+/N/g'
echo 'Too short.' >short.txt
try upg eval micro.upg --text short.txt --quiet
