//! Completion in the shells themselves: what they offer for commands, options and the names of apps there are.
#![allow(clippy::unwrap_used)]

mod cli;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use cli::pm2rs;

/// What completes `pm2rs rest`, `pm2 start --wat` and `pm2 reload sh`, with `--` between them.
const OFFERED: &str = "restart\n--\n--watch\n--watch-delay\n--\nshop\n";

/// A home folder with an app `shop`, and a folder of programs with both of our names.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        let folder = tempfile::tempdir().unwrap();
        let place = Place { folder };
        fs::create_dir(place.path().join("bin")).unwrap();
        for name in ["pm2rs", "pm2"] {
            symlink(env!("CARGO_BIN_EXE_pm2rs"), place.path().join("bin").join(name)).unwrap();
        }
        pm2rs("start sleep --name shop -- 1000").home(place.path()).cwd(place.path()).ok();
        place
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// What a shell prints for a script of its own; `None`, and a word about it, where the shell is not installed.
    fn shell(&self, shell: &str, args: &[&str], script: &str) -> Option<String> {
        let completion = self.path().join(format!("completion.{shell}"));
        fs::write(&completion, pm2rs(&format!("completion {shell}")).ok().stdout()).unwrap();
        let file = self.path().join(format!("script.{shell}"));
        fs::write(&file, format!("source {}\n{script}", completion.display())).unwrap();
        let path = format!("{}:{}", self.path().join("bin").display(), std::env::var("PATH").unwrap());
        let ran = Command::new(shell)
            .args(args)
            .arg(&file)
            .env("PATH", path)
            .env("PM2RS_HOME", self.path())
            .env("HOME", self.path())
            .current_dir(self.path())
            .output();
        match ran {
            Ok(output) => {
                assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{shell}");
                Some(String::from_utf8(output.stdout).unwrap())
            }
            Err(error) => {
                eprintln!("{shell} is not tested: {error}");
                None
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        pm2rs("kill").home(self.path()).run();
    }
}

#[test]
fn shells_offer_what_there_is() {
    let place = Place::new();
    let bash = "\
        complete_words() { COMP_WORDS=(\"$@\") COMP_CWORD=$(($# - 1)) COMP_LINE=\"$*\" COMP_POINT=${#COMP_LINE}; \
        _pm2rs_completion; printf '%s\\n' \"${COMPREPLY[@]}\"; }\n\
        complete_words pm2rs rest; echo --; complete_words pm2 start --wat; echo --; complete_words pm2 reload sh\n";
    assert_eq!(place.shell("bash", &["--norc"], bash).as_deref(), Some(OFFERED));
    // Outside of its line editor zsh completes nothing: what would be offered is printed.
    let zsh = "\
        compadd() { print -l -- \"${@[2,-1]}\" }\n\
        words=(pm2rs rest) CURRENT=2; $_comps[pm2rs]; print -- --\n\
        words=(pm2 start --wat) CURRENT=3; $_comps[pm2]; print -- --\n\
        words=(pm2 reload sh) CURRENT=3; $_comps[pm2]\n";
    fs::write(place.path().join("compinit.zsh"), "autoload -U compinit; compinit -u -D\n").unwrap();
    let begin = place.path().join("compinit.zsh");
    let source = format!("source {}; source \"$1\"", begin.display());
    if let Some(offered) = place.shell("zsh", &["-f", "-c", &source, "zsh"], zsh) {
        assert_eq!(offered, OFFERED, "zsh");
    }
    let fish = "complete -C 'pm2rs rest'\necho --\necho\ncomplete -C 'pm2 start --wat'\necho --\necho\ncomplete -C 'pm2 reload sh'\n";
    if let Some(offered) = place.shell("fish", &["--no-config"], fish) {
        let offered: Vec<&str> = offered.lines().filter(|line| !matches!(*line, "" | "--")).collect();
        let wanted: Vec<&str> = OFFERED.lines().filter(|line| *line != "--").collect();
        assert_eq!(offered, wanted, "fish");
    }
}
