# Ending: nothing outlives its time, and nothing is left behind.

setup() {
    users alice
    install_package
}

stubborn_pids() { inside pgrep -f /srv/apps/stubborn.js | sort; }
three_run() { same "$(stubborn_pids | wc -l)" 3; }

test_a_worker_that_ignores_its_signals_dies_with_its_grandchildren() {
    local began pids
    as alice pm2rs start /srv/apps/stubborn.js --name stubborn --kill-timeout 700
    eventually three_run
    pids=$(stubborn_pids)
    began=$(date +%s%N)
    as alice pm2rs stop stubborn
    # not before its time, and not long after
    [ $((($(date +%s%N) - began) / 1000000)) -ge 700 ]
    [ $((($(date +%s%N) - began) / 1000000)) -lt 30000 ]
    # shellcheck disable=SC2086
    eventually gone $pids
    holds "$(processes)" 'map(select(.name == "stubborn" and .pm2_env.status == "stopped")) | length == 1'
}

no_scope_of_ours() { same "$(inside systemctl list-units --plain --no-legend --type=scope 'pm2rs*')" ""; }

test_stopping_the_service_leaves_no_process() {
    as alice pm2rs restart stubborn
    as alice env PORT=3000 pm2rs start /srv/apps/express.js -i 2 --name web
    eventually three_run
    eventually online web 2
    inside systemctl stop pm2rs
    same "$(inside pgrep -fc /srv/apps || true)" 0
    # Who looks for what a dead daemon left is stopped with the service, and after it.
    eventually no_process_of_ours
    same "$(inside systemctl is-active pm2rs || true)" inactive
    # systemd hears of an empty control group a moment after its last process is gone.
    eventually no_scope_of_ours
}

test_what_ran_comes_back_with_the_service() {
    inside systemctl start pm2rs
    eventually online web 2
    eventually three_run
}

test_a_killed_daemon_loses_no_process_for_good() {
    inside systemctl kill --kill-whom=main --signal=KILL pm2rs
    eventually online web 2
    eventually inside curl -sS --fail http://127.0.0.1:3000/
    eventually three_run
    same "$(pids_of web | wc -l)" 2
}

test_stopping_while_the_daemon_is_dead_leaves_no_process() {
    inside bash -c 'systemctl kill --kill-whom=main --signal=KILL pm2rs; systemctl stop pm2rs'
    eventually no_process_of_ours
    inside systemctl start pm2rs
    eventually online web 2
}
no_process_of_ours() { same "$(inside pgrep -fc 'pm2rs|/srv/apps' || true)" 0; }

test_the_watchdog_ends_a_daemon_that_hangs() {
    local before
    # The unit's 30 s are right for a machine that swaps, and long for a test.
    inside bash -c 'mkdir -p /run/systemd/system/pm2rs.service.d
        printf "[Service]\nWatchdogSec=3s\n" >/run/systemd/system/pm2rs.service.d/watchdog.conf
        systemctl daemon-reload; systemctl restart pm2rs'
    eventually online web 2
    before=$(inside systemctl show -P MainPID pm2rs)
    [ "$before" != 0 ]
    inside kill -STOP "$before"
    eventually daemon_is_another "$before"
    eventually online web 2
}
daemon_is_another() {
    local now
    now=$(inside systemctl show -P MainPID pm2rs)
    [ "$now" != 0 ] && [ "$now" != "$1" ] && pm2rs ping
}

test_a_shutdown_is_quick_and_clean() {
    as alice pm2rs delete stubborn
    "$rig" reboot
    eventually online web 2
    inside journalctl --boot=-1 --sync || true
    lacks "$(inside journalctl --boot=-1 -u pm2rs)" "State 'stop-sigterm' timed out"
    contains "$(inside journalctl --boot=-1 -u pm2rs | tail -n 3)" "Deactivated successfully"
}

test_only_roots_apps_may_take_longer_to_end_than_the_service() {
    local began
    inside bash -c 'mkdir -p /run/systemd/system/pm2rs.service.d
        printf "[Service]\nTimeoutStopSec=4s\n" >/run/systemd/system/pm2rs.service.d/stop.conf
        systemctl daemon-reload'
    pm2rs start /srv/apps/stubborn.js --name patient --kill-timeout 9000
    eventually three_run
    began=$SECONDS
    inside systemctl stop pm2rs
    [ $((SECONDS - began)) -ge 8 ]
    lacks "$(inside journalctl -u pm2rs -n 10)" timed
    inside systemctl start pm2rs
    pm2rs delete patient
    as alice pm2rs start /srv/apps/stubborn.js --name day --kill-timeout 86400000
    eventually three_run
    inside timeout 90 systemctl stop pm2rs
    eventually no_process_of_ours
}
