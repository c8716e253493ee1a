# Rows that cannot be measured say why; the chart ends at the limit. A small shape, so that it is fast.
upg bench table --synthetic phi4-micro --python no-such-python --svg chart.svg --json >result || exit
python3 -c 'import json, xml.dom.minidom
table = json.load(open("result"))
for row in table["rows"]:
    print(row["name"], "measured" if row.get("tok_s", 0) > 0 and row["layer_ms"] > 0 else "not",
          row.get("launches"), row.get("computed"))
print(table["rows"][0]["why_not"], "|", table["read_gb_s"] > 0, table["limit_tok_s"] > 0)
texts = [node.firstChild.data for node in xml.dom.minidom.parse("chart.svg").getElementsByTagName("text")]
print(sum("tok/s" in text for text in texts), "%.2f" % table["limit_tok_s"] in texts)'
upg bench table --synthetic phi4-micro --python no-such-python | grep -E "^Python" | cut -c 1-57
try upg bench micro.upg --svg chart.svg
try upg bench table --synthetic phi4-micro --python no-such-python --svg missing/chart.svg
