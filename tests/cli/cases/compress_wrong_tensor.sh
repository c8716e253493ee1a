# Tensors of the wrong dtype, and of another shape than config.json promises.
tamper copy data/phi4-micro model
tamper dtype model lm_head.weight I16
try upg compress model -o out.upg
tamper dtype model lm_head.weight F32
try upg compress model -o out.upg
tamper dtype model lm_head.weight BF16
tamper config model intermediate_size 512
try upg compress model -o out.upg
ls -A
