# A bad line ends it with its number; the lines before it are answered.
bad() {
    printf '%s\n' '{"text": "good"}' "$1" '{"text": "not reached"}' | upg tokenize data/phi4-micro ${2:-} | wc -l
    echo "[exit ${PIPESTATUS[1]}]"
}
bad 'not JSON'
bad '["no object"]'
bad '{"no text": 1}'
bad '{"text": 7}'
bad '{"text": "a", "text": "b"}'
bad "$(printf '{"text": "\xff"}')"
bad '{"ids": [1]}'
decode() {
    printf '%s\n' "$1" | upg tokenize data/phi4-micro --decode
    echo "[exit ${PIPESTATUS[1]}]"
}
decode '{"ids": "none"}'
decode '{"ids": [1, -1]}'
decode '{"ids": [1, 8192]}'
decode '{"ids": [1.5]}'
