# Prompts that cannot be continued: too long (both counts, nothing is cut), invalid UTF-8, empty.
try upg run micro.upg -p "$(printf 'word %.0s' {1..1100})" --quiet
try upg run micro.upg -p "one two three four five" -c 5 --quiet
try upg run micro.upg -p "$(printf 'ab\xff\xfe')" --quiet
try upg run micro.upg -p "" --quiet
printf 'tail \xe2\x82' >cut.txt
try upg run micro.upg -f cut.txt --quiet
