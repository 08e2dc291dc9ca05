# The supervisor may die: killed (for want of memory, too), aborted, stopped, restarted, re-executed and rebooted under load, and nobody notices.
# PM2RS_KILLS says how many times it is killed (default 10).

kills=${PM2RS_KILLS:-10}

setup() {
    users alice
    install_package
    as alice env PORT=3000 pm2rs start /srv/apps/express.js -i 2 --name web
    as alice pm2rs start /srv/apps/counter.js --name counter --output /home/alice/counter.log
    as alice pm2rs start /srv/apps/stubborn.js --name resting --kill-timeout 300
    as alice pm2rs stop resting
    eventually online web 2
    eventually online counter 1
    eventually inside curl -sS --fail http://127.0.0.1:3000/
}

identities() { processes | jq -c 'map([.name, .pm_id, .pid, .pm2_env.status, .pm2_env.restart_time, .pm2_env.pm_uptime])'; }
daemon() { inside systemctl show -P MainPID pm2rs; }

another_daemon() { # THAN: one that takes commands
    local now
    now=$(daemon)
    [ "$now" != 0 ] && [ "$now" != "$1" ] && pm2rs ping
}

kill_daemon() { # [SIGNAL [MILLISECONDS]]: after so long, and wait for the next
    local before
    before=$(daemon)
    inside bash -c 'sleep "$1"; kill -"$2" "$3"' _ "0.$(printf %03d "${2:-0}")" "${1:-KILL}" "$before"
    eventually another_daemon "$before"
}

nothing_failed() { # of the load that ended
    holds "$load" '.failed == 0 and .ok > 50'
    printf 'load: %s\n' "$load"
}

as_many_servers_as_rows() {
    same "$(inside pgrep -fc '^node /srv/apps/express.js|node .*/srv/apps/express.js')" "$(pids_of web | wc -l)"
}

test_reexecutions_are_not_noticed() {
    local before main
    before=$(identities) main=$(daemon)
    load_begins http://127.0.0.1:3000/
    for ((i = 0; i < kills; i++)); do
        pm2rs --silent update
        same "$(identities)" "$before"
    done
    inside systemctl reload pm2rs
    same "$(daemon)" "$main"
    same "$(identities)" "$before"
    same "$(inside systemctl is-active pm2rs)" active
    load_ends
    nothing_failed
    contains "$(inside journalctl -u pm2rs)" "executing the installed program"
}

test_a_program_that_cannot_take_over_does_not_get_to() {
    local before
    before=$(identities)
    inside bash -c 'mv /usr/bin/pm2rs /usr/bin/pm2rs.kept; ln -s /bin/false /usr/bin/pm2rs'
    contains "$(bus Reexecute 2>&1 || true)" "this daemon goes on"
    denied inside systemctl reload pm2rs
    inside mv /usr/bin/pm2rs.kept /usr/bin/pm2rs
    same "$(inside systemctl is-active pm2rs)" active
    same "$(identities)" "$before"
}

test_a_program_that_dies_before_it_is_ready_is_followed_by_the_one_before() {
    local before
    before=$(identities)
    load_begins http://127.0.0.1:3000/
    # It passes its check, serves the command line, and is no daemon.
    inside bash -c 'mv /usr/bin/pm2rs /usr/bin/pm2rs.kept
        printf "#!/bin/sh\n[ \"\$*\" != \"daemon --system\" ] || kill -KILL \$\$\nexec /usr/bin/pm2rs.kept \"\$@\"\n" >/usr/bin/pm2rs
        chmod 755 /usr/bin/pm2rs'
    denied inside systemctl reload pm2rs
    same "$(identities)" "$before"
    contains "$(inside journalctl -u pm2rs -p err)" "the installed program did not get ready; the one before goes on"
    kill_daemon KILL
    same "$(identities)" "$before"
    # A better one is welcome.
    inside mv /usr/bin/pm2rs.kept /usr/bin/pm2rs
    pm2rs --silent update
    same "$(inside readlink "/proc/$(daemon)/exe")" /usr/bin/pm2rs
    denied inside test -e /run/pm2rs/previous -o -e /var/lib/pm2rs/previous
    same "$(identities)" "$before"
    load_ends
    nothing_failed
}

