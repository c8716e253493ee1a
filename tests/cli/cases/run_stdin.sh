# A prompt from standard input and from a file.
printf 'It was a dark' >prompt.txt
upg run data/phi4-micro -f - -n 12 --temp 0 --quiet <prompt.txt >one || exit
upg run data/phi4-micro -f prompt.txt -n 12 --temp 0 --quiet >two || exit
cat one
cmp one two
