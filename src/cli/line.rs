//! Reads a command line as PM2's parser (commander 2) does, and hands it to clap in an order that clap takes.
//!
//! Owns the laxness: options anywhere, before or after the command; an option's optional value is the next word unless
//! that looks like an option; what follows `--` is the app's. Must never know what an option means.

use clap::{Args as _, CommandFactory, FromArgMatches, Parser, error::ContextKind, error::ErrorKind};

use super::args::Command;
use super::options::Options;

use super::{exit::Failure, unsupported};
use crate::config;

/// The whole grammar: for help, manual and completion. Parsing takes only the part of the command at hand.
#[derive(Debug, Parser)]
#[command(name = "pm2rs", disable_version_flag = true, disable_help_subcommand = true, max_term_width = 110)]
#[command(about = "Keeps Node.js apps alive, as a Linux service", long_about = None)]
pub struct Grammar {
    /// What every command accepts.
    #[command(flatten)]
    pub options: Options,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// What was typed.
#[derive(Debug, Clone)]
pub enum Typed {
    /// A command to perform.
    Command(Box<(Command, Options)>),
    /// Help was asked for: this text.
    Help(String),
    /// The version was asked for.
    Version,
    /// Nothing was asked for.
    Nothing,
    /// A command that PM2 has and pm2rs has not: what to do instead.
    Unsupported(&'static str, &'static str),
    /// No such command; one that may have been meant.
    Unknown(String, Option<String>),
}

/// Reads the words after the program's name.
///
/// # Errors
/// [`Failure::Usage`] for an unknown option, a missing or a wrong value.
pub fn read(words: &[String]) -> Result<Typed, Failure> {
    let end = words.iter().position(|word| word == "--").unwrap_or(words.len());
    let (own, app_args) = (&words[..end], words.get(end + 1..).map(<[String]>::to_vec));
    let grammar = Grammar::command();
    let mut table = Table::of(&grammar);
    let Some(at) = table.find_command(own, &grammar) else {
        return Ok(
            match own
                .iter()
                .map(String::as_str)
                .find(|word| matches!(*word, "-h" | "--help" | "-v" | "-V" | "--version"))
            {
                Some("-h" | "--help") => Typed::Help(help(grammar)),
                Some(_) => Typed::Version,
                None => {
                    table.spread(own)?;
                    Typed::Nothing
                }
            },
        );
    };
    let name = own[at].as_str();
    let Some(command) =
        grammar.get_subcommands().find(|c| c.get_name() == name || c.get_all_aliases().any(|a| a == name))
    else {
        if let Some((name, instead)) = unsupported::find(name) {
            return Ok(Typed::Unsupported(name, instead));
        }
        let known =
            grammar.get_subcommands().filter(|c| !c.is_hide_set()).flat_map(|c| c.get_name_and_visible_aliases());
        return Ok(Typed::Unknown(name.to_owned(), config::nearest(name, known).map(str::to_owned)));
    };
    let command = command.clone();
    table.add(&command);
    if own.iter().any(|word| word == "-h" || word == "--help") {
        return Ok(Typed::Help(help_of(command)));
    }
    if own.iter().any(|word| matches!(word.as_str(), "-v" | "-V" | "--version")) {
        return Ok(Typed::Version);
    }
    let mut spread = table.spread(&own[..at])?;
    let mut after = table.spread(&own[at + 1..])?;
    spread.options.append(&mut after.options);
    spread.positionals.append(&mut after.positionals);
    let room = command
        .get_positionals()
        .map(|arg| arg.get_num_args().map_or(1, |n| n.max_values()))
        .fold(0, usize::saturating_add);
    // As PM2, what a command has no use for is not an error.
    spread.positionals.truncate(room);
    let mut canonical = vec!["pm2rs".to_owned(), command.get_name().to_owned()];
    canonical.append(&mut spread.options);
    canonical.push("--".to_owned());
    canonical.append(&mut spread.positionals);
    let parser = clap::Command::new("pm2rs").subcommand(prepared(command));
    let matches = parser.try_get_matches_from(canonical).map_err(|e| Failure::Usage(commander_message(&e)))?;
    let refused = |e: clap::Error| Failure::Usage(commander_message(&e));
    let command = Command::from_arg_matches(&matches).map_err(refused)?;
    let mut options = match matches.subcommand() {
        Some((_, of_command)) => Options::from_arg_matches(of_command).map_err(refused)?,
        None => Options::default(),
    };
    options.app_args = app_args;
    Ok(Typed::Command(Box::new((command, options))))
}

/// What `pm2-runtime` is called with, as words of ours: it has but one command, whose name may be left out.
pub fn of_container(mut words: Vec<String>) -> Vec<String> {
    let own = words.split(|word| word == "--").next().unwrap_or_default();
    if own.iter().any(|word| matches!(word.as_str(), "-v" | "-V" | "--version")) {
        return words;
    }
    let grammar = Grammar::command();
    let is_said = Table::of(&grammar).find_command(own, &grammar).is_some_and(|at| own[at] == "start");
    let added = if is_said { ["--no-daemon", "--runtime"].as_slice() } else { &["start", "--no-daemon", "--runtime"] };
    words.splice(..0, added.iter().map(|&word| word.to_owned()));
    words
}

/// A command as it is parsed and explained: with the options that all of them accept.
pub fn prepared(command: clap::Command) -> clap::Command {
    // Adding options brings along what documents them as a whole, which is not what the command is about.
    let about = command.get_about().cloned().unwrap_or_default();
    Options::augment_args(command).args_override_self(true).disable_version_flag(true).about(about)
}

/// Commands in whose help the options of an app are listed.
const ABOUT_APPS: [&str; 3] = ["start", "restart", "reload"];

fn help(grammar: clap::Command) -> String {
    let mut grammar = grammar.mut_args(|arg| {
        let hide = arg.is_hide_set() || arg.get_help_heading() == Some("Options of an app");
        arg.hide(hide)
    });
    grammar = grammar.after_help("Options of an app: see `pm2rs start --help`. Whatever follows `--` goes to the app.");
    grammar.render_help().to_string()
}

/// A command with the options that its help and its manual page show.
pub fn explained(command: clap::Command) -> clap::Command {
    let own: Vec<String> = command.get_arguments().map(|arg| arg.get_id().to_string()).collect();
    let all = ABOUT_APPS.contains(&command.get_name());
    let name = format!("pm2rs {}", command.get_name());
    let command = prepared(command).bin_name(name).mut_args(|arg| {
        let hide = arg.is_hide_set() || !(all || own.contains(&arg.get_id().to_string()) || arg.get_id() == "help");
        arg.hide(hide)
    });
    if all { command } else { command.after_help("Options that all commands accept: see `pm2rs --help`.") }
}

fn help_of(command: clap::Command) -> String {
    explained(command).max_term_width(110).render_help().to_string()
}

/// A command line taken apart.
#[derive(Debug, Default, PartialEq, Eq)]
struct Spread {
    /// `--option` or `--option=value`, by their long names.
    options: Vec<String>,
    /// The other words.
    positionals: Vec<String>,
}

/// Whether an option takes a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Takes {
    Nothing,
    Maybe,
    Value,
}

