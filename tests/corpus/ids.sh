# Loops over ids, numbers of processes, paths and patterns as targets.
. "$CORPUS/insist.bash"

pm2 start http.js --name svc -i 3 >/dev/null
for id in $(pm2 id svc | tr -d '[],'); do
    pm2 restart "$id" >/dev/null || wrong "cannot restart $id"
    until_same ".[] | select(.pm_id == $id).pm2_env.status" online
done
same "$(field 'map(.pm2_env.restart_time) | join(" ")')" '1 1 1'
pm2 delete 1 >/dev/null
same "$(pm2 id svc)" '[ 0, 2 ]'
pm2 scale svc 3 >/dev/null
same "$(pm2 id svc)" '[ 0, 2, 3 ]'
same "$(field 'map(.pm2_env.NODE_APP_INSTANCE) | sort | join(" ")')" '0 1 2'
says '[PM2] [svc](3) ✓' pm2 scale svc 0
same "$(pm2 id svc)" '[]'
refuses 'Application svc not found' pm2 scale svc 1

mkdir sub && cp app.js sub
pm2 start app.js >/dev/null
pm2 start sub/app.js --name sub >/dev/null
says 'on app [./app.js](ids: [ 0 ])' pm2 restart ./app.js
(cd sub && says 'on app [../app.js](ids: [ 0 ])' pm2 restart ../app.js) || exit 1
(cd sub && says 'on app [app.js](ids: [ 1 ])' pm2 stop app.js) || exit 1
says 'on app [sub/../sub/app.js](ids: [ 1 ])' pm2 restart sub/../sub/app.js
refuses 'not found' pm2 restart ./nothing.js
says 'on app [/^(app|sub)$/](ids: [ 0, 1 ])' pm2 stop '/^(app|sub)$/'
refuses '[PM2][WARN] No process found' pm2 stop /nothing/
says '[PM2] Process successfully started' pm2 start app.js
same "$(field 'map([.name, .pm2_env.status, .pm2_env.restart_time] | join(" ")) | join(", ")')" \
    'app online 2, sub stopped 0'
