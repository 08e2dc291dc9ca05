# A script's life, as PM2's quick start and many a deployment script have it.
. "$CORPUS/insist.bash"

says '[PM2] Starting' pm2 start app.js --name web -- --port 80
until_same '.[0].pm2_env.status' online
refuses 'Script already launched, add -f option to force re-execution' pm2 start app.js --name web
says '[PM2] Done.' pm2 start app.js --name production-one --env production

# What people grep and count in the table, in columns.
pm2 list | grep -q 'web.*online' || wrong 'web is not online'
same "$(pm2 ls | grep -c online)" 2
same "$(pm2 status | awk -F'│' '/web/ {gsub(/ /, "", $3); print $3}')" web
same "$(pm2 ls -m | grep -c '^status : online')" 2
same "$(pm2 ls --sort name:desc | grep -o 'web\|production-one' | head -n1)" web

pid=$(pm2 pid web)
kill -0 "$pid" || wrong "no process $pid"
same "$(pm2 id web)" '[ 0 ]'
same "$(pm2 id nothing)" '[]'
same "$(pm2 pid nothing)" ''
same "$(cat "$PM2_HOME/pids/web-0.pid")" "$pid"
says '│ script args       │ --port 80' pm2 describe web
same "$(pm2 show web | grep -E '│ status' | awk '{print $4}')" online
says 'PWD: ' pm2 env 0

says 'Applying action restartProcessId on app [web](ids: [ 0 ])' pm2 restart web
says "Applying action restartProcessId on app [0](ids: [ '0' ])" pm2 restart 0
same "$(field '.[0].pm2_env.restart_time')" 2
says 'on app [app.js](ids: [ 0, 1 ])' pm2 restart app.js
says 'on app [/^w/](ids: [ 0 ])' pm2 restart /^w/
says '[PM2] [web](0) ✓' pm2 reload web
COLOUR=blue pm2 restart web --update-env >/dev/null
same "$(field '.[0].pm2_env.COLOUR')" blue
says 'Resetting meta for process id 0' pm2 reset web
same "$(field '.[0].pm2_env.restart_time')" 0

says '[PM2] [web](0) ✓' pm2 stop web
same "$(field '.[0] | [.pid, .monit.memory, .pm2_env.status] | join(" ")')" '0 0 stopped'
says 'Process successfully started' pm2 start web
same "$(field '.[0].pm2_env.status')" online

# One target after the other, up to one that does not exist.
pm2 start app.js -f --name third >/dev/null
pm2 delete third nothing web >/dev/null 2>&1 && wrong 'a wrong target is no error'
same "$(field 'map(.name) | join(" ")')" 'web production-one'

says 'Successfully saved in' pm2 save
pm2 delete all >/dev/null
same "$(pm2 jlist)" '[]'
says '[PM2] Resurrecting' pm2 resurrect
same "$(field 'map(.name) | sort | join(" ")')" 'production-one web'
pm2 -s stop all
same "$(pm2 -s jlist | jq length)" 2
says '[PM2] [v] PM2 Daemon Stopped' pm2 kill