/// An option as far as taking the line apart needs it.
#[derive(Debug, Clone)]
struct Known {
    longs: Vec<String>,
    shorts: Vec<char>,
    takes: Takes,
    shown: String,
}

/// The options that are known at a point.
#[derive(Debug, Default)]
struct Table {
    known: Vec<Known>,
    commands: Vec<String>,
}

impl Table {
    fn of(grammar: &clap::Command) -> Table {
        let mut table = Table::default();
        table.add(grammar);
        for command in grammar.get_subcommands() {
            table.commands.extend(command.get_name_and_visible_aliases().iter().map(|&s| s.to_owned()));
        }
        table
    }

    fn add(&mut self, command: &clap::Command) {
        for arg in command.get_arguments().filter(|arg| !arg.is_positional()) {
            let Some(long) = arg.get_long() else { continue };
            let takes = match arg.get_num_args() {
                _ if !arg.get_action().takes_values() => Takes::Nothing,
                Some(range) if range.min_values() == 0 => Takes::Maybe,
                _ => Takes::Value,
            };
            let mut longs = vec![long.to_owned()];
            longs.extend(arg.get_all_aliases().unwrap_or_default().into_iter().map(str::to_owned));
            let mut shorts: Vec<char> = arg.get_short().into_iter().collect();
            shorts.extend(arg.get_all_short_aliases().unwrap_or_default());
            let value = arg.get_value_names().and_then(<[_]>::first).map(ToString::to_string).unwrap_or_default();
            let mut shown = arg.get_short().map(|s| format!("-{s}, ")).unwrap_or_default();
            shown.push_str(&format!("--{long}"));
            if takes != Takes::Nothing {
                shown.push_str(&format!(" <{}>", value.to_lowercase()));
            }
            self.known.push(Known { longs, shorts, takes, shown });
        }
    }

