//! `completion`: scripts for bash, zsh and fish, and the words that they ask for while somebody types.
//!
//! The scripts know nothing themselves: they call `pm2rs completion -- WORDS` with COMP_CWORD, as PM2's do, and offer
//! what is printed. So names of apps are those of this moment.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::CommandFactory;

use crate::cli::exit::Failure;
use crate::cli::line::{Grammar, prepared};
use crate::cli::session::Session;

/// The script for bash.
pub const BASH: &str = r#"###-begin-pm2-completion-###
# bash completion for pm2rs and pm2
_pm2rs_completion() {
  local IFS=$'\n'
  COMPREPLY=($(COMP_CWORD="$COMP_CWORD" COMP_LINE="$COMP_LINE" COMP_POINT="$COMP_POINT" \
    "${COMP_WORDS[0]}" completion -- "${COMP_WORDS[@]}" 2>/dev/null))
  if [ ${#COMPREPLY[@]} -eq 0 ]; then
    compopt -o default 2>/dev/null
  fi
}
complete -F _pm2rs_completion pm2rs pm2
###-end-pm2-completion-###
"#;

/// The script for zsh.
pub const ZSH: &str = r#"#compdef pm2rs pm2
###-begin-pm2-completion-###
_pm2rs_completion() {
  local -a found
  found=("${(@f)$(COMP_CWORD=$((CURRENT - 1)) COMP_LINE=$BUFFER COMP_POINT=$CURSOR \
    "${words[1]}" completion -- "${words[@]}" 2>/dev/null)}")
  found=(${found:#})
  if (( ${#found} )); then
    compadd -- "${found[@]}"
  else
    _files
  fi
}
if [ "$funcstack[1]" = "_pm2rs" ]; then
  _pm2rs_completion "$@"
else
  compdef _pm2rs_completion pm2rs pm2
fi
###-end-pm2-completion-###
"#;

/// The script for fish.
pub const FISH: &str = r#"###-begin-pm2-completion-###
# fish completion for pm2rs and pm2
function __pm2rs_completion
    set -l typed (commandline -opc) (commandline -ct)
    set -lx COMP_CWORD (math (count $typed) - 1)
    $typed[1] completion -- $typed 2>/dev/null
end
complete -c pm2rs -a '(__pm2rs_completion)'
complete -c pm2 -a '(__pm2rs_completion)'
###-end-pm2-completion-###
"#;

const BEGIN: &str = "###-begin-pm2-completion-###";
const END: &str = "###-end-pm2-completion-###";

/// A shell that waits for words must not wait for a daemon that hangs.
const PATIENCE: Duration = Duration::from_millis(500);

/// Prints a script, installs it, or answers a shell.
///
/// # Errors
/// For an unknown shell, or when its startup file cannot be written.
pub async fn run(session: &Session, what: Option<&str>) -> Result<(), Failure> {
    if let Some(words) = &session.options.app_args {
        let at = std::env::var("COMP_CWORD").ok().and_then(|at| at.parse().ok());
        let found = candidates(session, words, at.unwrap_or(words.len().saturating_sub(1))).await;
        let lines: String = found.iter().map(|word| format!("{word}\n")).collect();
        session.console.print(&lines);
        return Ok(());
    }
    let shell = std::env::var("SHELL").unwrap_or_default();
    let shell = shell.rsplit('/').next().unwrap_or_default();
    match what {
        None => session.console.print(script(shell).unwrap_or(BASH)),
        Some("install") => install(session, shell)?,
        Some("uninstall") => uninstall(session, shell)?,
        Some(name) => {
            let script = script(name)
                .ok_or_else(|| Failure::error(format!("`{name}` is not known here, only bash, zsh and fish")))?;
            session.console.print(script);
        }
    }
    Ok(())
}

fn script(shell: &str) -> Option<&'static str> {
    match shell {
        "bash" => Some(BASH),
        "zsh" => Some(ZSH),
        "fish" => Some(FISH),
        _ => None,
    }
}

/// Commands after which names of apps are offered.
const TAKE_NAMES: [&str; 16] = [
    "stop", "restart", "scale", "reload", "delete", "del", "reset", "logs", "log", "describe", "desc", "show", "info",
    "trigger", "flush", "start",
];

/// What may stand at place `at` of the words, the program's name being at 0.
async fn candidates(session: &Session, words: &[String], at: usize) -> Vec<String> {
    let typed = words.get(at).map(String::as_str).unwrap_or_default();
    let before = words.get(1..at.max(1).min(words.len())).unwrap_or_default();
    let grammar = Grammar::command();
    let command = before.iter().find_map(|word| {
        grammar.get_subcommands().find(|c| c.get_name() == word || c.get_all_aliases().any(|alias| alias == word))
    });
    let mut all: Vec<String> = Vec::new();
    if typed.starts_with('-') {
        let of = command.map_or_else(|| grammar.clone(), |command| prepared(command.clone()));
        all.extend(
            of.get_arguments()
                .filter(|arg| !arg.is_hide_set())
                .filter_map(|arg| Some(format!("--{}", arg.get_long()?))),
        );
    } else if let Some(command) = command {
        if TAKE_NAMES.contains(&command.get_name()) {
            all.extend(names(session).await);
            all.push("all".to_owned());
        } else if command.get_name() == "completion" {
            all.extend(["bash", "zsh", "fish", "install", "uninstall"].map(str::to_owned));
        }
    } else {
        let visible = grammar.get_subcommands().filter(|command| !command.is_hide_set());
        all.extend(visible.flat_map(|command| command.get_name_and_visible_aliases()).map(str::to_owned));
    }
    all.retain(|word| word.starts_with(typed));
    all.sort();
    all.dedup();
    all
}

/// Names of the apps there are; none where no daemon runs, for none is started to complete a word.
async fn names(session: &Session) -> Vec<String> {
    let ask = async {
        let client = session.choice.find().await.ok().flatten()?;
        Some(session.rows(&client).await.ok()?.into_iter().map(|row| row.name).collect())
    };
    tokio::time::timeout(PATIENCE, ask).await.ok().flatten().unwrap_or_default()
}

/// The file that a shell reads when it starts, and what belongs into it.
fn startup_file(shell: &str) -> Result<(PathBuf, &'static str), Failure> {
    let home = std::env::home_dir().ok_or_else(|| Failure::error("there is no home folder"))?;
    match shell {
        "bash" => Ok((home.join(".bashrc"), BASH)),
        "zsh" => Ok((home.join(".zshrc"), ZSH)),
        "fish" => Ok((home.join(".config/fish/completions/pm2rs.fish"), FISH)),
        other => Err(Failure::error(format!("cannot install completion for the shell `{other}`"))),
    }
}

fn install(session: &Session, shell: &str) -> Result<(), Failure> {
    let (path, script) = startup_file(shell)?;
    let text = read(&path)?;
    if text.contains(BEGIN) {
        session.console.info(format!("Completion is in {} already", path.display()));
        return Ok(());
    }
    let gap = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    // The line that names the function's file to zsh has no place in a startup file.
    let script = script.trim_start_matches("#compdef pm2rs pm2\n");
    write(&path, &format!("{text}{gap}{script}"))?;
    session.console.info(format!("Completion is installed in {}; open a new shell", path.display()));
    Ok(())
}

fn uninstall(session: &Session, shell: &str) -> Result<(), Failure> {
    let (path, _) = startup_file(shell)?;
    let text = read(&path)?;
    let (Some(begin), Some(end)) = (text.find(BEGIN), text.find(END)) else {
        session.console.info(format!("There is no completion in {}", path.display()));
        return Ok(());
    };
    let after = text[end..].split_once('\n').map(|(_, after)| after).unwrap_or_default();
    write(&path, &format!("{}{after}", &text[..begin]))?;
    session.console.info(format!("Completion is gone from {}", path.display()));
    Ok(())
}

fn read(path: &Path) -> Result<String, Failure> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(Failure::error(format!("cannot read `{}`: {error}", path.display()))),
    }
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    let folder = path.parent().map_or(Ok(()), std::fs::create_dir_all);
    folder
        .and_then(|()| std::fs::write(path, text))
        .map_err(|error| Failure::error(format!("cannot write `{}`: {error}", path.display())))
}
