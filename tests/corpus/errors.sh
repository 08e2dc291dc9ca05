# What cannot be done: PM2's exit codes, and the words by which scripts know them.
. "$CORPUS/insist.bash"

refuses 'usage: pm2 [options] <command>' pm2
pm2 bogus 2>/dev/null | grep -q 'Command not found' || wrong 'an unknown command is not told on standard output'
refuses 'Command not found' pm2 bogus
refuses "unknown option \`--bogus'" pm2 start app.js --bogus
refuses "missing required argument" pm2 stop
refuses "missing required argument" pm2 scale app
for verb in stop restart reload delete; do
    refuses 'No process found' pm2 $verb all
    refuses 'Process or Namespace nothing not found' pm2 $verb nothing
    refuses ' unknown' pm2 $verb 99
done
refuses 'Script not found' pm2 start nowhere.js
refuses 'Script not found' pm2 start nowhere
refuses '7' pm2 start 7
refuses 'Interpreter nowhere is NOT AVAILABLE in PATH' pm2 start app.js --interpreter nowhere
refuses 'cron' pm2 start app.js --cron-restart bad
refuses 'max_memory_restart' pm2 start app.js --max-memory-restart 10Z
refuses 'File nowhere.json not found' pm2 startOrRestart nowhere.json
refuses 'File bad.json malformated' pm2 start bad.json
refuses 'Expect "watch" to be a typeof' pm2 start wrong.config.js
refuses 'Application nothing not found' pm2 scale nothing 2
refuses "nothing doesn't exist" pm2 describe nothing
refuses 'Modules with id 55 not found' pm2 env 55
refuses 'Not any process has received a command' pm2 trigger all hi
refuses 'nothing' pm2 sendSignal SIGUSR2 nothing
refuses '' pm2 get nothing
refuses '' pm2 reset nothing
pm2 unset nothing >/dev/null || wrong 'to unset what is not set is an error'
says 'PM2 is not managing any process, skipping save' pm2 save
pm2 resurrect >/dev/null 2>&1 || wrong 'to resurrect nothing is an error'
says '[PM2] [v] PM2 Daemon Stopped' pm2 kill
says '[PM2] [v] PM2 Daemon Stopped' pm2 kill

# Machine output alone on standard output, be the daemon started for it or not.
same "$(pm2 jlist 2>/dev/null)" '[]'
pm2 start fail.js --no-autorestart >/dev/null
until_same '.[0].pm2_env.status' stopped
same "$(field '.[0].pm2_env | [.exit_code, .restart_time] | join(" ")')" '3 0'
pm2 start app.js --stop-exit-codes 0 --restart-delay 100 --name a >/dev/null
refuses 'Using --env [env] without passing the ecosystem.config.js does not work' pm2 restart a --env production
