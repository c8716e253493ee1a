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
try upg compress model -o out.upg --quiet
upg compress model -o out.upg --no-calibration --quiet >/dev/null || exit
try upg compress out.upg -o again.upg --quiet
ls -A
