# The main job: an unmodified express app with two processes, for an ordinary user, on a real systemd.

setup() {
    users alice mallory
    install_package
    inside systemctl start pm2rs
}

test_an_ordinary_user_starts_a_cluster() {
    local list
    list=$(as alice env PORT=3000 pm2rs start /srv/apps/express.js -i 2 --name web)
    contains "$list" web
    eventually online web 2
    same "$(processes | jq -r 'map(.pm2_env.exec_mode) | unique | join(" ")')" cluster_mode
}

test_two_processes_answer_on_one_port() {
    same "$(answering_pids http://127.0.0.1:3000/ 40 | wc -l)" 2
    same "$(answering_pids http://127.0.0.1:3000/ 40)" "$(pids_of web | sort)"
}

test_apps_run_as_their_owner() {
    same "$(inside curl -sS http://127.0.0.1:3000/user)" "$(inside id -u alice) /home/alice"
    local pid
    for pid in $(pids_of web); do
        same "$(inside ps -o user= -p "$pid")" alice
        same "$(inside ps -o supgrp= -p "$pid")" alice
        contains "$(inside grep Umask "/proc/$pid/status")" 0022
    done
}

test_every_worker_is_a_scope_of_its_own_in_the_slice() {
    local pid cgroup
    for pid in $(pids_of web); do
        cgroup=$(inside sed -n 's/^0:://p' "/proc/$pid/cgroup")
        [[ $cgroup == */pm2rs.slice/*.scope ]] || { die "\`$cgroup\` to be a scope in pm2rs.slice"; return 1; }
    done
    same "$(inside systemctl list-units --plain --no-legend --type=scope 'pm2rs*' | wc -l)" 2
}

test_workers_get_no_descriptor_of_the_daemon() {
    local pid
    for pid in $(pids_of web); do
        # stdin, stdout, stderr and the channel at first; what Node opens itself is anonymous or a socket
        lacks "$(inside ls -l "/proc/$pid/fd")" /var/lib/pm2rs
    done
}

test_a_killed_worker_is_replaced() {
    local victim
    victim=$(pids_of web | head -n1)
    inside kill -KILL "$victim"
    eventually is_replaced "$victim"
    same "$(answering_pids http://127.0.0.1:3000/ 40 | wc -l)" 2
    same "$(processes | jq '[.[].pm2_env.restart_time] | add')" 1
}
is_replaced() { online web 2 && gone "$1" && [ "$(pids_of web | wc -l)" = 2 ]; }

test_systemctl_status_says_what_runs() {
    local status
    status=$(inside systemctl status pm2rs)
    contains "$status" "active (running)"
    contains "$status" "1 app, 2 processes online"
}

test_the_journal_has_fields() {
    local lines
    inside journalctl --sync
    lines=$(inside journalctl -u pm2rs -o json --all)
    holds "$(jq -s . <<<"$lines")" 'map(select(.PM2RS_APP == "web" and .PM2RS_STREAM == "out" and .MESSAGE == "listening")) | length >= 2'
    holds "$(jq -s . <<<"$lines")" 'map(select(.PM2RS_APP == "web" and .PM2RS_PROCESS != null and .PM2RS_NAMESPACE == "default")) | length >= 2'
    holds "$(jq -s . <<<"$lines")" 'map(select(.SYSLOG_IDENTIFIER == "pm2rs" and .PM2RS_APP == "web" and .MESSAGE_ID != null)) | length > 0'
    holds "$(jq -s . <<<"$lines")" 'map(select(.PM2RS_APP == "web" and .MESSAGE == "listening")) | all(.SYSLOG_IDENTIFIER == "web" and .PRIORITY == "6")'
}

test_logs_are_read_by_their_owner() {
    contains "$(as alice pm2rs logs web --nostream --lines 5)" listening
}

test_another_user_sees_nothing_secret() {
    local seen
    seen=$(as mallory pm2rs --silent jlist)
    same "$(jq -c 'map(.name)' <<<"$seen")" "[]"
    denied as mallory pm2rs env 0
    denied as mallory pm2rs logs web --nostream
    denied bus_as mallory GetEnvironment u 0
    denied as mallory busctl call org.pm2rs1 /org/pm2rs1/process/0 org.pm2rs1.Process GetEnvironment
    lacks "$(as mallory busctl --json=short get-property org.pm2rs1 /org/pm2rs1/process/0 org.pm2rs1.Process Status)" PORT
}

test_another_user_touches_nothing() {
    local before verb
    before=$(pids_of web | sort)
    for verb in stop restart reload delete; do
        denied as mallory pm2rs "$verb" web
        denied as mallory pm2rs "$verb" 0
    done
    denied as mallory pm2rs scale web 5
    denied as mallory pm2rs sendSignal SIGKILL web
    denied as mallory pm2rs kill
    denied bus_as mallory Stop as 1 web
    denied bus_as mallory SendLine us 0 x
    denied bus_as mallory Reexecute
    same "$(pids_of web | sort)" "$before"
    same "$(inside systemctl is-active pm2rs)" active
}

test_a_user_cannot_become_another() {
    denied bus_as mallory StartApp 'sa{sv}' "$(spec mallory evil /srv/apps/echo.js '.uid = "root"')" 0
    denied as mallory pm2rs start /srv/apps/echo.js --name evil --uid alice
    lacks "$(processes | jq -r '.[].name')" evil
}

test_two_users_may_use_one_name() {
    as mallory env PORT=3001 pm2rs start /srv/apps/express.js --name web
    eventually inside curl -sS --fail http://127.0.0.1:3001/
    same "$(inside curl -sS http://127.0.0.1:3001/user)" "$(inside id -u mallory) /home/mallory"
    as mallory pm2rs delete web
    same "$(answering_pids http://127.0.0.1:3000/ 10 | wc -l)" 2
}

test_reload_and_scale_lose_nothing() {
    local before round
    before=$(pids_of web | sort)
    load_begins http://127.0.0.1:3000/
    for round in 1 2 3; do
        as alice pm2rs reload web --listen-timeout 60000
        as alice pm2rs scale web 4
        as alice pm2rs scale web 2
    done
    load_ends
    holds "$load" '.ok > 100 and .failed == 0 and (.pids | length) >= 6'
    eventually online web 2
    same "$(comm -12 <(echo "$before") <(pids_of web | sort))" ""
}

test_startup_as_root_enables_the_service() {
    local before
    before=$(pids_of web | sort)
    inside systemctl disable pm2rs
    contains "$(pm2rs startup)" "systemctl enable --now pm2rs.service"
    same "$(inside systemctl is-enabled pm2rs)" enabled
    same "$(pids_of web | sort)" "$before"
}

test_startup_as_a_user_of_the_service_leaves_it_to_root() {
    local told status=0
    same "$(as alice pm2rs startup)" \
        "[PM2] The system service starts at boot, with the apps that ran; there is nothing to do"
    inside systemctl disable pm2rs
    told=$(as alice pm2rs startup) || status=$?
    same "$status" 1
    contains "$told" "sudo systemctl enable pm2rs.service"
    inside systemctl enable pm2rs
}

as_carol() { as carol env -u XDG_RUNTIME_DIR "$@"; } # as by su: without a session of her own
carols() { as_carol env XDG_RUNTIME_DIR="/run/user/$(inside id -u carol)" "$@"; }

test_startup_as_a_user_starts_a_service_of_their_own() {
    local told status=0
    users carol
    told=$(as_carol pm2rs startup --user) || status=$?
    same "$status" 1
    contains "$told" "[PM2] To setup the Startup Script, copy/paste the following command:"
    contains "$told" "sudo loginctl enable-linger carol && pm2rs startup --user"
    inside loginctl enable-linger carol
    as_carol pm2rs startup --user
    same "$(carols systemctl --user is-enabled pm2rs)" enabled
    carols env PORT=3006 pm2rs --user start /srv/apps/express.js --name own
    eventually inside curl -sS --fail http://127.0.0.1:3006/
}

test_apps_are_back_after_a_reboot() {
    as alice env PORT=3005 pm2rs start /srv/apps/express.js --name asleep
    eventually online asleep 1
    as alice pm2rs stop asleep
    "$rig" reboot
    eventually online web 2
    same "$(answering_pids http://127.0.0.1:3000/ 40 | wc -l)" 2
    same "$(inside curl -sS http://127.0.0.1:3000/user)" "$(inside id -u alice) /home/alice"
    holds "$(processes)" 'map(select(.name == "asleep" and .pm2_env.status == "stopped" and .pid == 0)) | length == 1'
    eventually inside curl -sS --fail http://127.0.0.1:3006/
    same "$(inside curl -sS http://127.0.0.1:3006/user)" "$(inside id -u carol) /home/carol"
}

test_unstartup_undoes_it() {
    as_carol pm2rs unstartup
    same "$(carols systemctl --user is-enabled pm2rs || true)" disabled
    pm2rs unstartup
    same "$(inside systemctl is-enabled pm2rs || true)" disabled
    # What runs now is left alone.
    online web 2
    inside curl -sS --fail http://127.0.0.1:3006/
}
