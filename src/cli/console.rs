//! Where a command's words go: what a machine may read to standard output, notices and errors to standard error.
//!
//! Owns prefixes, colours and silence. A reader that went away (EPIPE) ends the program quietly, as SIGPIPE would.

use std::io::{self, IsTerminal, Write};

use super::options::Options;

/// A colour, or weight, of the sixteen that every terminal has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paint {
    /// Names.
    Bold,
    /// Headers.
    BoldCyan,
    /// What is well.
    Green,
    /// What is not.
    Red,
    /// What needs attention.
    Yellow,
    /// What is under way.
    Blue,
    /// What matters less.
    Grey,
    /// A word looked for.
    Inverse,
}

impl Paint {
    /// The text in this colour, or as it is.
    pub fn on(self, colours: bool, text: &str) -> String {
        let code = match self {
            Paint::Bold => "1",
            Paint::BoldCyan => "1;36",
            Paint::Green => "32",
            Paint::Red => "31",
            Paint::Yellow => "33",
            Paint::Blue => "34",
            Paint::Grey => "90",
            Paint::Inverse => "7",
        };
        if colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// What a command says, and how.
#[derive(Debug, Clone, Copy, Default)]
pub struct Console {
    silent: bool,
    /// Whether standard output is for a machine alone.
    pub json: bool,
    /// Whether standard output takes colours.
    pub colours: bool,
    error_colours: bool,
    /// Columns of the terminal that standard output is; `None` when it is none.
    pub width: Option<usize>,
    /// Whether standard error is a terminal, on which progress can be drawn.
    pub interactive: bool,
}

impl Console {
    /// The console of this process.
    pub fn of_this_process(options: &Options) -> Console {
        let (silent, no_color) = (options.silent, options.no_color);
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let colours = |terminal: bool| match set("FORCE_COLOR") {
            _ if no_color => false,
            Some(forced) => forced != "0" && forced != "false",
            None => terminal && set("NO_COLOR").is_none() && set("TERM").is_none_or(|term| term != "dumb"),
        };
        let width = terminal_size::terminal_size_of(io::stdout()).map(|(width, _)| usize::from(width.0));
        Console {
            silent: silent || set("PM2_SILENT").is_some_and(|value| value != "false"),
            json: options.json,
            colours: colours(io::stdout().is_terminal()),
            error_colours: colours(io::stderr().is_terminal()),
            width: width.filter(|width| *width > 0),
            interactive: io::stderr().is_terminal(),
        }
    }

    /// A line that tells of something done: `[PM2] …`.
    pub fn info(&self, text: impl AsRef<str>) {
        if !self.silent {
            let prefix = Paint::Green.on(self.colours, "[PM2]");
            self.for_people(&format!("{prefix} {}\n", text.as_ref()));
        }
    }

    /// A line that warns: `[PM2][WARN] …`.
    pub fn warn(&self, text: impl AsRef<str>) {
        if !self.silent {
            let prefix = Paint::Yellow.on(self.colours, "[PM2][WARN]");
            self.for_people(&format!("{prefix} {}\n", text.as_ref()));
        }
    }

    /// A line for people, without prefix.
    pub fn say(&self, text: impl AsRef<str>) {
        if !self.silent {
            self.for_people(&format!("{}\n", text.as_ref()));
        }
    }

    fn for_people(&self, text: &str) {
        if self.json { self.aside(text) } else { self.print(text) }
    }

    /// What was asked for, as it is.
    pub fn answer(&self, text: &str) {
        if !self.silent || self.json {
            self.print(text);
        }
    }

    /// As [`Console::answer`], of what PM2 prints even in silence: its lists for machines.
    pub fn print(&self, text: &str) {
        let mut out = io::stdout().lock();
        ended_quietly(out.write_all(text.as_bytes()).and_then(|()| out.flush()));
    }

    /// An error: `[PM2][ERROR] …` on standard error.
    pub fn error(&self, text: impl AsRef<str>) {
        let prefix = Paint::Red.on(self.error_colours, "[PM2][ERROR]");
        self.notice(format!("{prefix} {}", text.as_ref()));
    }

    /// A warning on standard error, where nothing else is printed: `[PM2][WARN] …`.
    pub fn warn_aside(&self, text: impl AsRef<str>) {
        let prefix = Paint::Yellow.on(self.error_colours, "[PM2][WARN]");
        self.notice(format!("{prefix} {}", text.as_ref()));
    }

    /// A line beside the output, on standard error.
    pub fn notice(&self, text: impl AsRef<str>) {
        if !self.silent {
            self.aside(&format!("{}\n", text.as_ref()));
        }
    }

    /// Text on standard error, as it is.
    pub fn aside(&self, text: &str) {
        let mut err = io::stderr().lock();
        ended_quietly(err.write_all(text.as_bytes()).and_then(|()| err.flush()));
    }
}

/// Exit status of a program that SIGPIPE (13) ended, as shells show it.
const BROKEN_PIPE: i32 = 128 + 13;

/// Nobody reads on: there is nothing more to do, and nothing to say. Other errors have nobody to be told to.
fn ended_quietly(written: io::Result<()>) {
    if written.is_err_and(|error| error.kind() == io::ErrorKind::BrokenPipe) {
        std::process::exit(BROKEN_PIPE);
    }
}
