# Ways to deploy that people have written down: start or restart, describe and reload, from blue to green on one port.
. "$CORPUS/insist.bash"

PORT=$(free_port)
export PORT
deploy() { pm2 start http.js --name api -i 2 >/dev/null 2>&1 || pm2 restart api --update-env >/dev/null; }
for colour in red yellow; do
    NODE_ENV=$colour deploy || wrong 'not deployed'
    same "$(field 'map(.pm2_env.NODE_ENV) | unique | join(" ")')" $colour
done
same "$(field 'map(.pm2_env.restart_time) | join(" ")')" '1 1'
until_same 'map(.pm2_env.status) | unique | join(" ")' online
until_answers yellow

for verb in start reload; do
    pm2 describe web >/dev/null 2>&1 && did=reload || did=start
    same $did $verb
    if [ $did = start ]; then pm2 start app.js --name web >/dev/null; else pm2 reload web >/dev/null; fi || wrong "no $verb"
done
if ! pm2 id web | grep -q '\[ 2 \]'; then wrong "web has another id: $(pm2 id web)"; fi

# Green beside blue: both serve on the port for a while.
NODE_ENV=green pm2 start http.js --name green -i 1 >/dev/null
until_same 'map(select(.name == "green"))[0].pm2_env.status' online
until_answers green
until_answers yellow
same "$(field 'map(select(.name == "green"))[0].pm2_env.restart_time')" 0
pm2 delete api >/dev/null
for _ in 1 2 3 4 5 6; do same "$(curl -s "localhost:$PORT")" green; done

# Everything away, everything anew.
pm2 delete all >/dev/null && pm2 start ecosystem.config.js --env production >/dev/null || wrong 'not anew'
same "$(pm2 ls | grep -c online)" 3
pm2 delete all -s || true
same "$(pm2 delete all 2>&1)" '[PM2][WARN] No process found'
