# The package: installs, enables and starts; upgrades under running apps; removes; purges without a trace.

setup() {
    inside find / -xdev -iname '*pm2rs*' -not -path '/proc/*' -not -path '/srv/*' >"$output/before"
    same "$(cat "$output/before")" ""
    users alice
    install_package
}

test_it_is_enabled_and_running_after_installation() {
    same "$(inside systemctl is-enabled pm2rs.service)" enabled
    same "$(inside systemctl is-active pm2rs.service)" active
    same "$(pm2rs --silent ping)" "$(pm2rs --silent ping)"
    same "$(property /org/pm2rs1 Manager Mode)" system
}

test_no_unit_failed() {
    same "$(inside systemctl --failed --no-legend --plain)" ""
}

test_files_are_as_packaged() {
    same "$(inside dpkg --verify pm2rs)" ""
}

test_what_a_service_ships_is_there() {
    local file
    for file in /usr/share/man/man1/pm2rs.1.gz /usr/share/bash-completion/completions/pm2rs \
        /usr/share/dbus-1/interfaces/org.pm2rs1.Manager.xml /usr/share/polkit-1/actions/org.pm2rs1.policy \
        /usr/share/doc/pm2rs/copyright /usr/share/doc/pm2rs/examples/pm2rs-http.socket \
        /usr/lib/systemd/user/pm2rs.service; do
        inside test -s "$file"
    done
    inside getent group pm2rs
}

test_the_bus_starts_it_on_demand() {
    inside systemctl stop pm2rs.service
    contains "$(bus_as alice Ping)" pong
    same "$(inside systemctl is-active pm2rs.service)" active
}

test_an_upgrade_is_not_noticed() {
    local before main
    as alice env PORT=3000 pm2rs start /srv/apps/express.js -i 2 --name web
    eventually online web 2
    eventually inside curl -sS --fail http://127.0.0.1:3000/
    before=$(identities) main=$(inside systemctl show -P MainPID pm2rs)
    load_begins http://127.0.0.1:3000/
    "$rig" install "$PM2RS_NEWER_DEB"
    same "$(inside dpkg-query -W -f '${Version}' pm2rs)" 99.0.0-1
    # The same process executes the new program, with the same workers.
    same "$(property /org/pm2rs1 Manager Pid)" "$main"
    same "$(inside readlink "/proc/$main/exe")" /usr/bin/pm2rs
    same "$(identities)" "$before"
    load_ends
    holds "$load" '.failed == 0 and .ok > 20'
    same "$(inside systemctl is-active pm2rs)" active
}
identities() { processes | jq -c 'map([.name, .pm_id, .pid, .pm2_env.restart_time, .pm2_env.pm_uptime])'; }

test_a_way_back_is_not_noticed_either() {
    local before
    before=$(identities)
    load_begins http://127.0.0.1:3000/
    "$rig" install "$(package)"
    same "$(identities)" "$before"
    "$rig" install "$PM2RS_NEWER_DEB"
    same "$(identities)" "$before"
    load_ends
    holds "$load" '.failed == 0 and .ok > 20'
}

test_removal_ends_everything() {
    local pids
    pids=$(pids_of web)
    [ -n "$pids" ]
    inside dpkg --remove pm2rs
    # shellcheck disable=SC2086
    gone $pids
    same "$(inside pgrep -fc 'pm2rs|/srv/apps' || true)" 0
    inside test -d /var/lib/pm2rs
}

test_what_was_saved_outlives_a_removal() {
    "$rig" install "$PM2RS_NEWER_DEB"
    eventually online web 2
}

test_a_purge_leaves_no_trace() {
    inside dpkg --purge pm2rs
    inside rm -rf /var/tmp/packages
    same "$(inside find / -xdev -iname '*pm2rs*' -not -path '/proc/*' -not -path '/srv/*' -not -path '/home/*')" ""
    same "$(inside grep -rl --exclude='*-' pm2rs /etc /var/lib/systemd || true)" ""
    same "$(inside systemctl --failed --no-legend --plain)" ""
    denied inside getent group pm2rs
}

test_a_purge_empties_a_file_system_of_its_own() {
    "$rig" install "$(package)"
    inside systemctl stop pm2rs
    inside mount -t tmpfs tmpfs /var/lib/pm2rs
    inside systemctl start pm2rs
    inside dpkg --purge pm2rs
    same "$(inside ls -A /var/lib/pm2rs)" ""
    denied inside getent group pm2rs
}
