# Everything by busctl alone: each method of the Manager, App, Process and Job objects, and what they answer to nonsense.

setup() {
    users alice
    install_package
}

test_ping_and_properties() {
    same "$(bus Ping | jq -r '.data[0]')" pong
    same "$(property /org/pm2rs1 Manager Mode)" system
    same "$(property /org/pm2rs1 Manager Pid)" "$(inside systemctl show -P MainPID pm2rs)"
    same "$(property /org/pm2rs1 Manager Version)" "$(pm2rs --silent --version | tail -n1)"
    same "$(property /org/pm2rs1 Manager Apps)" 0
}

test_start_app() {
    same "$(bus_as alice StartApp 'sa{sv}' "$(spec alice echo /srv/apps/echo.js)" 0 | job_result)" done
    same "$(bus_as alice StartApp 'sa{sv}' \
        "$(spec alice web /srv/apps/express.js '.exec_mode = "cluster_mode" | .instances = 2 | .env.PORT = "3000"')" 0 |
        job_result)" done
    online echo 1
    online web 2
    same "$(property /org/pm2rs1 Manager Processes)" 3
    same "$(property /org/pm2rs1 Manager Online)" 3
}

test_a_second_start_of_the_same_is_refused_unless_forced() {
    local answer
    answer=$(bus_as alice StartApp 'sa{sv}' "$(spec alice echo /srv/apps/echo.js)" 0 2>&1 || true)
    contains "$answer" already
    online echo 1
    same "$(bus_as alice StartApp 'sa{sv}' "$(spec alice echo /srv/apps/echo.js)" 1 force b true | job_result)" done
    online echo 2
    same "$(bus Delete as 1 3 | job_result)" done
}

test_resolve() {
    same "$(bus Resolve as 1 web | jq -c '.data[0]')" "[1,2]"
    same "$(bus Resolve as 1 0 | jq -c '.data[0]')" "[0]"
    same "$(bus Resolve as 1 all | jq -c '.data[0] | sort')" "[0,1,2]"
    same "$(bus Resolve as 1 default | jq -c '.data[0] | sort')" "[0,1,2]"
    same "$(bus Resolve as 1 '/^w/' | jq -c '.data[0]')" "[1,2]"
    same "$(bus Resolve as 1 /srv/apps/echo.js | jq -c '.data[0]')" "[0]"
    contains "$(bus Resolve as 1 nothing 2>&1 || true)" nothing
}

test_list_processes() {
    holds "$(bus ListProcesses | jq -r '.data[0]')" 'length == 3 and all(.pm2_env.username == "alice")'
    holds "$(bus_as alice ListProcesses | jq -r '.data[0]')" 'length == 3'
}

test_get_environment() {
    same "$(bus GetEnvironment u 1 | jq -r '.data[0].PORT')" 3000
    same "$(bus_as alice GetEnvironment u 1 | jq -r '.data[0].PORT')" 3000
}

test_send_line_message_and_signal() {
    bus_as alice SendLine us 0 hello
    bus_as alice SendMessage us 0 '{"a":1}'
    bus_as alice SendSignal ass 1 echo SIGUSR2
    eventually echo_heard 'line hello'
    eventually echo_heard 'message {"a":1}'
    eventually echo_heard 'signal SIGUSR2'
}
echo_heard() { contains "$(inside journalctl -o cat PM2RS_APP=echo)" "$1"; }

test_trigger() {
    holds "$(bus_as alice Trigger asss 1 echo greet x)" '.data[0] | length == 1 and (.[0][1] | fromjson | .got == "x")'
}

test_restart_and_reset() {
    local before
    before=$(pids_of echo)
    same "$(bus_as alice Restart 'asa{sv}' 1 echo 0 | job_result)" done
    [ "$(pids_of echo)" != "$before" ]
    same "$(property /org/pm2rs1/process/0 Process Restarts)" 1
    bus_as alice Reset as 1 echo
    same "$(property /org/pm2rs1/process/0 Process Restarts)" 0
}

test_restart_merges_an_environment() {
    same "$(bus_as alice Restart 'asa{sv}' 1 echo 1 env 'a{ss}' 1 ADDED yes | job_result)" done
    same "$(bus_as alice GetEnvironment u 0 | jq -r '.data[0].ADDED')" yes
}

test_reload() {
    local before
    before=$(pids_of web | sort)
    same "$(bus_as alice Reload 'asa{sv}' 1 web 1 batch u 1 | job_result)" done
    online web 2
    [ "$(pids_of web | sort)" != "$before" ]
}

test_scale() {
    same "$(bus_as alice Scale ss web 4 | job_result)" done
    online web 4
    same "$(bus_as alice Scale ss web -- -2 | job_result)" done
    online web 2
    same "$(bus_as alice Scale ss web +1 | job_result)" done
    online web 3
    same "$(bus_as alice Scale ss web 2 | job_result)" done
    contains "$(bus_as alice Scale ss web 2 2>&1 || true)" "nothing to do"
    contains "$(bus_as alice Scale ss web 0 2>&1 || true)" "at least one"
    online web 2
}

test_stop() {
    same "$(bus_as alice Stop as 1 web | job_result)" done
    online web 0
    holds "$(processes)" 'map(select(.name == "web")) | length == 2 and all(.pm2_env.status == "stopped" and .pid == 0)'
    same "$(bus_as alice Restart 'asa{sv}' 1 web 0 | job_result)" done
    online web 2
}