    fn long(&self, name: &str) -> Option<&Known> {
        self.known.iter().find(|known| known.longs.iter().any(|long| long == name))
    }

    fn short(&self, name: char) -> Option<&Known> {
        self.known.iter().find(|known| known.shorts.contains(&name))
    }

    /// Where in the words the command is: the first word that is neither an option nor an option's value. A command's
    /// name is never taken for the optional value of an option before it.
    fn find_command(&self, words: &[String], grammar: &clap::Command) -> Option<usize> {
        let is_command = |word: &str| {
            self.commands.iter().any(|c| c == word)
                || grammar.get_subcommands().any(|c| c.get_all_aliases().any(|a| a == word))
        };
        let mut at = 0;
        while at < words.len() {
            let word = &words[at];
            if !word.starts_with('-') || word == "-" {
                return Some(at);
            }
            let takes = match word.strip_prefix("--") {
                Some(long) if long.contains('=') => Takes::Nothing,
                Some(long) => self.long(long).map_or(Takes::Nothing, |known| known.takes),
                None => word.chars().last().and_then(|c| self.short(c)).map_or(Takes::Nothing, |known| known.takes),
            };
            at += 1;
            at += match (takes, words.get(at)) {
                (Takes::Value, Some(_)) => 1,
                (Takes::Maybe, Some(next)) if !next.starts_with('-') && !is_command(next) => 1,
                _ => 0,
            };
        }
        None
    }

    /// Takes the words apart.
    fn spread(&self, words: &[String]) -> Result<Spread, Failure> {
        let mut spread = Spread::default();
        // Optional values that may have been meant as the target: `start --watch app.js`.
        let mut doubtful = None;
        let mut words = words.iter().peekable();
        while let Some(word) = words.next() {
            if !word.starts_with('-') || word == "-" || is_negative_number(word) {
                spread.positionals.push(word.clone());
                continue;
            }
            let (known, glued) = if let Some(long) = word.strip_prefix("--") {
                let (name, glued) = long.split_once('=').map_or((long, None), |(name, value)| (name, Some(value)));
                let known = self.long(name).ok_or_else(|| self.unknown(&format!("--{name}")))?;
                (known, glued.map(str::to_owned))
            } else {
                let mut letters = word[1..].chars();
                let mut last = None;
                let mut glued = None;
                while let Some(letter) = letters.next() {
                    let known = self.short(letter).ok_or_else(|| self.unknown(&format!("-{letter}")))?;
                    if let Some(before) = last.replace(known) {
                        spread.options.push(option(before, None));
                    }
                    let rest = letters.as_str();
                    if known.takes != Takes::Nothing && !rest.is_empty() {
                        glued = Some(rest.trim_start_matches('=').to_owned());
                        break;
                    }
                }
                let Some(known) = last else { continue };
                (known, glued)
            };
            let value = match (known.takes, glued) {
                (_, Some(value)) => Some(value),
                (Takes::Nothing, None) => None,
                (Takes::Value, None) => match words.next() {
                    Some(value) => Some(value.clone()),
                    None => return Err(Failure::Usage(format!("option `{}' argument missing", known.shown))),
                },
                (Takes::Maybe, None) => match words.next_if(|next| !next.starts_with('-')) {
                    Some(value) => {
                        doubtful = Some((spread.options.len(), value.clone()));
                        Some(value.clone())
                    }
                    None => None,
                },
            };
            spread.options.push(option(known, value));
        }
        if let (true, Some((at, value))) = (spread.positionals.is_empty(), doubtful)
            && std::path::Path::new(&value).is_file()
            && let Some((name, _)) = spread.options[at].clone().split_once('=')
        {
            name.clone_into(&mut spread.options[at]);
            spread.positionals.push(value);
        }
        Ok(spread)
    }

