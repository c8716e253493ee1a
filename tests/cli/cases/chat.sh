# One message a line from a pipe; --message says the same; the history is kept.
printf 'Hello.\nWho are you?\n' | upg chat micro.upg -n 24 --temp 0 --quiet >one || exit
upg chat micro.upg -n 24 --temp 0 --quiet -m 'Hello.' -m 'Who are you?' >two || exit
cmp one two && echo "pipe and options: equal"
upg chat micro.upg -n 24 --temp 0 --quiet -m 'Who are you?' >three || exit
tail -n +"$(($(wc -l <one) - $(wc -l <three) + 1))" one | cmp -s - three || echo "history: matters"
upg chat micro.upg -n 24 --temp 0 --quiet -m 'Hello.' --system 'You are a ship.' >four || exit
cmp -s four <(head -n 1 one) || echo "system: matters"
