# A safetensors file that was cut off: named with tensor and sizes; no output.
tamper copy data/phi4-micro model
tamper truncate model/model.safetensors 1000
try upg compress model -o out.upg
tamper truncate model/model.safetensors 15980000
try upg compress model -o out.upg
: >model/model.safetensors
try upg compress model -o out.upg
rm model/model.safetensors
try upg compress model -o out.upg
ls -A
