# The index names a shard that is not there.
tamper copy data/phi4-micro model
tamper shard model
try upg compress model -o out.upg
try upg run model -p text
ls -A