test_kills_at_any_moment_are_not_noticed() {
    local before
    before=$(identities)
    load_begins http://127.0.0.1:3000/
    for ((i = 0; i < kills; i++)); do
        kill_daemon KILL $((RANDOM % 300))
        same "$(identities)" "$before"
    done
    load_ends
    nothing_failed
    as_many_servers_as_rows
}

# Each has some seven descriptors: more in all than programs may usually have open, which systemd goes by, too.
test_hundreds_of_workers_come_back() {
    local before main
    as alice pm2rs --silent start /bin/sleep --interpreter none --name many -i 160 -- 100000
    eventually online many 160
    before=$(identities) main=$(daemon)
    inside systemctl restart pm2rs
    eventually another_daemon "$main"
    same "$(identities)" "$before"
    kill_daemon KILL
    same "$(identities)" "$before"
    same "$(inside awk '/^Max open files/ {print $4}' "/proc/$(pids_of many | head -n1)/limits")" 1024
    as alice pm2rs --silent delete many
}

test_kills_during_requests_leave_nothing_half_done() {
    local request
    load_begins http://127.0.0.1:3000/
    for request in 'reload web' 'scale web 3' 'start /srv/apps/echo.js --name brief' 'delete brief' 'scale web 2' 'reload web'; do
        # The command may fail with its daemon; what is under way is gone on with.
        # shellcheck disable=SC2086
        as alice pm2rs --silent $request >/dev/null 2>&1 &
        local asking=$!
        kill_daemon KILL $((20 + RANDOM % 400))
        wait "$asking" || true
        eventually all_at_rest
    done
    as alice pm2rs --silent delete brief || true
    as alice pm2rs --silent scale web 2 || true
    eventually online web 2
    eventually as_many_servers_as_rows
    load_ends
    nothing_failed
}
all_at_rest() { holds "$(processes)" 'all(.[]; .pm2_env.status == "online" or .pm2_env.status == "stopped")'; }

test_an_abort_is_not_noticed() {
    local before
    before=$(identities)
    load_begins http://127.0.0.1:3000/
    kill_daemon ABRT
    same "$(identities)" "$before"
    load_ends
    nothing_failed
}

test_a_kill_by_hand_is_not_noticed() {
    local before signal
    before=$(identities)
    load_begins http://127.0.0.1:3000/
    for signal in TERM INT QUIT; do
        kill_daemon "$signal"
    done
    same "$(identities)" "$before"
    load_ends
    nothing_failed
}

out_of_memory() { # PID: the kernel's OOM killer ends this process of the container
    local group=/sys/fs/cgroup/memory/pm2rs-out-of-memory host
    if inside grep -qw memory /sys/fs/cgroup/cgroup.controllers; then
        # Nothing that lives fits into so little.
        inside systemctl set-property --runtime pm2rs.service MemoryMax=1M
        eventually denied inside test -d "/proc/$1"
        inside systemctl set-property --runtime pm2rs.service MemoryMax=infinity
        contains "$(inside journalctl -u pm2rs)" "oom-kill"
    elif [ -w /sys/fs/cgroup/memory/cgroup.procs ]; then
        # With cgroup v1 the container has no such controller; we have, and see its processes.
        for host in $(pgrep -x pm2rs); do
            [ "$(awk '/^NSpid:/ { print $NF }' "/proc/$host/status")" != "$1" ] || break
        done
        mkdir -p "$group"
        echo 0 >"$group/memory.limit_in_bytes"
        echo "$host" >"$group/cgroup.procs"
        eventually killed_for_memory "$group"
        rmdir "$group"
    else
        echo "no memory controller here"
        kill_daemon KILL
    fi
}

killed_for_memory() { # GROUP: somebody in it asked for a page; to answer us takes some
    pm2rs --silent jlist >/dev/null || true
    grep -qE '^oom_kill [1-9]' "$1/memory.oom_control"
}

test_an_oom_kill_is_not_noticed() {
    local before main
    before=$(identities) main=$(daemon)
    load_begins http://127.0.0.1:3000/
    out_of_memory "$main"
    eventually another_daemon "$main"
    same "$(identities)" "$before"
    load_ends
    nothing_failed
}

test_a_restart_of_the_service_keeps_workers() {
    local before main
    before=$(identities) main=$(daemon)
    load_begins http://127.0.0.1:3000/
    inside systemctl restart pm2rs
    [ "$(daemon)" != "$main" ]
    same "$(identities)" "$before"
    inside systemctl try-restart pm2rs
    same "$(identities)" "$before"
    load_ends
    nothing_failed
    contains "$(inside journalctl -u pm2rs)" "the service is being restarted; workers run on"
}

