# What the scenarios say: how to act in the container, and how to insist. Sourced by `scenario`.
# shellcheck shell=bash

# ---- acting ----

# A machine that is busy with two booted systems may need more than the usual 3 s to start Node.
patience=PM2_GRACEFUL_LISTEN_TIMEOUT=60000

inside() { "$rig" exec -- env "$patience" "$@"; }          # as root
as() { local user=$1; shift; "$rig" exec --user "$user" -- env "$patience" "$@"; }
pm2rs() { inside pm2rs "$@"; }

package() { # the .deb under test
    local newest
    newest=${PM2RS_DEB:-$(ls -t "$folder"/../../target/debian/pm2rs_*.deb 2>/dev/null | head -n1)}
    [ -f "$newest" ] || { echo "there is no package: run packaging/build-deb"; return 1; }
    echo "$newest"
}

install_package() { "$rig" install "$(package)"; }

users() { local user; for user in "$@"; do inside useradd --create-home --shell /bin/bash "$user"; done; }

bus() { # METHOD [SIGNATURE ARGUMENTS...]: a Manager method, as root
    inside busctl --json=short call org.pm2rs1 /org/pm2rs1 org.pm2rs1.Manager "$@"
}
bus_as() { # USER METHOD...
    local user=$1
    shift
    as "$user" busctl --json=short call org.pm2rs1 /org/pm2rs1 org.pm2rs1.Manager "$@"
}
property() { # PATH INTERFACE NAME: its bare value
    inside busctl --json=short get-property org.pm2rs1 "$1" "org.pm2rs1.$2" "$3" | jq -r .data
}
job_result() { # JSON of a call that answered a job: waits for its end, prints its state
    local path
    path=$(jq -r '.data[0]')
    inside busctl --json=short --timeout=60 call org.pm2rs1 "$path" org.pm2rs1.Job Wait | jq -r '.data[0]'
}
processes() { pm2rs --silent jlist; }                      # what root sees: all

spec() { # USER NAME SCRIPT [JQ_FILTER]: what Manager.StartApp takes
    jq -cn --arg name "$2" --arg script "$3" --arg user "$1" \
        '{name: $name, script: $script, interpreter: "node", cwd: "/srv/apps", username: $user, listen_timeout: 60000,
          env: {PATH: "/usr/bin:/bin"}} | '"${4:-.}"
}

pids_of() { # NAME: process ids of an app's workers
    processes | jq -r --arg name "$1" '.[] | select(.name == $name and .pid > 0) | .pid'
}

answering_pids() { # URL COUNT: which processes answered
    inside bash -c 'for ((i = 0; i < $2; i++)); do curl -sS --max-time 60 "$1"; echo; done' _ "$1" "$2" | sort -u
}

load_begins() { # URL: requests without end, and without retries, from now on
    inside node /srv/apps/load.js "$1" >"$output/load" 2>&1 &
    loading=$!
    eventually grep -q loading "$output/load"
}
load_ends() { # what became of them is left in $load, as JSON
    inside pkill -INT -f /srv/apps/load.js
    wait "$loading"
    load=$(tail -n1 "$output/load")
}

# ---- insisting ----

die() { echo "expected: $*"; return 1; }

eventually() { # COMMAND...: it succeeds within a minute, which is long for a slow machine, too
    local deadline=$((SECONDS + 60)) last
    until last=$("$@" 2>&1); do
        if [ $SECONDS -ge $deadline ]; then
            echo "$last"
            die "\`$*\` to succeed in time"
            return 1
        fi
        sleep 0.1
    done
}

same() { # ACTUAL EXPECTED
    [ "$1" = "$2" ] || { printf 'actual:\n%s\n' "$1"; die "$2"; }
}

contains() { # TEXT PART
    [[ $1 == *"$2"* ]] || { printf 'in:\n%s\n' "$1"; die "to contain \`$2\`"; }
}

lacks() { # TEXT PART
    [[ $1 != *"$2"* ]] || { printf 'in:\n%s\n' "$1"; die "not to contain \`$2\`"; }
}

holds() { # JSON FILTER: jq's answer is true
    jq -e "$2" <<<"$1" >/dev/null || { printf 'in:\n%s\n' "$1"; die "$2"; }
}

denied() { # COMMAND...: it fails, one way or the other
    if "$@"; then
        die "\`$*\` to fail"
        return 1
    fi
}

# Around a usage error PM2 leaves a line empty; what says something is one line all the same.
refused() { # COMMAND...: it fails, with status 1 and exactly one line for people, which is left in $complaint
    local status=0 before after
    before=$(processes | jq -c 'map([.pm_id, .name, .pid])')
    complaint=$("$@" 2>&1 >/dev/null) || status=$?
    same "$status" 1
    complaint=$(sed '/^$/d' <<<"$complaint")
    [ "$(wc -l <<<"$complaint")" = 1 ] && [ -n "$complaint" ] || { echo "$complaint"; die "one line on stderr"; return 1; }
    after=$(processes | jq -c 'map([.pm_id, .name, .pid])')
    same "$after" "$before"
}

online() { # NAME COUNT: so many processes of the app are online
    local count
    count=$(processes | jq --arg name "$1" '[.[] | select(.name == $name and .pm2_env.status == "online")] | length')
    same "$count" "$2"
}

gone() { # PID...: none of them is a process any more
    local pid
    for pid in "$@"; do
        denied inside test -d "/proc/$pid" || { die "process $pid to be gone"; return 1; }
    done
}

