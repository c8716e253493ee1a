# A conversation longer than the context: both counts, exit code 6.
try upg chat micro.upg -c 32 -m "$(printf 'word %.0s' {1..100})" --quiet
