# A file of a newer major format version, whose checksums match: refused by name, exit code 4.
cp micro.upg newer.upg
chmod u+w newer.upg
tamper replace newer.upg '"format":"upg","version":"1.' '"format":"upg","version":"9.'
restamp newer.upg || exit
try upg run newer.upg -p text --quiet
try upg inspect newer.upg
try upg verify newer.upg --quiet
