# On a terminal: commands, answers, Ctrl-C stops an answer and not the program, Ctrl-D ends it; at the
# prompt Ctrl-C ends it with 130.
cat >script <<'END'
wait > 
type /help
wait /new starts anew
type Hello.
wait tok/s
wait > 
type /new
wait > 
type /exit
END
SPLIT_STDOUT=1 on_terminal script upg chat data/phi4-micro --temp 0 -n 20
[ "$(wc -l <stdout)" = 1 ] && echo "one answer on stdout"
cat >script <<'END'
wait > 
type Tell me a long story.
wait  the
key c
wait interrupted
wait > 
type Hello.
wait tok/s
wait > 
key d
END
on_terminal script upg chat data/phi4-micro --device ref --temp 1 --seed 2 -n 250
printf 'wait > \nkey c\n' >script
on_terminal script upg chat data/phi4-micro
