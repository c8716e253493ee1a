# JSON keys; the text calls the estimate one.
upg doctor --json | json_keys cpu isa cores topology pinned memory_total read_gb_s_1 read_gb_s_all gpu \
    phi4_estimate.kind phi4_estimate.tokens_per_second
upg doctor | grep -o 'Estimate from the bandwidth above, not a measurement'
