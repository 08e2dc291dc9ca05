# How the scripts of the corpus insist on what they expect. Sourced by each of them.
# shellcheck shell=bash
set -u

wrong() { echo "line ${BASH_LINENO[1]}: $*" >&2; exit 1; }

same() { # WHAT WANTED
    [ "$1" = "$2" ] || wrong "«$1» instead of «$2»"
}
says() { # TEXT COMMAND...: on standard output, with exit code 0
    local text=$1 out
    shift
    out=$("$@" 2>/dev/null) || wrong "«$*» exits with $?"
    grep -qF -- "$text" <<<"$out" || wrong "«$*» does not say «$text»: $out"
}
refuses() { # TEXT COMMAND...: on standard output or error, with exit code 1
    local text=$1 out code=0
    shift
    out=$("$@" 2>&1) || code=$?
    same "$code" 1
    grep -qF -- "$text" <<<"$out" || wrong "«$*» does not say «$text»: $out"
}
field() { pm2 jlist 2>/dev/null | jq -r "$1"; } # of jlist, by jq
until_same() { # FILTER WANTED: waits for it
    local end=$((SECONDS + 60)) found
    while found=$(field "$1"); [ "$found" != "$2" ]; do
        [ $SECONDS -lt $end ] || wrong "$1 stays «$found» instead of «$2»"
        sleep 0.05
    done
}
free_port() { node -e 'const s = require("net").createServer().listen(0, () => { console.log(s.address().port); s.close(); })'; }
until_answers() { # TEXT: what serves on $PORT answers so, be it one of several
    local end=$((SECONDS + 60))
    until [ "$(curl -s "localhost:$PORT")" = "$1" ]; do
        [ $SECONDS -lt $end ] || wrong "nobody answers «$1»"
        sleep 0.05
    done
}
