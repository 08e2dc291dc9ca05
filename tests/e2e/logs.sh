# Logs on a real systemd: who wrote a line, what the journal says of what happened, and what becomes of both when the
# journal or the daemon goes away.

setup() {
    users alice
    install_package
    inside systemctl start pm2rs
    as alice pm2rs start /srv/apps/counts.js --name api --output NULL --error NULL
    as alice pm2rs start /srv/apps/counts.js --name other
    eventually online api 1
    eventually online other 1
}

journal() { # JOURNALCTL ARGUMENTS...: its entries, as one JSON array
    inside journalctl --sync
    inside journalctl -o json --all "$@" | jq -s .
}
eventually_journal() { # FILTER ARGUMENTS...: jq's answer about the entries is true in time
    local filter=$1
    shift
    eventually holds_journal "$filter" "$@"
}
holds_journal() { local filter=$1; shift; jq -e "$filter" <<<"$(journal "$@")" >/dev/null; }

test_an_apps_lines_bear_its_pid_and_unit() {
    local pid unit lines
    pid=$(pids_of api)
    unit=$(inside sed -n 's|^0::.*/||p' "/proc/$pid/cgroup")
    eventually_journal 'map(select(.MESSAGE == "count 3")) | length == 1' PM2RS_APP=api PM2RS_STREAM=out
    lines=$(journal PM2RS_APP=api PM2RS_STREAM=out)
    holds "$lines" 'all(.SYSLOG_IDENTIFIER == "api" and .PRIORITY == "6" and .PM2RS_INSTANCE == "0")'
    holds "$lines" "all(.SYSLOG_PID == \"$pid\" and .OBJECT_PID == \"$pid\")"
    same "$(jq -r 'map(.PM2RS_UNIT, .OBJECT_SYSTEMD_UNIT) | unique | .[]' <<<"$lines")" "$unit"
    holds "$lines" 'map(.MESSAGE) | .[0:3] == ["count 0", "count 1", "count 2"]'
    holds "$(journal PM2RS_APP=api PM2RS_STREAM=err)" 'map(.MESSAGE + .PRIORITY) | .[0:2] == ["careful4", "oops3"]'
    # One name may be two users' app.
    holds "$lines" "all(.PM2RS_UID == \"$(inside id -u alice)\")"
}

test_the_journal_explains_a_crash_loop() {
    local explained
    # Who dies within min_uptime crashes; on a slow machine Node takes longer than the usual second to get that far.
    inside bash -c 'echo "$1" >/tmp/broken.json' _ \
        '{ "apps": [ { "name": "broken", "script": "/srv/apps/crashes.js", "min_uptime": 60000, "max_restarts": 8 } ] }'
    as alice pm2rs start /tmp/broken.json
    eventually is_errored broken
    inside journalctl --sync
    explained=$(inside journalctl -x -u pm2rs PM2RS_APP=broken)
    contains "$explained" "had too many unstable restarts"
    contains "$explained" "Subject: Process 2 of broken ends again and again"
    contains "$explained" "pm2rs restart broken"
    contains "$explained" "Subject: A worker of broken ended by itself"
    # Each line about a process has an id, and the catalog knows each.
    holds "$(journal -u pm2rs SYSLOG_IDENTIFIER=pm2rs)" 'map(select(.PM2RS_PROCESS != null)) | length > 10 and all(.MESSAGE_ID != null)'
    as alice pm2rs delete broken
    eventually_journal 'map(.MESSAGE) | any(endswith("deleted"))' -u pm2rs PM2RS_APP=broken
    holds "$(journal -u pm2rs SYSLOG_IDENTIFIER=pm2rs)" 'all(.PM2RS_APP != "")'
}
is_errored() { processes | jq -e --arg name "$1" 'any(.name == $name and .pm2_env.status == "errored")' >/dev/null; }

