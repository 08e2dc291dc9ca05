# An ecosystem file from the first start to the last delete, and the other ways to write one.
. "$CORPUS/insist.bash"

says 'Applications api, worker not running, starting...' pm2 start
same "$(field 'map(.name) | sort | join(" ")')" 'api api worker'
same "$(field '[.[] | select(.name == "api") | .pm2_env.NODE_APP_INSTANCE] | sort | join(" ")')" '0 1'
same "$(field '.[] | select(.name == "worker").pm2_env | [.namespace, .args[1], .max_memory_restart] | join(" ")')" \
    'jobs two 209715200'
same "$(field 'map(select(.name == "api"))[0].pm2_env | [.NODE_ENV, .LIMIT, .exec_mode, .instances] | join(" ")')" \
    'development 1 cluster_mode 2'

pm2 reload ecosystem.config.js --only api --env production | grep -q '┌' && wrong 'a list after a reload'
same "$(field 'map(select(.name == "api"))[1].pm2_env.NODE_ENV')" production
says 'reloadProcessId on app [api]' pm2 startOrReload ecosystem.config.js
says 'restartProcessId on app [worker]' pm2 startOrRestart ecosystem.config.js --only worker
says '[PM2] [worker]' pm2 stop jobs
pm2 stop ecosystem.config.js --only worker >/dev/null || wrong 'stopping what is stopped is an error'
pm2 start ecosystem.config.js --only nothing >/dev/null || wrong 'nothing to start is an error'

pm2 scale api +1 | grep -c 'Scaling up application' | grep -qx 1 || wrong 'not scaled up by one'
pm2 scale api 1 >/dev/null
refuses 'Nothing to do' pm2 scale api 1
pm2 delete api >/dev/null
pm2 delete ecosystem.config.js >/dev/null || wrong 'an app that is gone already is an error'
same "$(pm2 jlist)" '[]'
pm2 delete ecosystem.config.js >/dev/null || wrong 'a file of which nothing runs is an error'

says 'App [j1] launched (1 instances)' pm2 start process.json
says 'App [y1] launched (1 instances)' pm2 start process.yml
echo '{"apps":[{"name":"s1","script":"app.js"}]}' | pm2 start - >/dev/null
same "$(field 'map(.name) | join(" ")')" 'j1 y1 s1'
echo '{"apps":[{"name":"s1","script":"app.js"}]}' | pm2 delete - >/dev/null
same "$(field 'map(.name) | join(" ")')" 'j1 y1'

# Plans, folders that are not there, and readiness are told of; as many processes as CPUs write one file.
echo '{"apps":[{"name":"c","script":"app.js","instances":"max","cron_restart":"0 0 * * *"}]}' >cron.json
same "$(pm2 start cron.json 2>/dev/null | grep -c 'cron restart at 0 0 \* \* \*')" 1
same "$(field 'map(select(.name == "c").pm2_env.pm_out_log_path) | unique[]')" "$PM2_HOME/logs/c-out.log"
same "$(field 'map(select(.name == "c").pm2_env.PM2_JSON_PROCESSING) | unique[]')" true
echo '{"apps":[{"name":"f","script":"app.js","out_file":"new/f.log"}]}' >folder.json
says "[PM2] Creating folder: $PWD/new" pm2 start folder.json
pm2 delete c f >/dev/null

# A container's HOME is no account's, and an app may name its own.
echo '{"apps":[{"name":"h","script":"app.js"},{"name":"i","script":"app.js","env":{"HOME":"/i","USER":"i"}}]}' >home.json
HOME=$PWD/new pm2 start home.json >/dev/null
home_of() { tr '\0' '\n' <"/proc/$(pm2 pid "$1")/environ" | sed -n 's/^HOME=//p'; }
same "$(home_of h) $(home_of i)" "$PWD/new /i"
pm2 delete h i >/dev/null

# One app that cannot run does not hold up the others.
refuses 'Script not found' pm2 start mixed.config.js
same "$(field 'map(.name) | join(" ")')" 'j1 y1 there'
