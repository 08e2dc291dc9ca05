# Exit codes, for `set -e`, `||` and `&&`; and what is said in silence.
. "$CORPUS/insist.bash"

code() { # WANTED WORD...
    local wanted=$1 got=0
    shift
    pm2 "$@" >/dev/null 2>&1 || got=$?
    [ $got = "$wanted" ] || wrong "«pm2 $*» exits with $got instead of $wanted"
}
code 0 ping
code 0 start app.js
code 1 start app.js
code 0 stop app
code 0 stop app
code 0 restart app
code 0 describe app
code 1 describe nothing
code 0 env 0
code 1 env nothing
code 0 id nothing
code 0 pid nothing
code 0 logs nothing --nostream
code 0 logs /nothing/ --nostream --lines 3
code 0 flush
code 0 flush nothing
code 1 reset nothing
code 1 scale app 1
code 0 scale app 2
code 0 reloadLogs
code 1 sendSignal SIGINT nothing
code 1 sendSignal SIGNONE app
code 1 send 99 line
code 1 trigger nothing action
code 1 start nowhere.js app.js
code 0 start process.json --only nothing
code 0 stop process.json
code 0 report
code 0 save
code 1 delete nothing app
code 0 delete all
code 1 delete all
code 0 save
code 0 cleardump
code 0 resurrect
code 0 start -h

pm2 start app.js >/dev/null
for words in 'describe app' 'id app' 'pid app' 'env 0' 'ls' 'ping' 'restart app' 'logs app --nostream --raw'; do
    # shellcheck disable=SC2086
    same "$(pm2 -s $words | grep -v TAILING)" ''
done
same "$(PM2_SILENT=true pm2 describe app)" ''
same "$(pm2 jlist -s | jq length) $(pm2 prettylist -s | grep -c 'pm_id: ')" '1 2'

same "$(pm2 logs nothing --nostream --lines 3 2>/dev/null)" \
    '[TAILING] Tailing last 3 lines for [nothing] process (change the value with --lines option)'
until pm2 logs app --nostream --raw | grep -q '^up'; do :; done
pm2 logs app --nostream --raw --out | grep -q 'logs/app-out.log last 15 lines:' || wrong 'no file is named'
says '[PM2] Logs flushed' pm2 flush nothing
says '[PM2] Restoring processes located in' pm2 resurrect
pm2 start -h | grep -q 'Usage: \(pm2 \)\?start' || wrong 'no usage'
pm2 kill >/dev/null
same "$(pm2 kill 2>/dev/null | head -n1 | grep -c WARN)" 0
