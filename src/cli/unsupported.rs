//! PM2's commands that pm2rs does not have, and what to use instead. One line each.

/// Command and advice.
const COMMANDS: &[(&str, &str)] = &[
    ("deploy", "deploy with your own tool, then `pm2rs startOrReload FILE --env NAME` on the target"),
    ("install", "pm2 modules are not run; logs rotate by themselves, start any other program with `pm2rs start`"),
    ("module:install", "pm2 modules are not run; start the program with `pm2rs start`"),
    ("module:update", "pm2 modules are not run"),
    ("module:generate", "pm2 modules are not run"),
    ("module:uninstall", "pm2 modules are not run"),
    ("module:publish", "pm2 modules are not run; use `npm publish`"),
    ("uninstall", "pm2 modules are not run; use `pm2rs delete NAME`"),
    ("package", "use `npm pack`"),
    ("publish", "use `npm publish`"),
    ("pull", "use `git pull`, then `pm2rs reload NAME`"),
    ("forward", "use `git checkout`, then `pm2rs reload NAME`"),
    ("backward", "use `git checkout`, then `pm2rs reload NAME`"),
    ("profile:cpu", "the daemon is not a Node program; profile an app with `node --cpu-prof`"),
    ("profile:mem", "the daemon is not a Node program; profile an app with `node --heap-prof`"),
    ("inspect", "use `pm2rs sendSignal SIGUSR1 NAME`, then connect your inspector"),
    ("link", "there is no PM2 Plus agent; read `pm2rs jlist` or the bus"),
    ("unlink", "there is no PM2 Plus agent"),
    ("monitor", "there is no PM2 Plus agent; read `pm2rs jlist` or the bus"),
    ("unmonitor", "there is no PM2 Plus agent"),
    ("open", "there is no PM2 Plus agent"),
    ("plus", "there is no PM2 Plus agent"),
    ("register", "there is no PM2 Plus agent"),
    ("login", "there is no PM2 Plus agent"),
    ("logout", "there is no PM2 Plus agent"),
    ("install-otel", "add OpenTelemetry to the app's own dependencies"),
    ("uninstall-otel", "remove OpenTelemetry from the app's own dependencies"),
    ("create", "use `npm init`, then `pm2rs init`"),
    ("autoinstall", "there is nothing to install"),
    ("deepUpdate", "upgrade the package, then `pm2rs update`"),
    ("logrotate", "logs rotate by themselves; see the key `log_rotate` of the configuration"),
    ("monit", "use `watch pm2rs list` and `pm2rs logs`"),
    ("dashboard", "use `watch pm2rs list` and `pm2rs logs`"),
    ("dash", "use `watch pm2rs list` and `pm2rs logs`"),
    ("imonit", "use `watch pm2rs list`"),
    ("slist", "use `pm2rs report`"),
    ("sysinfos", "use `pm2rs report`"),
];

/// The command by this name, and what to use instead.
pub fn find(name: &str) -> Option<(&'static str, &'static str)> {
    COMMANDS.iter().find(|(known, _)| *known == name).copied()
}
