# Calibration and evaluation texts that cannot be used: named, and nothing is written.
printf 'Too short.' >short
: >empty
printf '\377\376T\0e\0x\0t\0' >utf16
head -c 4000 data/phi4-micro/model.safetensors >binary
for what in calibration eval; do
    for text in short empty utf16 binary absent; do
        try upg compress data/phi4-micro -o out.upg --$what $text --quiet
    done
done
try upg compress data/phi4-micro -o out.upg --eval-windows 3 --quiet
mkdir model && cp data/phi4-micro/config.json data/phi4-micro/model.safetensors model
printf 'A text.' >text
try upg compress model -o out.upg --calibration text --quiet
upg compress model -o out.upg >/dev/null 2>log || exit
grep -c 'no calibration, since the checkpoint has no tokenizer.json' log
try upg compress out.upg -o again.upg --quiet
ls -A
