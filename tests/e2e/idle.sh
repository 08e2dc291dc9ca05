# What a daemon costs that has nothing to do: ten apps run, nobody asks anything.

setup() {
    users alice
    install_package
    inside systemctl start pm2rs
    local id
    for id in 1 2 3 4 5 6 7 8 9 10; do
        as alice env PORT=$((3000 + id)) pm2rs start /srv/apps/express.js -i 1 --name "app$id"
    done
    eventually ten_listen
}
ten_listen() { same "$(inside ss -Hltn 'sport >= 3001 and sport <= 3010' | wc -l)" 10; }

daemon() { inside systemctl show -P MainPID pm2rs; }

test_it_takes_less_than_12_mib_for_itself() {
    # PSS: what only it has, and its share of what others have as well. What is built for tests is some four times as much
    # code, so of that only the data count.
    local what=Pss limit=12288 pss
    [ "${PM2RS_PROFILE:-release}" = release ] || what=Pss_Anon limit=5120
    pss=$(inside awk -v what="$what:" '$1 == what { print $2 }' "/proc/$(daemon)/smaps_rollup")
    echo "$what: $pss KiB"
    [ "$pss" -lt "$limit" ] || die "less than $limit KiB"
}

test_it_sleeps() {
    # What a start leaves to be done (uptime that counts as stable, first looks at a worker's health) is done after seconds.
    eventually it_sleeps
}
it_sleeps() { # the pause is what is measured; the watchdog's beat and a timer may fall into it
    local before after
    before=$(wake_ups)
    sleep 6
    after=$(wake_ups)
    [ $((after - before)) -le 3 ] || die "3 wake-ups in 6 s at most, not $((after - before))"
}
wake_ups() {
    inside bash -c 'awk "/^voluntary_ctxt_switches/ { sum += \$2 } END { print sum }" /proc/$1/task/*/status' _ "$(daemon)"
}
