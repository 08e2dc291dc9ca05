# What the service takes for granted is gone or less than usual: the bus, a disk that can be written, open files.
# Apps run on, and so does who looks after them.

setup() {
    users alice
    install_package
    as alice env PORT=3000 pm2rs start /srv/apps/express.js -i 2 --name web
    eventually online web 2
    eventually inside curl -sS --fail http://127.0.0.1:3000/
}

main_pid() { inside systemctl show -P MainPID pm2rs; }

another_daemon() { # THAN: one that takes commands
    local now
    now=$(main_pid)
    [ "$now" != 0 ] && [ "$now" != "$1" ] && pm2rs ping
}

kill_daemon() { # and wait for the next
    local before
    before=$(main_pid)
    inside kill -KILL "$before"
    eventually another_daemon "$before"
}

settings() { # LINE...: of the unit, from its next start on
    inside mkdir -p /run/systemd/system/pm2rs.service.d
    printf '%s\n' '[Service]' "$@" | inside tee /run/systemd/system/pm2rs.service.d/test.conf >/dev/null
    inside systemctl daemon-reload
}
usual_settings() {
    inside rm /run/systemd/system/pm2rs.service.d/test.conf
    inside systemctl daemon-reload
}

all_in_scopes() { # NAME
    local pid
    for pid in $(pids_of "$1"); do
        contains "$(inside cat "/proc/$pid/cgroup")" "/pm2rs.slice/pm2rs-$1-"
    done
}

test_a_restarted_bus_costs_no_scope() {
    inside systemctl restart dbus.service
    pm2rs --silent restart web
    all_in_scopes web
}

test_without_a_bus_workers_have_scopes_and_outlive_the_daemon() {
    local before
    inside systemctl mask --runtime --now dbus.socket dbus.service
    pm2rs --silent restart web
    all_in_scopes web
    before=$(pids_of web)
    load_begins http://127.0.0.1:3000/
    kill_daemon
    inside systemctl restart pm2rs
    eventually pm2rs ping
    load_ends
    same "$(pids_of web)" "$before"
    holds "$load" '.failed == 0 and .ok > 50'
}

test_crashes_in_a_row_fail_no_unit() {
    local before
    before=$(pids_of web)
    # Faster than any wait from outside: systemd counts starts within 10 s.
    inside bash -c 'for ((i = 0; i < 8; i++)); do
            until now=$(systemctl show -P MainPID pm2rs) && [ "$now" != 0 ] && [ "$now" != "$last" ]; do :; done
            last=$now
            kill -KILL "$now"
        done'
    eventually inside systemctl is-active pm2rs
    same "$(pids_of web)" "$before"
    same "$(inside systemctl is-active pm2rs pm2rs-leftovers)" $'active\nactive'
    same "$(inside systemctl --failed --quiet)" ""
}

test_without_a_bus_a_stop_leaves_no_process() {
    local worker
    worker=$(pids_of web | head -n1)
    settings RestartSec=1h
    inside kill -KILL "$(main_pid)"
    inside systemctl stop pm2rs
    denied inside kill -0 "$worker"
    usual_settings
    inside systemctl start pm2rs
    eventually online web 2
}

test_a_bus_that_comes_late_is_served() {
    inside systemctl unmask --runtime dbus.socket dbus.service
    inside systemctl start dbus.socket
    eventually bus Ping
}

test_a_daemon_comes_back_on_a_disk_that_is_read_only() {
    local before
    before=$(pids_of web)
    inside mount --bind /var/lib/pm2rs /var/lib/pm2rs
    inside mount -o remount,bind,ro /var/lib/pm2rs
    kill_daemon
    same "$(pids_of web)" "$before"
    inside kill -KILL "$(head -n1 <<<"$before")"
    eventually online web 2
    contains "$(inside journalctl -u pm2rs)" "cannot write the state file"
    inside umount --lazy /var/lib/pm2rs
}

test_apps_start_where_fewer_files_may_be_open_than_the_unit_says() {
    settings LimitNOFILE=512
    inside systemctl restart pm2rs
    pm2rs --silent restart web
    eventually online web 2
    contains "$(inside cat "/proc/$(pids_of web | head -n1)/limits")" "Max open files            512                  512"
    usual_settings
    inside systemctl restart pm2rs
}

test_where_no_thread_can_be_started_the_daemon_goes_on() {
    local daemon worker deadline=$((SECONDS + 4))
    as alice pm2rs --home few start /srv/apps/counter.js --name counter
    daemon=$(inside cat /home/alice/few/pm2.pid)
    worker=$(as alice pm2rs --home few pid counter)
    # Threads that have nothing to do may end.
    while [ $SECONDS -lt $deadline ] && inside bash -c 'grep -q tokio /proc/$1/task/*/comm' _ "$daemon"; do :; done
    as alice prlimit --pid "$daemon" --nproc=1:
    as alice pm2rs --home few reset counter
    denied as alice pm2rs --home few start /srv/apps/counter.js --name another
    as alice prlimit --pid "$daemon" --nproc=1000:
    as alice pm2rs --home few start /srv/apps/counter.js --name third
    same "$(inside cat /home/alice/few/pm2.pid)" "$daemon"
    same "$(as alice pm2rs --home few pid counter)" "$worker"
    as alice pm2rs --home few kill
}
