# A NaN among the weights: named with tensor and position; no output.
tamper copy data/phi4-micro model
tamper nan model model.layers.1.mlp.down_proj.weight 5000
try upg compress model -o out.upg --quiet
try upg run model -p text --check --quiet
ls -A
