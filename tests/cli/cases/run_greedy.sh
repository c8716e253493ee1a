# The continuation alone on stdout, the same every time; nothing on stderr with --quiet.
upg run data/phi4-micro -p "It was a dark" -n 12 --temp 0 --quiet >one || exit
upg run data/phi4-micro -p "It was a dark" -n 12 --temp 0 --quiet --threads 1 >two || exit
cat one
cmp one two
