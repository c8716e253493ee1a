# Chats as text and ids.
cat >lines <<'END'
{"messages": [{"role": "user", "content": "Hello"}], "add_generation_prompt": true}
{"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]}
END
upg tokenize data/phi4-micro --chat <lines || exit
for line in '{"messages": 1}' '{"messages": [{"role": "user"}]}' '{"messages": [{"content": "x"}]}' \
    '{"messages": [], "add_generation_prompt": 1}' '{"messages": [], "tools": []}'; do
    echo "$line" | upg tokenize data/phi4-micro --chat
    echo "[exit ${PIPESTATUS[1]}]"
done
