# Generation that fills the context: what there is is shown, exit code 6; --shift goes on.
upg run data/phi4-micro -p "The sea" -c 16 -n 60 --temp 0 --quiet
echo "[exit $?]"
upg run data/phi4-micro -p "The sea" -c 16 -n 60 --temp 0 --shift 2>&1 >/dev/null | grep -o 'decode [0-9]* tokens'
