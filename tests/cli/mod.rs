//! A fluent way to call the program in tests: arguments, environment and input in; output and exit code asserted.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// A call that is being put together. Colours, the caller's daemons and settings are kept out of it.
pub struct Call {
    command: Command,
    input: String,
}

/// A call of `pm2rs` with these words, split as a shell would.
pub fn pm2rs(line: &str) -> Call {
    call(Path::new(env!("CARGO_BIN_EXE_pm2rs")), line)
}

/// The same of another program.
pub fn call(program: &Path, line: &str) -> Call {
    let mut command = Command::new(program);
    command.args(shell_words::split(line).expect("the test's command line is well formed"));
    for name in ["PM2_HOME", "PM2RS_HOME", "PM2_SILENT", "FORCE_COLOR", "NO_COLOR"] {
        command.env_remove(name);
    }
    // A machine that is busy with many tests at once may need more than the usual 3 s to start Node.
    command.env("PM2_GRACEFUL_LISTEN_TIMEOUT", "60000");
    Call { command, input: String::new() }
}

#[allow(dead_code)]
impl Call {
    /// In this home folder, with its private daemon.
    pub fn home(self, home: &Path) -> Call {
        self.env("PM2RS_HOME", home.to_str().expect("test folders have plain names"))
    }

    /// With this variable.
    pub fn env(mut self, name: &str, value: &str) -> Call {
        self.command.env(name, value);
        self
    }

    /// In this folder.
    pub fn cwd(mut self, folder: &Path) -> Call {
        self.command.current_dir(folder);
        self
    }

    /// With this on standard input.
    pub fn input(mut self, text: &str) -> Call {
        text.clone_into(&mut self.input);
        self
    }

    /// Runs it to its end.
    pub fn run(mut self) -> Ended {
        self.command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let shown = format!("{:?}", self.command);
        let mut child = self.command.spawn().expect("the program can be started");
        let mut stdin = child.stdin.take().expect("standard input is a pipe");
        // A program that does not read its input may be gone before it is written.
        let _ = stdin.write_all(self.input.as_bytes());
        drop(stdin);
        Ended { shown, output: child.wait_with_output().expect("the program can be waited for") }
    }

    /// Runs it; it must succeed.
    #[track_caller]
    pub fn ok(self) -> Ended {
        let ended = self.run();
        assert!(ended.output.status.success(), "{ended}");
        ended
    }

    /// Runs it; it must fail with exit code 1.
    #[track_caller]
    pub fn fails(self) -> Ended {
        let ended = self.run();
        assert_eq!(ended.output.status.code(), Some(1), "{ended}");
        ended
    }
}

/// A call that ended.
pub struct Ended {
    shown: String,
    output: Output,
}

#[allow(dead_code)]
impl Ended {
    /// Its standard output.
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.output.stdout).into_owned()
    }

    /// Its standard error.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.output.stderr).into_owned()
    }

    /// Whether its exit status was 0.
    pub fn succeeded(&self) -> bool {
        self.output.status.success()
    }

    /// Its standard output must contain this.
    #[track_caller]
    pub fn says(self, text: &str) -> Ended {
        assert!(self.stdout().contains(text), "`{text}` is not on standard output of {self}");
        self
    }

    /// Its standard output must not contain this.
    #[track_caller]
    pub fn says_not(self, text: &str) -> Ended {
        assert!(!self.stdout().contains(text), "`{text}` is on standard output of {self}");
        self
    }

    /// Its standard error must be exactly this.
    #[track_caller]
    pub fn complains(self, text: &str) -> Ended {
        assert_eq!(self.stderr(), text, "{self}");
        self
    }

    /// Its standard error must contain this.
    #[track_caller]
    pub fn mentions(self, text: &str) -> Ended {
        assert!(self.stderr().contains(text), "`{text}` is not on standard error of {self}");
        self
    }

    /// It must have printed nothing on standard output.
    #[track_caller]
    pub fn prints_nothing(self) -> Ended {
        assert_eq!(self.stdout(), "", "{self}");
        self
    }
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (status, out, err) = (self.output.status, self.stdout(), self.stderr());
        write!(f, "{}: {status}\n-- stdout\n{out}\n-- stderr\n{err}", self.shown)
    }
}
