# config.json without a field, with a value that cannot be, of an unknown architecture, not JSON.
tamper copy data/phi4-micro model
tamper config model hidden_size
try upg run model -p text
tamper config model hidden_size '"large"'
try upg run model -p text
tamper config model hidden_size 0
try upg run model -p text
tamper config model hidden_size 256
tamper config model architectures '["GPT2LMHeadModel"]'
try upg run model -p text
echo '{"architectures": [' >model/config.json
try upg run model -p text
