# The JSON form holds the measured and the limit.
upg bench micro.upg -n 8 -p 16 -r 5 --json --quiet >result || exit
json_keys device read_gb_s bytes_per_token decode.median decode.min decode.max decode.limit \
    decode.share_of_limit prefill.median <result
printf 'The quick brown fox. %.0s' {1..500} >text.txt
upg bench micro.upg --tokenizer text.txt -r 5 --json | json_keys tokenizer.median tokenizer.bytes tokenizer.tokens
upg bench micro.upg -n 8 -p 0 -r 5 --quiet | grep -cE "^(decode|  memory|  share)"
try upg bench micro.upg -n 2000 --quiet
