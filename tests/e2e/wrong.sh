# Wrong input: one clear line on stderr, exit status 1, and nothing has changed.

setup() {
    users alice
    install_package
    as alice env PORT=3000 pm2rs start /srv/apps/express.js --name web
    eventually online web 1
}

file() { inside bash -c 'printf "%s" "$2" >"$1"; chmod 644 "$1"' _ "$1" "$2"; }

test_no_such_script() {
    refused as alice pm2rs start /srv/apps/missing.js
    contains "$complaint" /srv/apps/missing.js
}

test_no_such_user() {
    refused pm2rs start /srv/apps/echo.js --name other --uid nobody-here
    contains "$complaint" nobody-here
}

test_no_such_interpreter() {
    refused as alice pm2rs start /srv/apps/echo.js --name other --interpreter no-such-program
    contains "$complaint" no-such-program
}

test_a_bad_option() {
    refused as alice pm2rs start /srv/apps/echo.js --instancez 2
    contains "$complaint" instances
    refused as alice pm2rs start /srv/apps/echo.js -i many
    contains "$complaint" many
}

test_a_bad_command() {
    local said status=0
    said=$(as alice pm2rs relaod web 2>&1) || status=$?
    same "$status" 1
    contains "$(head -n1 <<<"$said")" reload
}

test_no_such_target() {
    local verb
    for verb in stop restart reload delete describe env; do
        refused as alice pm2rs "$verb" nothing
        contains "$complaint" nothing
    done
}

test_a_malformed_json_file_is_named_with_its_line() {
    file /tmp/bad.json $'{\n  "apps": [\n    { "name": "x", "script": "/srv/apps/echo.js" \n  ]\n}\n'
    refused as alice pm2rs start /tmp/bad.json
    contains "$complaint" /tmp/bad.json
    [[ $complaint =~ [345] ]]
}

test_a_malformed_javascript_file_is_named_with_its_line() {
    file /tmp/ecosystem.config.js $'module.exports = {\n  apps: [\n    { name: "x", script: \n  ]\n}\n'
    refused as alice pm2rs start /tmp/ecosystem.config.js
    contains "$complaint" ecosystem.config.js
    [[ $complaint == *:4* || $complaint == *"line 4"* ]]
}

test_a_wrong_type_names_file_app_and_key() {
    file /tmp/types.json '{ "apps": [ { "name": "typed", "script": "/srv/apps/echo.js", "max_restarts": "often" } ] }'
    refused as alice pm2rs start /tmp/types.json
    contains "$complaint" typed
    contains "$complaint" max_restarts
}

test_a_script_that_may_not_be_executed() {
    file /tmp/not-executable.bin 'x'
    refused as alice pm2rs start /tmp/not-executable.bin --interpreter none --name other
    contains "$complaint" /tmp/not-executable.bin
}

test_a_port_in_use_reaches_the_app_and_the_user() {
    local status=0 said
    inside bash -c 'exec socat TCP-LISTEN:3100,fork,reuseaddr,bind=0.0.0.0 /dev/null' &
    eventually inside bash -c 'ss -ltn | grep -q :3100'
    said=$(as alice env PORT=3100 pm2rs start /srv/apps/express.js -i 2 --name taken 2>&1) || status=$?
    eventually heard_of_the_port
    as alice pm2rs delete taken
    inside pkill socat || true
    online web 1
    echo "$said" "$status"
}
heard_of_the_port() { contains "$(as alice pm2rs logs taken --nostream --lines 100)" EADDRINUSE; }
