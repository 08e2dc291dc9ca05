# Scripts that read the lists: exporters of metrics, log rotation, dashboards.
. "$CORPUS/insist.bash"

pm2 start http.js -i 2 --name api --watch --ignore-watch node_modules -l all.log >/dev/null
pm2 start app.js --name quiet -o /dev/null -e "$PM2_HOME/err.log" --merge-logs --time --no-autorestart --max-restarts 3 >/dev/null
until_same '[.[] | select(.pm2_env.status == "online")] | length' 3
until_same '[.[] | select(.pm2_env.node_version != null)] | length' 3

# What pm2-prometheus-exporter and its like take from each process.
field '.[] | [.name, .pm_id, .pid, .monit.cpu, .monit.memory, .pm2_env.status, .pm2_env.restart_time,
    .pm2_env.unstable_restarts, .pm2_env.pm_uptime, .pm2_env.created_at, .pm2_env.exec_mode, .pm2_env.instances,
    .pm2_env.NODE_APP_INSTANCE, .pm2_env.namespace, .pm2_env.version, .pm2_env.node_version, .pm2_env.username,
    .pm2_env.exec_interpreter, .pm2_env.pm_exec_path, .pm2_env.pm_cwd, .pm2_env.axm_monitor, .pm2_env.axm_actions,
    .pm2_env.axm_options, .pm2_env.env, .pm2_env.autorestart, .pm2_env.watch, .pm2_env.unique_id, .pm2_env.vizion,
    .pm2_env.pmx, .pm2_env.treekill, .pm2_env.kill_retry_time] | map(. != null) | all' | sort -u | grep -qx true ||
    wrong 'a field is missing'
same "$(field '[.[] | select(.monit.memory > 1000000)] | length')" 3

# What pm2-logrotate looks for.
same "$(field '.[0].pm2_env.pm_out_log_path')" "$PM2_HOME/logs/api-out-0.log"
same "$(field '.[1].pm2_env.pm_err_log_path')" "$PM2_HOME/logs/api-error-1.log"
same "$(field '.[1].pm2_env.pm_log_path')" "$PWD/all-1.log"
same "$(field '.[2].pm2_env | [.pm_out_log_path, .pm_err_log_path, .merge_logs] | join(" ")')" "/dev/null $PM2_HOME/err.log true"
same "$(field '.[0].pm2_env.pm_pid_path')" "$PM2_HOME/pids/api-0.pid"
pm2 set pm2-logrotate:max_size 10M >/dev/null
same "$(jq -r '."pm2-logrotate".max_size' "$PM2_HOME/module_conf.json")" 10M
same "$(pm2 get pm2-logrotate:max_size)" 'Value for module pm2-logrotate key max_size: 10M'

# What the app itself is told: its settings besides its variables.
says 'NODE_APP_INSTANCE: 1' pm2 env 1
says 'namespace: default' pm2 env 2
says 'max_restarts: 3' pm2 env 2
environment=$(tr '\0' '\n' <"/proc/$(pm2 pid quiet)/environ")
for variable in max_restarts=3 time=true pm_out_log_path=/dev/null vizion=true km_link=false; do
    grep -qx "$variable" <<<"$environment" || wrong "the app has no $variable"
done
grep -q '^kill_timeout=' <<<"$environment" && wrong 'a setting that nobody made'

# What is counted and cut out of prettylist.
same "$(pm2 prettylist | grep -c 'restart_time: 0')" 3
same "$(pm2 prettylist | grep -c "exec_mode: 'cluster_mode'")" 2
same "$(pm2 prettylist | grep -c 'pm_id: ')" 6
same "$(pm2 prettylist | grep -c "status: 'online'")" 3
same "$(pm2 prettylist | grep -o 'NODE_APP_INSTANCE: [0-9]' | sort | tr '\n' ' ')" \
    'NODE_APP_INSTANCE: 0 NODE_APP_INSTANCE: 0 NODE_APP_INSTANCE: 1 '

# Waiting for an app as deployment scripts do.
until pm2 describe api | grep -q online; do :; done
same "$(pm2 jlist | jq -r '.[] | select(.name == "quiet").pm2_env | [.max_restarts, .autorestart, .time] | join(" ")')" \
    '3 false true'

# Watching ends with a stop, and is switched by a restart.
same "$(field '.[0].pm2_env | [.watch, .ignore_watch[0]] | join(" ")')" 'true node_modules'
pm2 stop api >/dev/null
same "$(field '.[0].pm2_env.watch')" false
pm2 restart quiet --watch >/dev/null
same "$(field '.[2].pm2_env.watch')" true
pm2 restart quiet --watch >/dev/null
same "$(field '.[2].pm2_env.watch')" false

# PM2's variables for its files and folders.
pm2 kill >/dev/null
export PM2_PID_FILE_PATH=$PWD/daemon.pid PM2_DUMP_FILE_PATH=$PWD/saved PM2_DEFAULT_LOG_PATH=$PWD/elsewhere
pm2 start app.js --name there >/dev/null
[ -d "/proc/$(cat daemon.pid)" ] || wrong 'no pid file of the daemon'
same "$(field '.[0].pm2_env.pm_out_log_path')" "$PWD/elsewhere/there-out.log"
pm2 save >/dev/null
[ -s saved ] || wrong 'the list is saved elsewhere'
