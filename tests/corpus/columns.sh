# What is cut out of the table, the blocks and the pages.
. "$CORPUS/insist.bash"

pm2 start app.js --name alpha >/dev/null
pm2 start http.js --name beta -i 2 >/dev/null
pm2 stop alpha >/dev/null
same "$(pm2 list | awk -F '│' 'NR > 3 && NF > 1 {gsub(/ /, ""); print $2 $3 $4 $6 $10 $14}' | tr '\n' ' ')" \
    '0alphadefaultforkstoppeddisabled 1betadefaultclusteronlinedisabled 2betadefaultclusteronlinedisabled '
same "$(pm2 ls --no-color | tr -s ' ' | cut -d' ' -f4 | sed -n 4p)" alpha
same "$(pm2 list | awk '/ alpha / {print $12, $18}')" '0 stopped'
same "$(pm2 ls | sed -n 2p | tr -s ' ')" \
    '│ id │ name │ namespace │ version │ mode │ pid │ uptime │ ↺ │ status │ cpu │ mem │ user │ watching │'
same "$(pm2 ls -m | awk '/^\+---/ {n = $2} /^status/ {print n, $3}' | tr '\n' ' ')" 'alpha stopped beta online beta online '
same "$(pm2 ls -m | awk -F ' : ' '/^(mode|restarted|watching)/ {print $2}' | tr '\n' ' ')" 'fork 0 no cluster 0 no cluster 0 no '
same "$(pm2 show 1 | grep 'exec mode' | tr -s ' ')" '│ exec mode │ cluster_mode │'
same "$(pm2 describe beta | grep -c 'Describing process with id')" 2
same "$(pm2 describe alpha | awk -F '│' '/script path/ {gsub(/ /, "", $3); print $3}')" "$PWD/app.js"
same "$(pm2 describe alpha | awk '/restarts/ && !/unstable/ {print $4}')" 0
[ -f "$(pm2 describe alpha | awk '/error log path/ {print $6}')" ] || wrong 'no log of errors'
same "$(cat "$(pm2 describe 1 | awk '/pid path/ {print $5}')")" "$(field '.[1].pid')"
FORCE_COLOR=1 pm2 ls | grep -q $'\x1b' || wrong 'no colours'
NO_COLOR=1 pm2 ls | grep -q $'\x1b' && wrong colours
same "$(pm2 ls --sort id:desc | awk -F '│' 'NR > 3 && NF > 1 {print $2 + 0}' | tr '\n' ' ')" '2 1 0 '
same "$(pm2 jlist | node -e 'let s = ""; process.stdin.on("data", (d) => (s += d)).on("end", () =>
    console.log(JSON.parse(s).map((p) => `${p.name}=${p.pm2_env.status}`).join()))')" alpha=stopped,beta=online,beta=online
