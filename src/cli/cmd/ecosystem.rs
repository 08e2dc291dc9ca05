//! `ecosystem`, or `init`: writes a sample configuration.

use std::io::ErrorKind;

use crate::cli::args::EcosystemArgs;
use crate::cli::exit::Failure;
use crate::cli::session::Session;

const SIMPLE: &str = "\
module.exports = {
  apps: [
    {
      name: 'app',
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

/// Writes `ecosystem.config.js` into the working folder. A file that is there is kept unless forced: PM2 would
/// overwrite it.
///
/// # Errors
/// When there is one, or it cannot be written.
pub fn write_sample(session: &Session, args: &EcosystemArgs) -> Result<(), Failure> {
    let text = match args.mode.as_deref() {
        None => FULL,
        Some("simple") => SIMPLE,
        Some(other) => return Err(Failure::error(format!("there is no sample `{other}`, only `simple`"))),
    };
    let path = session.caller().cwd.join("ecosystem.config.js");
    let mut options = std::fs::OpenOptions::new();
    options.write(true);
    if session.options.force {
        options.create(true).truncate(true);
    } else {
        options.create_new(true);
    }
    let written = options.open(&path).and_then(|mut file| std::io::Write::write_all(&mut file, text.as_bytes()));
    match written {
        Ok(()) => {
            session.console.say(format!("File {} generated", path.display()));
            Ok(())
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            Err(Failure::error(format!("`{}` is there already; --force overwrites it", path.display())))
        }
        Err(error) => Err(Failure::error(format!("cannot write `{}`: {error}", path.display()))),
    }
}
