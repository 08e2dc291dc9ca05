# In the foreground, as in containers: everything that is printed, one end for all, and a beginning after a crash.
. "$CORPUS/insist.bash"

cat >early.sh <<'END'
echo early
trap 'echo bye; exit' INT
sleep 1000 &
wait
END
begin() { # COMMAND...: in the background, into the file out
    : >out # Not by the child alone: what the one before has printed must be gone.
    "$@" >>out 2>&1 </dev/null &
    runs=$!
}
until_has() { # LINE: a pattern of it; what is printed of a start has the script's name, too
    local end=$((SECONDS + 60))
    until grep -q -- "$1" out; do
        [ $SECONDS -lt $end ] || wrong "no «$1»: $(cat out)"
        sleep 0.05
    done
}
until_gone() { # PID...
    local end=$((SECONDS + 60)) pid
    for pid; do
        while kill -0 "$pid" 2>/dev/null; do
            [ $SECONDS -lt $end ] || wrong "$pid is still there"
            sleep 0.05
        done
    done
}
end() { # by SIGTERM, with exit code 0
    kill $runs
    wait $runs || wrong "ends with $?: $(cat out)"
}

begin pm2-runtime early.sh --name e
until_has '^early$'
same "$(field 'map(.name) | join(" ")')" e
end
same "$(grep -cx early out) $(grep -cx bye out) $(grep -c '┌' out)" '1 1 0'
[ ! -e "$PM2_HOME/pm2.pid" ] || wrong 'its daemon is still there'

# All of it is killed, as with its container: what ran is there again, and counts as started.
begin pm2-runtime start early.sh --name e
until_has '^early$'
daemon=$(cat "$PM2_HOME/pm2.pid")
keeper=$(awk '/^PPid/ {print $2}' "/proc/$daemon/status")
app=$(pm2 pid e)
for pid in "$keeper" "$daemon" "$app"; do
    # 0 is this script's own process group, and with it whoever runs the tests.
    [ "$pid" -gt 1 ] || wrong "no process of the three: $keeper $daemon $app"
done
kill -KILL $runs "$keeper" "$daemon" "$app"
wait $runs 2>/dev/null
until_gone "$keeper" "$daemon" "$app"
begin pm2-runtime start early.sh --name e
until_has '^early$'
same "$(grep -c ERROR out)" 0
same "$(field 'map([.name, .pm2_env.status] | join(" ")) | join(", ")')" 'e online'
end

# With its last app it ends, as PM2's does: code 2.
code=0
timeout 60 pm2-runtime fail.js --no-autorestart >out 2>&1 || code=$?
same $code 2

# A daemon that was there before goes on when a command in the foreground ends.
pm2 start app.js --name before >/dev/null
pid=$(pm2 pid before)
begin pm2 start early.sh --no-daemon
until_has '| early$'
end
same "$(pm2 pid before) $(field 'map(.name) | join(" ")')" "$pid before early"
refuses 'Script already launched' pm2 start early.sh --no-daemon
pm2 delete all >/dev/null
pm2 kill >/dev/null

# Where one of a file's apps cannot run, the others do; where nothing does, the command fails and leaves nothing behind.
begin pm2-runtime mixed.config.js --json
until_has '"message":"up '
end
refuses 'Script not found' pm2-runtime nowhere.js
[ ! -e "$PM2_HOME/pm2.pid" ] || wrong 'a daemon is left'