test_objects_of_apps_and_processes() {
    local process
    process=$(processes | jq 'map(select(.name == "web"))[0].pm_id')
    same "$(property /org/pm2rs1/app/web App Instances)" 2
    same "$(property /org/pm2rs1/app/web App Mode)" cluster_mode
    same "$(property /org/pm2rs1/app/web App Owner)" "$(inside id -u alice)"
    same "$(property "/org/pm2rs1/process/$process" Process Status)" online
    same "$(property "/org/pm2rs1/process/$process" Process State)" ready
    same "$(as alice busctl --json=short call org.pm2rs1 /org/pm2rs1/app/web org.pm2rs1.App Scale s 3 | job_result)" done
    same "$(as alice busctl --json=short call org.pm2rs1 /org/pm2rs1/app/web org.pm2rs1.App Reload | job_result)" done
    same "$(as alice busctl --json=short call org.pm2rs1 "/org/pm2rs1/process/$process" org.pm2rs1.Process Restart | job_result)" done
    as alice busctl call org.pm2rs1 "/org/pm2rs1/process/$process" org.pm2rs1.Process SendSignal s SIGWINCH
    same "$(as alice busctl --json=short call org.pm2rs1 /org/pm2rs1/app/web org.pm2rs1.App Scale s 2 | job_result)" done
    online web 2
}

test_the_tree_can_be_browsed() {
    local tree
    tree=$(inside busctl tree --list org.pm2rs1)
    contains "$tree" /org/pm2rs1/app/web
    contains "$tree" /org/pm2rs1/process/0
    contains "$(inside busctl introspect org.pm2rs1 /org/pm2rs1)" GetManagedObjects
    contains "$(inside busctl call org.pm2rs1 /org/pm2rs1 org.freedesktop.DBus.ObjectManager GetManagedObjects)" app/web
}

test_open_logs() {
    # busctl prints a descriptor and closes it; that it is one is what can be seen from here
    same "$(bus_as alice OpenLogs 'asa{sv}' 1 echo 1 lines u 5 | jq -r .type)" h
}

test_flush_and_reopen_logs() {
    bus_as alice FlushLogs as 1 echo
    bus ReopenLogs
}

test_save_clear_and_resurrect() {
    local dump
    dump=$(bus_as alice Save b false | jq -r '.data[0]')
    holds "$(inside cat "$dump")" 'length >= 2'
    same "$(inside stat -c %a "$dump")" 600
    same "$(bus_as alice Delete as 1 all | job_result)" done
    same "$(processes)" "[]"
    same "$(bus_as alice Resurrect | job_result)" done
    eventually online web 2
    online echo 1
    bus_as alice ClearSaved
}

test_report() {
    contains "$(bus Report | jq -r '.data[0]')" web
}

test_errors_are_typed() {
    contains "$(inside busctl call org.pm2rs1 /org/pm2rs1 org.pm2rs1.Manager Stop as 1 nothing 2>&1 || true)" nothing
    contains "$(inside dbus-send --system --print-reply --dest=org.pm2rs1 /org/pm2rs1 org.pm2rs1.Manager.Stop \
        array:string:nothing 2>&1 || true)" org.pm2rs1.Error.NoSuchTarget
    contains "$(inside dbus-send --system --print-reply --dest=org.pm2rs1 /org/pm2rs1 org.pm2rs1.Manager.GetEnvironment \
        uint32:4711 2>&1 || true)" org.pm2rs1.Error.
}

start_done() { bus_as alice StartApp 'sa{sv}' "$1" 0 | job_result | grep -x done; }

test_nonsense_is_refused_and_changes_nothing() {
    local before each
    before=$(processes | jq -c 'map([.pm_id, .pid])')
    for each in '' 'null' '[]' '{' '{"name":"x"}' '{"name":"x","script":"relative.js"}' \
        '{"name":"x","script":"/srv/apps/echo.js","instances":"many"}' '{"name":"x","script":"/srv/apps/echo.js","unknown":1}'; do
        denied start_done "$each"
    done
    denied bus SendSignal ass 1 echo SIGNOTHING
    denied bus SendMessage us 0 '{'
    denied bus Restart 'asa{sv}' 1 all 1 spec s '{}'
    same "$(processes | jq -c 'map(select(.name != "x")) | map([.pm_id, .pid])')" "$before"
}

test_jobs_have_a_result() {
    local path
    path=$(bus_as alice Restart 'asa{sv}' 1 echo 0 | jq -r '.data[0]')
    same "$(inside busctl --json=short call org.pm2rs1 "$path" org.pm2rs1.Job Wait | jq -r '.data[0]')" done
    same "$(property "$path" Job Kind)" restart
    same "$(property "$path" Job State)" done
    denied inside busctl call org.pm2rs1 /org/pm2rs1/job/99999 org.pm2rs1.Job Wait
}

test_reexecute_answers_and_keeps_process_and_workers() {
    local before main
    before=$(pids_of web | sort) main=$(property /org/pm2rs1 Manager Pid)
    denied bus_as alice Reexecute
    bus Reexecute
    # Who asks meanwhile waits for the program that has taken over.
    contains "$(bus_as alice Ping)" pong
    same "$(property /org/pm2rs1 Manager Pid)" "$main"
    online web 2
    same "$(pids_of web | sort)" "$before"
    contains "$(inside journalctl -u pm2rs)" "executing the installed program"
}

test_kill_ends_everything() {
    local pids
    pids=$(pids_of web)
    bus Kill >/dev/null
    # shellcheck disable=SC2086
    eventually gone $pids
}
