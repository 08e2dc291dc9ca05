# Sockets from .socket units: port 80 for a worker that is not root, and LISTEN_FDS for what is not Node.js.

setup() {
    users alice
    install_package
    inside cp /usr/share/doc/pm2rs/examples/pm2rs-http.socket /etc/systemd/system/
    inside systemctl daemon-reload
    inside systemctl stop pm2rs
    inside systemctl enable --now pm2rs-http.socket
    inside systemctl start pm2rs
}

test_port_80_is_served_by_an_ordinary_users_workers() {
    # Without the socket unit it could not: ports below this are root's.
    [ "$(inside sysctl -n net.ipv4.ip_unprivileged_port_start)" -gt 80 ] ||
        inside sysctl -w net.ipv4.ip_unprivileged_port_start=1024
    as alice pm2rs start /srv/apps/privileged-port.js -i 2 --name front
    eventually online front 2
    same "$(inside curl -sS --max-time 60 http://127.0.0.1/)" "$(inside id -u alice)"
    same "$(inside curl -sS --max-time 60 'http://[::1]/')" "$(inside id -u alice)"
}

test_the_port_stays_open_while_the_service_restarts() {
    inside bash -c 'for ((i = 0; i < 200; i++)); do curl -sS --max-time 60 http://127.0.0.1/ || echo lost; done' \
        >"$output/answers" 2>&1 &
    inside systemctl restart pm2rs
    wait %1
    lacks "$(cat "$output/answers")" refused
    lacks "$(cat "$output/answers")" lost
}

test_a_port_that_is_not_theirs_stays_closed_to_users() {
    as alice env PORT=81 pm2rs start /srv/apps/express.js --name forbidden
    eventually is_refused_the_port
    as alice pm2rs delete forbidden
}
is_refused_the_port() {
    contains "$(inside journalctl -o cat PM2RS_APP=forbidden)" EACCES
}

test_another_program_gets_the_socket_that_is_named_like_its_app() {
    inside bash -c 'printf "[Socket]\nService=pm2rs.service\nListenStream=8089\nListenStream=/run/plain.sock\nFileDescriptorName=alice@plain\n" \
        >/etc/systemd/system/plain.socket; systemctl daemon-reload; systemctl stop pm2rs; systemctl start plain.socket pm2rs'
    as alice pm2rs start /srv/apps/sockets.sh --interpreter none --name plain
    eventually plain_has_both
    # By another name only where the app says so; and what an app has nobody else gets.
    as alice pm2rs start /srv/apps/sockets.sh --interpreter none --name other-plain
    eventually online other-plain 1
    lacks "$(inside journalctl -o cat PM2RS_APP=other-plain)" inherited
    as alice pm2rs delete plain
    same "$(bus_as alice StartApp 'sa{sv}' \
        "$(spec alice by-name /srv/apps/sockets.sh '.interpreter = "none" | .listen = ["plain"]')" 0 | job_result)" done
    eventually by_name_has_both
}
plain_has_both() { contains "$(inside journalctl -o cat PM2RS_APP=plain)" "inherited 2 alice@plain:alice@plain"; }
by_name_has_both() { contains "$(inside journalctl -o cat PM2RS_APP=by-name)" "inherited 2 alice@plain:alice@plain"; }

test_another_program_inherits_what_its_app_listens_on() {
    same "$(bus_as alice StartApp 'sa{sv}' \
        "$(spec alice other /srv/apps/sockets.sh '.interpreter = "none" | .listen = ["127.0.0.1:8088"]')" 0 | job_result)" done
    eventually heard_of_its_sockets
}
heard_of_its_sockets() { contains "$(inside journalctl -o cat PM2RS_APP=other)" "inherited 1"; }
