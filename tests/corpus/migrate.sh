# Taking over from PM2: its daemon is played by a script, its files are PM2's.
. "$CORPUS/insist.bash"

refuses "there is nothing of PM2's in" pm2 migrate nowhere
mkdir -p old/modules/pm2-logrotate
node pm2-daemon.js "$PWD/old" &
played=$!
end=$((SECONDS + 30))
until [ -s old/pm2.pid ]; do [ $SECONDS -lt $end ] || wrong 'nobody plays PM2'; done

told=$(pm2 migrate old --dry-run) || wrong 'a dry run fails'
for text in "PM2 runs in $PWD/old" 'api: 1 in fork mode' 'module pm2-logrotate: stays behind'; do
    grep -qF "$text" <<<"$told" || wrong "«$text» is not told: $told"
done
kill -0 $played || wrong 'a dry run ends PM2'

# What it runs at its end counts, not what it saved before; what cannot be started is told.
refuses 'Script not found' pm2 migrate old
wait $played || wrong 'PM2 was not asked to end'
same "$(field 'map([.name, .pm2_env.status] | join(" ")) | join(", ")')" 'api online, halted stopped'
same "$(field '.[0].pm2_env.max_memory_restart')" 209715200
says 'Process successfully started' pm2 start halted
until_same '.[1].pm2_env.status' online

# A process that only has the number is not PM2.
echo $$ >old/pm2.pid
says 'PM2 does not run in' pm2 migrate old --dry-run
