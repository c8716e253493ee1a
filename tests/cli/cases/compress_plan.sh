# --plan-only prints a table whose losses are called predicted, with --json an object; it writes
# nothing.
upg compress data/phi4-micro -o out.upg --plan-only --quiet >table || exit
sed -n '1,2p;4,6p' table | tr -s ' ' | sed 's/[0-9.e-]\{3,\}/N/g'
grep -c 'model.layers' table
grep '^predicted KL' table | sed 's/[0-9.]\{3,\}/N/'
upg compress data/phi4-micro -o out.upg --plan-only --json --quiet >plan || exit
python3 - <<'END'
import json
plan = json.load(open("plan"))
bands = [b for m in plan["matrices"] for b in m["bands"]]
assert len(plan["matrices"]) == 30 and all(b["rate"] in (2, 2.5, 3, 3.5, 4, 5) for b in bands)
assert abs(sum(b["predicted_kl"] for b in bands) - plan["predicted_kl"]) < 1e-6
assert .99 * 3.2 <= 8 * plan["weight_bytes"] / plan["parameters"] <= 3.2
END
ls -A