test_lines_for_syslog_are_no_words_of_the_daemon_to_systemd() {
    # systemd ends a line of a notification at a carriage return, too, and every user may send to its socket.
    inside bash -c 'printf "%s\n" "$1" >/tmp/forger.js' _ \
        'setInterval(() => process.stdout.write("x\rERRNO=99\rSTATUS=forged\n"), 100)'
    inside bash -c 'echo "$1" >/tmp/forger.json' _ \
        '{ "apps": [ { "name": "forger", "script": "/tmp/forger.js", "log_syslog": "unix:/run/systemd/notify" } ] }'
    as alice pm2rs start /tmp/forger.json
    eventually_journal 'length > 5' PM2RS_APP=forger PM2RS_STREAM=out
    same "$(inside systemctl show -P StatusErrno pm2rs)" 0
    as alice pm2rs delete forger
}

test_a_syslog_daemon_hears_whose_line_it_is() {
    inside bash -c 'echo "$1" >/tmp/speaker.json' _ \
        '{ "apps": [ { "name": "speaker", "script": "/srv/apps/counts.js", "log_syslog": "unix:/dev/log" } ] }'
    as alice pm2rs start /tmp/speaker.json
    eventually_journal "length > 2 and all(._UID == \"$(inside id -u alice)\")" _TRANSPORT=syslog SYSLOG_IDENTIFIER=speaker
    as alice pm2rs delete speaker
}

test_logs_are_searched_in_the_journal() {
    local since seen
    seen=$(as alice pm2rs logs api --nostream --raw --lines 100000 --grep '^count [0-2]$')
    same "$seen" $'count 0\ncount 1\ncount 2'
    contains "$(as alice pm2rs logs api --nostream --lines 1)" "journal of 0|api last 1 lines:"
    since=$(inside date +%H:%M:%S)
    seen=$(as alice pm2rs logs api --nostream --raw --since "$since")
    lacks "$seen" "count 0"$'\n'
    seen=$(as alice pm2rs logs api --nostream --raw --err --until now)
    lacks "$seen" count
    # Files that bear no times are not needed where the journal does.
    contains "$(as alice pm2rs logs other --since 1h --nostream)" "count 0"
    # What anybody else writes into the journal under an app's name is not the app's.
    printf 'MESSAGE=forged\nPM2RS_APP=api\nPM2RS_PROCESS=0\nPM2RS_UID=%s\nPM2RS_STREAM=out\n' "$(inside id -u alice)" |
        as alice logger --journald
    eventually_journal 'length == 1' MESSAGE=forged
    same "$(as alice pm2rs logs api --nostream --raw --grep forged)" ""
}

test_a_follower_outlives_the_daemon() {
    local follower
    as alice pm2rs logs api --raw --lines 0 --out 2>/dev/null | grep --line-buffered ^count >"$output/followed" &
    follower=$!
    eventually followed 20
    inside systemctl kill --kill-whom=main --signal=KILL pm2rs
    eventually followed $(($(wc -l <"$output/followed") + 100))
    inside pkill -TERM -f 'logs api --raw'
    wait "$follower" || true
    awk '{ if (NR > 1 && $2 != before + 1) { print "after", before, "comes", $0; bad = 1 }; before = $2 } END { exit bad }' \
        "$output/followed"
    # And what was written before is there still.
    same "$(as alice pm2rs logs api --nostream --raw --lines 100000 --grep '^count 0$')" "count 0"
}
followed() { [ "$(wc -l <"$output/followed")" -ge "$1" ]; }

test_a_restarted_journal_gets_every_line() {
    local first last lines
    first=$(last_count other)
    inside systemctl restart systemd-journald
    eventually counted_beyond other $((first + 5))
    last=$(last_count other)
    lines=$(journal PM2RS_APP=other PM2RS_STREAM=out)
    holds "$lines" "map(.MESSAGE | ltrimstr(\"count \") | tonumber) as \$all | [range(0; $last + 1)] - \$all == []"
    holds "$(processes)" 'all(.pm2_env.log_lines_dropped == null)'
}
last_count() { journal "PM2RS_APP=$1" PM2RS_STREAM=out | jq -r 'last.MESSAGE | ltrimstr("count ")'; }
counted_beyond() { [ "$(last_count "$1")" -gt "$2" ]; }

