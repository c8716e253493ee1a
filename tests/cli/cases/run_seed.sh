# The same seed gives the same text, whatever the threads; another seed another text.
write() {
    upg run micro.upg -p "The old man" -n 40 --temp 1 --top-p 0.95 --quiet "$@"
}
write --seed 1 -t 1 >one || exit
write --seed 1 -t 2 >two || exit
write --seed 2 >three || exit
cmp one two && echo "same seed: same text"
cmp -s one three || echo "other seed: other text"
