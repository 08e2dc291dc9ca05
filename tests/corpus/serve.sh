# `serve`: static files, pages with routes of their own, passwords, and what nobody is to get.
. "$CORPUS/insist.bash"

mkdir -p site/docs site/files
echo '<h1>home</h1>' >site/index.html
echo '<h1>not here</h1>' >site/404.html
echo 'body {}' >site/style.css
echo '<h1>docs</h1>' >site/docs/index.html
printf '0123456789' >site/files/a.bin
: >site/empty.txt
echo secret >secret.txt
ln -s ../secret.txt site/leak.txt
free() { node -e "const s = require('net').createServer().listen(0, () => { console.log(s.address().port); s.close(); })"; }
get() { curl -sS --max-time 10 "$@"; }
status() { get -o /dev/null -w '%{http_code}' "$@"; }
up() { # URL
    local end=$((SECONDS + 30))
    until curl -s -o /dev/null "$1"; do [ $SECONDS -lt $end ] || wrong "nothing at $1: $(pm2 logs --nostream --raw 2>&1)"; done
}

port=$(free) url=http://127.0.0.1:$port
says "[PM2] Serving $PWD/site on port $port" pm2 serve site "$port"
same "$(field '.[0].name')" "static-page-server-$port"
up "$url"
same "$(get "$url/")" '<h1>home</h1>'
same "$(get -o /dev/null -w '%{content_type}' "$url/style.css")" 'text/css; charset=utf-8'
same "$(get -D - -o /dev/null "$url/" | tr -d '\r' | grep -i allow-origin)" 'Access-Control-Allow-Origin: *'
same "$(get -L "$url/docs")" '<h1>docs</h1>'
same "$(get -r 2-4 "$url/files/a.bin")" 234
same "$(status -r 20-30 "$url/files/a.bin")" 416
same "$(status "$url/empty.txt")" 200
same "$(status -z "$(date -Ru -d tomorrow)" "$url/")" 304
same "$(status -I "$url/")" 200
same "$(status -X POST "$url/")" 405
same "$(status "$url/none") $(get "$url/none")" '404 <h1>not here</h1>'
same "$(status "$url/files/")" 404
same "$(status --path-as-is "$url/../secret.txt")" 403
same "$(status "$url/%2e%2e/secret.txt")" 403
same "$(status "$url/%2e%2e%2fsecret.txt")" 403
same "$(status "$url/leak.txt")" 403
same "$(status "$url/%zz")" 400
same "$(status "$url/a%00b")" 400
same "$(get "$url/")" '<h1>home</h1>'

port=$(free) url=http://127.0.0.1:$port
pm2 serve site --port "$port" --spa --name spa --basic-auth-username ann --basic-auth-password 'p:w' >/dev/null
up "$url"
same "$(status "$url/")" 401
same "$(status -u ann:wrong "$url/")" 401
same "$(get -u ann:p:w "$url/some/route")" '<h1>home</h1>'
same "$(get -u ann:p:w "$url/some/style.css")" 'body {}'
same "$(pm2 jlist | jq -r '.[1].name')" spa

port=$(free) url=http://127.0.0.1:$port
cat >site.config.js <<END
module.exports = { apps: [{ name: 'files', script: 'serve', env: { PM2_SERVE_PATH: 'site', PM2_SERVE_PORT: $port, PM2_SERVE_FTP: 'true' } }] };
END
says 'App [files] launched' pm2 start site.config.js
up "$url"
get "$url/" | grep -q home || wrong 'a folder with a page shows its page'
get "$url/files/" | grep -q '<a href="./a.bin">a.bin</a>' || wrong 'a folder is not listed'

refuses 'there is no such folder' pm2 serve nowhere
refuses 'not a number' pm2 serve site many
