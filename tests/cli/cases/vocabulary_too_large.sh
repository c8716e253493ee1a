# A tokenizer with more tokens than the embedding has rows.
tamper copy data/phi4-micro model
python3 - <<'END'
import json
path = "model/tokenizer.json"
fields = json.load(open(path, encoding="utf-8"))
extra = dict(fields["added_tokens"][0], id=8192, content="<|one_too_many|>")
fields["added_tokens"].append(extra)
json.dump(fields, open(path, "w", encoding="utf-8"))
END
try upg run model -p text
try upg eval model --text model/config.json
