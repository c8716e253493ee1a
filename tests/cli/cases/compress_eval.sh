# --eval runs the file beside the checkpoint and stores the figures; inspect shows them, as a table, as
# JSON and as a page; retention is the ratio of the two perplexities.
python3 -c 'print("The old man walked down to the river and looked at the boats. " * 120)' >text
upg compress data/phi4-micro -o out.upg --no-calibration --eval text --eval-windows 2 --json --quiet \
    >result || exit
json_keys --last evaluation.perplexity evaluation.original_perplexity evaluation.retention \
    evaluation.kl_mean evaluation.kl_p99 evaluation.top1_agreement evaluation.tokens <result
upg verify out.upg --quiet
upg inspect out.upg --json >inspected
upg eval out.upg --text text --windows 2 --against data/phi4-micro --json --quiet >again
upg inspect out.upg --quality --html page.html | grep -c 'retention'
python3 - <<'END'
import json
e = json.loads(open("result").read().splitlines()[-1])["evaluation"]
q = json.load(open("inspected"))["quality"]
again = json.load(open("again"))
assert q["evaluation"] == e
assert abs(e["retention"] - e["original_perplexity"] / e["perplexity"]) < 1e-6
assert e["tokens"] == 2 * 511 and e["kl_mean"] > 0
# the text has more than two windows: those of --eval are spread, so the figures are only alike
assert .5 < again["kl_mean"] / e["kl_mean"] < 2
page = open("page.html").read()
assert f'{e["kl_mean"]:.6f} nats' in page and page.count("<svg") > 10 and "http" not in page
END
try upg inspect out.upg --html page.html
upg inspect out.upg --html page.html --force
upg inspect micro.upg --quality | head -1
ls -A