test_a_journal_that_hangs_holds_nobody_up_and_the_messages_say_why() {
    local main full=0
    main=$(inside systemctl show -P MainPID pm2rs)
    inside systemctl kill --kill-whom=main --signal=STOP systemd-journald
    # Its socket takes no more: who writes to it waits.
    inside bash -c 'yes "" | timeout 10 socat -u -b 1 - UNIX-SENDTO:/run/systemd/journal/socket' || full=$?
    same "$full" 124
    as alice timeout 20 pm2rs restart api
    as alice timeout 20 pm2rs restart other
    eventually loses_lines other
    inside systemctl kill --kill-whom=main --signal=CONT systemd-journald
    same "$(inside systemctl show -P MainPID pm2rs)" "$main"
    # What the daemon had to say meanwhile comes late, and with the reason.
    eventually_journal 'map(.MESSAGE) | any(test("^App .other:1. exited")) and any(test("^App .other:1. online"))' -u pm2rs PM2RS_APP=other
    eventually_journal 'map(.MESSAGE) | any(test("log lines are being dropped .*cannot write to the journal"))' -u pm2rs PM2RS_APP=other
    eventually_journal 'map(.MESSAGE) | any(test("log lines are kept again"))' -u pm2rs PM2RS_APP=other
}
loses_lines() { processes | jq -e --arg name "$1" 'any(.name == $name and .pm2_env.log_lines_dropped > 0)' >/dev/null; }

test_a_rate_limit_is_said_and_a_namespace_is_kept_to() {
    local limited
    limited=$(sed -n 's/^pub const RATE_LIMITED: &str = "\(.*\)";/\1/p' "$folder/../../src/logs/message_ids.rs")
    holds "$(journal -u pm2rs "MESSAGE_ID=$limited")" 'length == 0'
    inside mkdir -p /etc/systemd/system/pm2rs.service.d
    inside tee /etc/systemd/system/pm2rs.service.d/log.conf >/dev/null <<<$'[Service]\nLogRateLimitIntervalSec=30s\nLogNamespace=apps'
    inside systemctl daemon-reload
    inside systemctl restart pm2rs
    eventually online api 1
    inside journalctl --namespace=apps --sync
    contains "$(inside journalctl --namespace=apps -x "MESSAGE_ID=$limited")" "LogRateLimitIntervalSec=1us"
    eventually in_the_namespace
    eventually found_in_the_namespace
}
in_the_namespace() { inside journalctl --namespace=apps -o cat PM2RS_APP=api | grep -q '^count '; }
found_in_the_namespace() {
    local line
    line=$(inside journalctl --namespace=apps -o cat -n 1 PM2RS_APP=api PM2RS_STREAM=out)
    same "$(as alice pm2rs logs api --nostream --raw --grep "^$line\$")" "$line"
}

test_lines_that_journald_drops_are_counted_and_said() {
    local dropped
    dropped=$(sed -n 's/^pub const SUPPRESSED: &str = "\(.*\)";/\1/p' "$folder/../../src/logs/message_ids.rs")
    inside tee /etc/systemd/system/pm2rs.service.d/log.conf >/dev/null \
        <<<$'[Service]\nLogRateLimitIntervalSec=1s\nLogRateLimitBurst=100\nLogNamespace=apps'
    inside systemctl daemon-reload
    inside systemctl restart pm2rs
    as alice pm2rs start --name bursts --interpreter none --output NULL /bin/sh -- -c 'while :; do seq 5000; sleep 2; done'
    eventually status_tells_of_dropped_lines
    as alice pm2rs delete bursts
    inside journalctl --namespace=apps --sync
    contains "$(inside journalctl --namespace=apps -x "MESSAGE_ID=$dropped")" "Subject: journald has dropped lines of this service"
}
status_tells_of_dropped_lines() { inside systemctl status pm2rs | grep -q 'log lines dropped by journald'; }
