# Text to ids and back, line by line; special tokens as in Hugging Face's tokenizers.
cat >lines <<'END'
{"text": "Hello, world!"}
{"text": ""}

{"text": "caf\u00e9 \ud83d\ude00 <|im_end|>", "other keys": "are ignored"}
{"text": "NUL \u0000 inside"}
END
upg tokenize data/phi4-micro <lines >ids || exit
upg tokenize data/phi4-micro --decode <ids
upg tokenize data/phi4-micro --decode --skip-special <ids | sed -n 3p
upg tokenize data/phi4-micro/tokenizer.json <lines | cmp - ids
upg tokenize micro.upg <lines | cmp - ids
upg tokenize micro.upg --plain <lines | cmp -s - ids || echo "--plain: other ids"
