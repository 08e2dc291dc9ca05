# The RPM: its scriptlets on a real systemd. (Debian's rpm installs it, as no other distribution can be had everywhere.)

setup() {
    "$rig" copy "$PM2RS_RPM" /var/tmp/packages
}

rpm_file() { echo "/var/tmp/packages/$(basename "$PM2RS_RPM")"; }
install_rpm() { run_rpm --nodeps "$@" "$(rpm_file)"; }
run_rpm() { # Debian's rpm installs nothing without this option, until some release that no longer knows it
    if inside rpm --force-debian --version >/dev/null 2>&1; then
        inside rpm --force-debian "$@"
    else
        inside rpm "$@"
    fi
}

test_it_installs_without_starting_anything_unasked() {
    install_rpm --install
    inside getent group pm2rs
    inside test -x /usr/bin/pm2rs
    inside systemd-analyze verify --man=no pm2rs.service
}

test_it_runs_when_it_is_enabled() {
    inside systemctl enable --now pm2rs
    contains "$(bus Ping)" pong
}

test_installing_it_again_keeps_the_service_up() {
    install_rpm --upgrade --force
    eventually bus Ping
}

test_erasing_it_stops_and_disables_the_service() {
    run_rpm --erase pm2rs
    same "$(inside pgrep -fc /usr/bin/pm2rs || true)" 0
    denied inside test -e /usr/bin/pm2rs
    denied inside test -e /etc/systemd/system/multi-user.target.wants/pm2rs.service
}
