#!/bin/sh
# Not Node.js: tells what it inherited, by the rules of sd_listen_fds(3).
[ "$LISTEN_PID" = "$$" ] && echo "inherited $LISTEN_FDS $LISTEN_FDNAMES"
exec sleep infinity
