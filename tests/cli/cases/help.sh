# Every help text: the list of commands, each command, the exit codes.
upg help || exit
upg --help | cmp - <(upg help) || exit
for topic in compress run chat eval tokenize inspect verify bench doctor exit-codes; do
    printf '\n===== %s\n' "$topic"
    upg help "$topic" || exit
done
upg run --help | cmp - <(upg help run)