test_a_restart_does_not_wait_for_workers_that_are_being_started() {
    local each
    # Apps that end all the time: at any moment one of them is being started.
    for each in 1 2 3 4 5 6; do
        as alice pm2rs start "sleep 0.1" --name "hasty$each" --restart-delay 1 --max-restarts 1000000
    done
    for each in 1 2; do
        eventually restarted hasty6 5
        inside systemctl restart pm2rs
    done
    # A worker that cannot be put into its scope is in the daemon's own group, and ends with it.
    lacks "$(inside journalctl -u pm2rs)" "cannot make a scope for the worker"
    as alice pm2rs delete /hasty/
}
restarted() { processes | jq -e --arg name "$1" "any(.name == \$name and .pm2_env.restart_time >= $2)" >/dev/null; }

test_a_daemon_that_hangs_is_not_missed() {
    local before main
    inside bash -c 'mkdir -p /run/systemd/system/pm2rs.service.d
        printf "[Service]\nWatchdogSec=2s\n" >/run/systemd/system/pm2rs.service.d/watchdog.conf
        systemctl daemon-reload; systemctl restart pm2rs'
    before=$(identities) main=$(daemon)
    load_begins http://127.0.0.1:3000/
    inside kill -STOP "$main"
    eventually another_daemon "$main"
    same "$(identities)" "$before"
    load_ends
    nothing_failed
    inside bash -c 'rm /run/systemd/system/pm2rs.service.d/watchdog.conf; systemctl daemon-reload'
}

as_carol() { as carol env XDG_RUNTIME_DIR="/run/user/$(inside id -u carol)" "$@"; }
carols_daemon() { as_carol systemctl --user show -P MainPID pm2rs; }
carols() { as_carol pm2rs --user --silent jlist | jq -c 'map([.name, .pid, .pm2_env.status, .pm2_env.restart_time])'; }
carols_answer() { as_carol pm2rs --user --silent ping; }

test_a_user_s_own_service_does_as_well() {
    local before main
    users carol
    inside loginctl enable-linger carol
    eventually as_carol systemctl --user start pm2rs
    as_carol env PORT=3100 pm2rs --user start /srv/apps/express.js -i 2 --name own
    eventually inside curl -sS --fail http://127.0.0.1:3100/
    before=$(carols) main=$(carols_daemon)
    load_begins http://127.0.0.1:3100/
    as_carol systemctl --user reload pm2rs
    same "$(carols_daemon)" "$main"
    same "$(carols)" "$before"
    as_carol systemctl --user restart pm2rs
    [ "$(carols_daemon)" != "$main" ]
    same "$(carols)" "$before"
    inside kill -KILL "$(carols_daemon)"
    eventually carols_answer
    same "$(carols)" "$before"
    load_ends
    nothing_failed
    as_carol systemctl --user stop pm2rs
    same "$(inside pgrep -u carol -fc /srv/apps || true)" 0
    inside loginctl disable-linger carol
}

test_output_is_complete_after_all_that() {
    local log
    as alice pm2rs stop counter
    log=$(inside cat /home/alice/counter.log)
    [ "$(wc -l <<<"$log")" -gt 100 ]
    same "$(diff <(echo "$log") <(seq -f 'line %.0f' 1 "$(wc -l <<<"$log")") | head -n5)" ""
    as alice pm2rs start counter
}

test_a_stop_ends_all() {
    inside systemctl stop pm2rs
    same "$(inside pgrep -fc /srv/apps || true)" 0
    # pm2rs-leftovers.service may still be looking for apps that a dead daemon left.
    eventually none_of_ours_runs
    inside systemctl start pm2rs
    eventually online web 2
}
none_of_ours_runs() { same "$(inside pgrep -fc pm2rs || true)" 0; }

test_after_a_reboot_what_ran_runs_and_what_was_stopped_is_stopped() {
    "$rig" reboot
    eventually online web 2
    eventually online counter 1
    holds "$(processes)" 'map(select(.name == "resting" and .pm2_env.status == "stopped")) | length == 1'
    same "$(inside pgrep -fc /srv/apps/stubborn.js || true)" 0
    as_many_servers_as_rows
}
