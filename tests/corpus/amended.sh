# Options that are typed with the start and the restart of an app, as jlist and describe show them afterwards.
. "$CORPUS/insist.bash"

of() { field ".[0].pm2_env | [$1] | map(tostring) | join(\" \")"; }
says '[PM2] cron restart at 0 3 * * *' pm2 start app.js --name a --cron-restart '0 3 * * *' \
    --node-args='--no-warnings --trace-warnings' --max-memory-restart 100M --watch sub --ignore-watch 'logs *.log' -- one
same "$(of '(.node_args | length), .cron_restart, .args[0]' | tr ' ' _)" 2_0_3_*_*_*_one
says '[PM2] disabling cron restart' pm2 restart a --cron-restart 0
same "$(of .cron_restart)" 0
pm2 restart a --node-args=null >/dev/null
same "$(of '(.node_args | length)')" 0
until_same '.[0].pm2_env.status' online
pm2 restart a --max-memory-restart 200M --kill-timeout 2222 -- two three >/dev/null
same "$(of '.max_memory_restart, .kill_timeout, (.args | join("+"))')" '209715200 2222 two+three'
pm2 restart a >/dev/null
same "$(of '(.args | join("+"))')" two+three
pm2 stop a >/dev/null
pm2 start a --watch >/dev/null
same "$(of '.watch != false, (.ignore_watch | join("+"))')" 'true logs+*.log'
pm2 restart a --name b >/dev/null
same "$(pm2 id a) $(pm2 id b)" '[] [ 0 ]'
pm2 delete b >/dev/null

FOO=1 BAR=2 pm2 start app.js --name f --filter-env FOO >/dev/null
same "$(field '.[0].pm2_env | [(.filter_env | tostring | contains("FOO")), .FOO, .BAR] | map(tostring) | join(" ")')" 'true null 2'
same "$(pm2 env 0 | grep -cE '^(namespace: default|NODE_APP_INSTANCE: 0|PM2_USAGE: CLI|BAR: 2|km_link: false)$')" 5
BAR=3 pm2 restart f >/dev/null
same "$(pm2 env 0 | grep ^BAR)" 'BAR: 2'
BAR=3 pm2 reload f --update-env >/dev/null
same "$(pm2 env 0 | grep ^BAR)" 'BAR: 3'
if [ "$(id -u)" = 0 ] && cp app.js /tmp/pm2-corpus-$$.js; then
    chmod 644 /tmp/pm2-corpus-$$.js
    pm2 start /tmp/pm2-corpus-$$.js --name other --uid nobody --no-autostart >/dev/null
    same "$(pm2 ls | awk -F '│' '/ other / {gsub(/ /, "", $13); print $13}')" nobody
    rm /tmp/pm2-corpus-$$.js
fi
# PM2 names each app that a file has no such environment for.
same "$(pm2 start ecosystem.config.js --env nothing | grep -cF 'Environment [nothing] is not defined')" 2
same "$(field 'map(select(.name == "worker"))[0].pm2_env.PM2_JSON_PROCESSING')" true
