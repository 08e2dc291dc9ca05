# Users of one machine: what is one's own stays one's own, also from root's commands and from the daemon's place.

setup() {
    users alice bob
    install_package
    inside bash -c 'printf "%s" "$1" >/srv/root.json' _ \
        '{ "apps": [ { "name": "api", "script": "/srv/apps/echo.js", "cwd": "/srv/apps", "env": { "SECRET": "of-root" } } ] }'
}

owners() { processes | jq -c --arg name "$1" '[.[] | select(.name == $name) | .pm2_env.owner]'; }

test_roots_file_is_about_roots_apps() {
    as alice pm2rs start /srv/apps/echo.js --name api
    # An id that is somebody's name, too.
    as bob pm2rs start /srv/apps/echo.js --name 1
    local alices command
    alices=$(pids_of api)
    for command in start restart reload startOrReload apply; do
        pm2rs "$command" /srv/root.json
        same "$(owners api)" '[1000,0]'
    done
    pm2rs scale api 2
    same "$(owners api)" '[1000,0,0]'
    pm2rs restart all --update-env
    pm2rs stop /srv/root.json
    pm2rs delete /srv/root.json
    same "$(owners api)" '[1000]'
    lacks "$(as alice pm2rs env 0)" of-root
    lacks "$(as alice pm2rs jlist)" of-root
    # Nothing but `restart all` was about alice's.
    same "$(processes | jq '.[] | select(.name == "api") | .pm2_env.restart_time')" 1
    gone "$alices"
    pm2rs delete all
}

test_roots_environment_is_not_for_apps_of_the_same_name() {
    as alice pm2rs start /srv/apps/echo.js --name twin
    pm2rs start /srv/apps/echo.js --name twin
    inside env TOKEN=of-root pm2rs restart all --update-env
    inside env TOKEN=of-root pm2rs restart twin --update-env
    lacks "$(as alice pm2rs jlist)" of-root
    contains "$(pm2rs jlist)" of-root
    pm2rs delete all
}

test_what_a_probe_leaves_behind_is_not_the_daemons() {
    as alice bash -c 'printf "%s" "$1" >probed.json' _ '{ "apps": [ { "name": "probed", "script": "/srv/apps/echo.js",
        "probe": { "exec": ["/bin/sh", "-c", "cat /proc/self/cgroup >place; ulimit -Sn >files; setsid sleep 987654 & exit 0"] } } ] }'
    as alice pm2rs start probed.json
    eventually online probed 1
    contains "$(inside cat /home/alice/place)" /pm2rs.slice/
    same "$(inside cat /home/alice/files)" 1024
    same "$(inside pgrep -f 'sleep 987654' | wc -l)" 1
    as alice pm2rs delete probed
    eventually denied inside pgrep -f 'sleep 987654'
}

test_users_do_not_share_keys() {
    local keyring='print syscall(250, 0, -3, 0), "\n"; sleep 1000' # KEYCTL_GET_KEYRING_ID
    as alice pm2rs start /usr/bin/perl --interpreter none --name keys -- -e "\$| = 1; $keyring"
    as bob pm2rs start /usr/bin/perl --interpreter none --name keys -- -e "\$| = 1; $keyring"
    local file
    for file in /home/alice /home/bob; do
        eventually inside test -s "$file/.pm2rs/logs/keys-out.log"
    done
    local alices bobs
    alices=$(inside cat /home/alice/.pm2rs/logs/keys-out.log)
    bobs=$(inside cat /home/bob/.pm2rs/logs/keys-out.log)
    [ "$alices" -gt 0 ] && [ "$bobs" -gt 0 ] && [ "$alices" != "$bobs" ] || { die "a keyring each: $alices, $bobs"; return 1; }
}

test_patterns_do_not_hold_up_everybody() {
    local before patterns=() number
    as alice pm2rs start /srv/apps/echo.js --name aaaa
    before=$(inside systemctl show pm2rs -P MainPID)
    for ((number = 0; number < 1000; number++)); do patterns+=("/^a|\\w{18}$number/"); done
    denied bus_as alice Resolve as 1000 "${patterns[@]}"
    same "$(inside systemctl show pm2rs -P MainPID)" "$before"
}
