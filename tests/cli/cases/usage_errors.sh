# Wrong command lines: each is refused by name, with exit code 2 and nothing on stdout.
try upg
try upg frobnicate
try upg chta
try upg help nothing
try upg help run more
try upg run
try upg run model
try upg run model -p text -f file
try upg run model extra -p text
try upg run model --tmp 1
try upg run model -x
try upg run model --temp
try upg run model --temp=hot
try upg run model --temp 101
try upg run model -n 0
try upg run model -n -5
try upg run model -p a -p b
try upg run model --special=yes
try upg chat
try upg compress folder
try upg compress folder -o out --bpw 0
try upg compress folder -o out --no-calibration --calibration file
try upg compress folder -o out --effort slow
try upg eval model
try upg eval model --text a --ids b
try upg eval model --text a --window 1
try upg tokenize model --decode --chat
try upg tokenize model --skip-special
try upg inspect model --json --program
try upg bench model -r 4
try upg bench model -n 0 -p 0
try upg doctor this
