# Signals, lines and actions for processes, and settings of apps.
. "$CORPUS/insist.bash"

pm2 start speaks.js --name s >/dev/null
until_same '.[0].pm2_env.axm_actions | map(select(.action_name == "hi")) | length' 1
says 'successfully sent signal SIGUSR2 to process name s' pm2 sendSignal SIGUSR2 s
says 'Sending signal to process id 0' pm2 sendSignal SIGUSR2 0
pm2 send 0 'a line' >/dev/null || wrong 'not sent'
refuses 'Process with ID <7> unknown.' pm2 send 7 line
says '1 processes have received command hi' pm2 trigger s hi
says '[s:0:default]={"answer":"hello"}' pm2 trigger 0 hi
says '[s:0:default]={"opts":"5"}' pm2 trigger s sum 5
refuses 'Not any process has received a command' pm2 trigger nothing hi
end=$((SECONDS + 30))
until [ "$(sort -u "$PM2_HOME/logs/s-out.log" | tr '\n' ' ')" = 'line a line SIGUSR2 ' ] ||
    [ "$(sort -u "$PM2_HOME/logs/s-out.log" | tr '\n' ' ')" = 'SIGUSR2 line a line ' ]; do
    [ $SECONDS -lt $end ] || wrong "it got: $(cat "$PM2_HOME/logs/s-out.log")"
done

says '[PM2] Module s restarted' pm2 set s:FOO set
same "$(field '.[0].pm2_env | [.FOO, .restart_time] | join(" ")')" 'set 1'
same "$(pm2 conf s)" $'Module: s\n$ pm2 set s:FOO set'
same "$(pm2 get s:FOO)" 'Value for module s key FOO: set'
pm2 multiset 's:a 1 s:b 2' >/dev/null
same "$(pm2 unset s:a | grep '^\$' | tr '\n' ' ')" '$ pm2 set s:FOO set $ pm2 set s:b 2 '
refuses '' pm2 get s:a
pm2 unset all >/dev/null
same "$(pm2 conf)" ''

# The column before the bar is no wider than the names need.
pm2 logs s --lines 0 >stream 2>&1 &
logs=$!
end=$((SECONDS + 30))
until grep -q 'line streamed' stream; do
    [ $SECONDS -lt $end ] || wrong "the stream has: $(cat stream)"
    pm2 send 0 streamed >/dev/null
done
kill $logs
same "$(sed 's/\x1b\[[0-9]*m//g' stream | grep -m1 streamed)" '0|s | line streamed'
