# Files that are not there: exit code 3, the path in the message.
try upg run missing -p text --quiet
try upg chat missing -m text --quiet
try upg eval missing --text missing.txt --quiet
try upg eval data/phi4-micro --text missing.txt --quiet
try upg eval data/phi4-micro --ids missing.npy --quiet
try upg tokenize missing
try upg inspect missing --quiet
try upg verify missing --quiet
try upg compress missing -o out.upg --quiet
try upg run data/phi4-micro -f missing.txt --quiet