    fn unknown(&self, typed: &str) -> Failure {
        let known = self.known.iter().flat_map(|known| known.longs.iter()).map(String::as_str);
        let near = typed.strip_prefix("--").and_then(|name| config::nearest(name, known));
        let hint = near.map(|name| format!(" (did you mean `--{name}'?)")).unwrap_or_default();
        Failure::Usage(format!("unknown option `{typed}'{hint}"))
    }
}

fn option(known: &Known, value: Option<String>) -> String {
    let name = known.longs.first().map(String::as_str).unwrap_or_default();
    match value {
        Some(value) => format!("--{name}={value}"),
        None => format!("--{name}"),
    }
}

/// `-2` is a number to `scale`, not an option.
fn is_negative_number(word: &str) -> bool {
    word.len() > 1 && word.strip_prefix('-').is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_digit()))
}

/// What clap found wrong, in commander's words.
fn commander_message(error: &clap::Error) -> String {
    let about = |kind: ContextKind| error.get(kind).map(ToString::to_string).unwrap_or_default();
    match error.kind() {
        ErrorKind::MissingRequiredArgument => {
            let argument = about(ContextKind::InvalidArg);
            let first = argument.split(", ").next().unwrap_or_default();
            let name = first.trim_end_matches('.').trim_matches(['<', '>', '[', ']']);
            format!("missing required argument `{name}'")
        }
        ErrorKind::InvalidValue | ErrorKind::ValueValidation => {
            format!("option `{}' does not take `{}'", about(ContextKind::InvalidArg), about(ContextKind::InvalidValue))
        }
        ErrorKind::ArgumentConflict => {
            format!("option `{}' does not go with `{}'", about(ContextKind::InvalidArg), about(ContextKind::PriorArg))
        }
        ErrorKind::TooManyValues => format!("option `{}' takes no value", about(ContextKind::InvalidArg)),
        _ => error.to_string().lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        shell_words::split(line).unwrap()
    }

    fn command(line: &str) -> (Command, Options) {
        match read(&words(line)).unwrap() {
            Typed::Command(both) => *both,
            other => panic!("{line}: {other:?}"),
        }
    }

    fn refused(line: &str) -> String {
        read(&words(line)).unwrap_err().to_string()
    }

    #[test]
    fn grammar_is_consistent() {
        for sub in Grammar::command().get_subcommands() {
            prepared(sub.clone()).debug_assert();
        }
    }

    #[test]
    fn options_may_stand_before_and_after_the_command() {
        for line in [
            "start app.js --name x -i -1",
            "--name x start -i -1 app.js",
            "-n x -i=-1 start app.js",
            "start -nx -i-1 app.js",
        ] {
            let (command, options) = command(line);
            let Command::Start(start) = command else { panic!("{line}") };
            assert_eq!(start.targets, ["app.js"], "{line}");
            assert_eq!(options.name.as_deref(), Some("x"), "{line}");
            assert_eq!(options.instances.as_deref(), Some("-1"), "{line}");
        }
    }

    #[test]
    fn all_after_two_dashes_is_the_app_s() {
        let (_, options) = command("start app.js -- --name y -- -z --help");
        assert_eq!(options.app_args.unwrap(), ["--name", "y", "--", "-z", "--help"]);
        assert_eq!(options.name, None);
        assert_eq!(command("start app.js").1.app_args, None);
    }

    #[test]
    fn an_optional_value_is_the_next_word_but_never_the_command_or_the_only_target() {
        assert_eq!(command("start app.js --watch src --watch lib").1.watch, ["src", "lib"]);
        assert_eq!(command("start app.js --watch").1.watch, [""]);
        let (before, options) = command("--watch start app.js");
        assert!(matches!(before, Command::Start(_)));
        assert_eq!(options.watch, [""]);
        let file = tempfile::NamedTempFile::new().unwrap();
        let (only, options) = command(&format!("start --watch {}", file.path().display()));
        let Command::Start(only) = only else { panic!() };
        assert_eq!(only.targets, [file.path().to_str().unwrap()]);
        assert_eq!(options.watch, [""]);
    }

    #[test]
    fn values_may_begin_with_a_dash() {
        assert_eq!(command("start app.js --node-args --harmony").1.node_args.as_deref(), Some("--harmony"));
        assert_eq!(command("start app.js --interpreter-args=--inspect").1.node_args.as_deref(), Some("--inspect"));
        let Command::Scale(scale) = command("scale app -2").0 else { panic!() };
        assert_eq!((scale.app.as_str(), scale.number.as_str()), ("app", "-2"));
    }

    #[test]
    fn short_options_may_be_joined() {
        let (_, options) = command("start app.js -fxi 4");
        assert!(options.force && options.execute_command);
        assert_eq!(options.instances.as_deref(), Some("4"));
    }

    #[test]
    fn aliases_and_excess_words_are_taken() {
        for line in ["ls", "l", "ps", "status", "list", "list everything"] {
            assert!(matches!(command(line).0, Command::List), "{line}");
        }
        assert!(matches!(command("log app").0, Command::Logs(_)));
        assert!(matches!(command("save").0, Command::Dump));
        assert!(matches!(command("gracefulReload all").0, Command::Reload(_)));
    }

    #[test]
    fn wrong_lines_are_refused_in_commander_s_words() {
        assert_eq!(refused("start app.js --bogus"), "unknown option `--bogus'");
        assert_eq!(refused("start app.js --nmae x"), "unknown option `--nmae' (did you mean `--name'?)");
        assert_eq!(refused("start -Z"), "unknown option `-Z'");
        assert_eq!(refused("start app.js --name"), "option `-n, --name <name>' argument missing");
        assert_eq!(refused("scale app"), "missing required argument `number'");
        assert_eq!(refused("stop"), "missing required argument `id|name|namespace|all|json|stdin'");
        assert_eq!(refused("--bogus"), "unknown option `--bogus'");
    }

    #[test]
    fn what_is_no_command_is_told_apart() {
        assert!(matches!(read(&[]).unwrap(), Typed::Nothing));
        assert!(matches!(read(&words("-v")).unwrap(), Typed::Version));
        assert!(matches!(read(&words("start app.js -V")).unwrap(), Typed::Version));
        assert!(matches!(read(&words("--help")).unwrap(), Typed::Help(_)));
        assert!(matches!(read(&words("stop -h")).unwrap(), Typed::Help(_)));
        let Typed::Unknown(name, near) = read(&words("strat app.js")).unwrap() else { panic!() };
        assert_eq!((name.as_str(), near.as_deref()), ("strat", Some("start")));
        assert!(matches!(read(&words("deploy production")).unwrap(), Typed::Unsupported("deploy", _)));
    }
}
