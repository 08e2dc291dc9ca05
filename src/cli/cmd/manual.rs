//! The manual pages, made from the grammar, and the examples.

use std::path::Path;

use clap::CommandFactory;
use clap_mangen::Man;

use crate::cli::exit::Failure;
use crate::cli::line::{Grammar, explained};
use crate::cli::session::VERSION;

/// What `examples` prints.
pub const EXAMPLES: &str = "\
Start
  pm2rs start app.js                        a script
  pm2rs start app.js -i max --name api      one process per CPU, sharing the port
  pm2rs start app.js -- --port 8080         arguments for the app
  pm2rs start ecosystem.config.js           the apps of a file
  pm2rs start \"npm run dev\"                 a command line
  pm2rs start script.py --interpreter python3

Look
  pm2rs list                                the processes
  pm2rs describe api                        all about one
  pm2rs logs api --lines 100                its output
  pm2rs jlist                               JSON for programs

Change
  pm2rs reload api                          replace it without losing a request
  pm2rs restart api --update-env            restart it with the present environment
  pm2rs scale api +2                        two processes more
  pm2rs stop all                            stop everything
  pm2rs delete api                          stop and forget

Keep
  pm2rs save                                remember what runs
  pm2rs resurrect                           start what was remembered
  pm2rs startup                             start it at boot
";

/// Writes `pm2rs.1` and a page for each command into a folder.
///
/// # Errors
/// When the folder cannot be written.
pub fn write(folder: &Path) -> Result<(), Failure> {
    let cannot =
        |path: &Path, error: std::io::Error| Failure::error(format!("cannot write `{}`: {error}", path.display()));
    std::fs::create_dir_all(folder).map_err(|error| cannot(folder, error))?;
    let grammar = Grammar::command().version(VERSION);
    let mut pages = vec![("pm2rs".to_owned(), grammar.clone())];
    for command in grammar.get_subcommands().filter(|command| !command.is_hide_set()) {
        let name = format!("pm2rs-{}", command.get_name());
        let page = explained(command.clone()).display_name(name.clone()).version(VERSION);
        pages.push((name, page));
    }
    for (name, page) in pages {
        let path = folder.join(format!("{name}.1"));
        let mut text = Vec::new();
        Man::new(page)
            .title(name)
            .source(concat!("pm2rs ", env!("CARGO_PKG_VERSION")))
            .render(&mut text)
            .and_then(|()| std::fs::write(&path, &text))
            .map_err(|error| cannot(&path, error))?;
    }
    Ok(())
}
