//! `ecosystem`, or `init`: writes a sample configuration.

use std::io::ErrorKind;

use crate::cli::args::EcosystemArgs;
use crate::cli::exit::Failure;
use crate::cli::session::Session;

const SIMPLE: &str = "\
module.exports = {
  apps: [
    {
      name: 'app1',
      script: './app.js',
    },
  ],
};
";

const FULL: &str = "\
module.exports = {
  apps: [
    {
      name: 'app',
      script: './app.js',

      // One process per CPU, sharing the port.
      instances: 'max',
      exec_mode: 'cluster',

      // A reload goes on when the app says `process.send('ready')`.
      wait_ready: false,
      listen_timeout: 3000,
      kill_timeout: 1600,
      max_memory_restart: '500M',

      env: {
        NODE_ENV: 'development',
      },
      // Chosen by `--env production`.
      env_production: {
        NODE_ENV: 'production',
      },
    },
  ],
};
";

/// Writes `ecosystem.config.js` into the working folder. One that is there makes way, as in PM2; what somebody wrote
/// stays beside it.
///
/// # Errors
/// When it cannot be written.
pub fn write_sample(session: &Session, args: &EcosystemArgs) -> Result<(), Failure> {
    // PM2 takes any other word for none.
    let text = if args.mode.as_deref() == Some("simple") { SIMPLE } else { FULL };
    let path = session.caller().cwd.join("ecosystem.config.js");
    let cannot = |error: std::io::Error| Failure::error(format!("cannot write `{}`: {error}", path.display()));
    let before = match std::fs::read(&path) {
        Ok(before) => Some(before),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(cannot(error)),
    };
    if before.is_some_and(|before| ![SIMPLE, FULL].map(str::as_bytes).contains(&before.as_slice())) {
        let kept = path.with_extension("js.bak");
        std::fs::rename(&path, &kept).map_err(cannot)?;
        session.console.warn_aside(format!("the file that was there is `{}` now", kept.display()));
    }
    std::fs::write(&path, text).map_err(cannot)?;
    session.console.say(format!("File {} generated", path.display()));
    Ok(())
}
