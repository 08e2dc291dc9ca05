//! Typed errors of the bus: `org.pm2rs1.Error.*`. The command line maps them to PM2's messages and exit codes without
//! reading their text; the text is a whole sentence for those who come by `busctl`.
//!
//! On the wire an error has its name and, as D-Bus wants it, the sentence as first argument. Where a variant carries
//! something else than its sentence, that is the second argument, so a client rebuilds the very same value.

use std::io;

use zbus::DBusError;
use zbus::fdo;
use zbus::message::{Header, Message};
use zbus::names::ErrorName;

/// Why a request was refused or failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No process, app or namespace matches this target.
    #[error("no process, app or namespace `{0}`")]
    NoSuchTarget(String),
    /// `all` was asked for and there is nothing.
    #[error("there is no process")]
    NoProcess,
    /// No job of that number (any more).
    #[error("no job {0}")]
    NoSuchJob(u32),
    /// The caller may not do this.
    #[error("{0}")]
    AccessDenied(String),
    /// The request itself makes no sense; nothing was changed.
    #[error("{0}")]
    InvalidArgument(String),
    /// The script is not there; nothing was changed.
    #[error("script `{0}` does not exist")]
    ScriptNotFound(String),
    /// The same script runs already under the same name; `force` starts another.
    #[error("script `{0}` is already launched")]
    AlreadyLaunched(String),
    /// The request needs a state that the process is not in (a line for a stopped process's standard input).
    #[error("{0}")]
    NotPossible(String),
    /// There is nothing to be done (scale to the present count).
    #[error("nothing to do")]
    NothingToDo,
    /// Too much at once from this caller; asking again later is right.
    #[error("{0}")]
    TooManyRequests(String),
    /// The daemon is shutting down.
    #[error("the daemon is shutting down")]
    ShuttingDown,
    /// The daemon cannot be reached, or went away before it answered. Made by clients only.
    #[error("cannot reach the daemon: {0}")]
    Unreachable(String),
    /// The bus was to start the daemon and could not. Made by clients only.
    #[error("cannot start the daemon: {0}")]
    NotStarted(String),
    /// It failed though it should not have.
    #[error("{0}")]
    Failed(String),
}

const PREFIX: &str = "org.pm2rs1.Error.";
/// What systemd says when the bus has it start a unit that it does not start.
const OF_SYSTEMD: &str = "org.freedesktop.systemd1.";

impl Error {
    /// The error's name on the bus, `org.pm2rs1.Error.` in front.
    #[must_use]
    pub fn bus_name(&self) -> &'static str {
        match self {
            Error::NoSuchTarget(_) => "org.pm2rs1.Error.NoSuchTarget",
            Error::NoProcess => "org.pm2rs1.Error.NoProcess",
            Error::NoSuchJob(_) => "org.pm2rs1.Error.NoSuchJob",
            Error::AccessDenied(_) => "org.pm2rs1.Error.AccessDenied",
            Error::InvalidArgument(_) => "org.pm2rs1.Error.InvalidArgument",
            Error::ScriptNotFound(_) => "org.pm2rs1.Error.ScriptNotFound",
            Error::AlreadyLaunched(_) => "org.pm2rs1.Error.AlreadyLaunched",
            Error::NotPossible(_) => "org.pm2rs1.Error.NotPossible",
            Error::NothingToDo => "org.pm2rs1.Error.NothingToDo",
            Error::TooManyRequests(_) => "org.pm2rs1.Error.TooManyRequests",
            Error::ShuttingDown => "org.pm2rs1.Error.ShuttingDown",
            Error::Unreachable(_) => "org.pm2rs1.Error.Unreachable",
            Error::NotStarted(_) => "org.pm2rs1.Error.NotStarted",
            Error::Failed(_) => "org.pm2rs1.Error.Failed",
        }
    }

    /// What the variant carries where that is not its whole sentence.
    fn datum(&self) -> Option<String> {
        match self {
            Error::NoSuchTarget(text)
            | Error::ScriptNotFound(text)
            | Error::AlreadyLaunched(text)
            | Error::Unreachable(text)
            | Error::NotStarted(text) => Some(text.clone()),
            Error::NoSuchJob(id) => Some(id.to_string()),
            _ => None,
        }
    }

    /// The value again, from its name, its sentence and its datum. A name of a newer daemon's becomes `Failed`.
    fn from_wire(name: &str, sentence: String, datum: Option<String>) -> Error {
        let text = datum.unwrap_or_else(|| sentence.clone());
        match name.strip_prefix(PREFIX).unwrap_or_default() {
            "NoSuchTarget" => Error::NoSuchTarget(text),
            "NoProcess" => Error::NoProcess,
            "NoSuchJob" => text.parse().map_or(Error::Failed(sentence), Error::NoSuchJob),
            "AccessDenied" => Error::AccessDenied(text),
            "InvalidArgument" => Error::InvalidArgument(text),
            "ScriptNotFound" => Error::ScriptNotFound(text),
            "AlreadyLaunched" => Error::AlreadyLaunched(text),
            "NotPossible" => Error::NotPossible(text),
            "NothingToDo" => Error::NothingToDo,
            "TooManyRequests" => Error::TooManyRequests(text),
            "ShuttingDown" => Error::ShuttingDown,
            "Unreachable" => Error::Unreachable(text),
            "NotStarted" => Error::NotStarted(text),
            "Failed" => Error::Failed(text),
            _ => Error::Failed(format!("{sentence} ({name})")),
        }
    }
}

impl DBusError for Error {
    fn create_reply(&self, call: &Header<'_>) -> zbus::Result<Message> {
        let builder = Message::error(call, self.bus_name());
        let sentence = self.to_string();
        match self.datum() {
            Some(datum) => builder.build(&(sentence, datum)),
            None => builder.build(&sentence),
        }
    }

    fn name(&self) -> ErrorName<'_> {
        ErrorName::from_static_str_unchecked(self.bus_name())
    }

    fn description(&self) -> Option<&str> {
        match self {
            Error::AccessDenied(text)
            | Error::InvalidArgument(text)
            | Error::NotPossible(text)
            | Error::TooManyRequests(text)
            | Error::Failed(text) => Some(text),
            _ => None,
        }
    }
}

impl From<zbus::Error> for Error {
    fn from(error: zbus::Error) -> Error {
        match error {
            zbus::Error::MethodError(name, sentence, _) if name.as_str().starts_with(OF_SYSTEMD) => {
                Error::NotStarted(sentence.unwrap_or_else(|| name.to_string()))
            }
            zbus::Error::MethodError(name, sentence, message) => {
                let datum = message.body().deserialize::<(String, String)>().ok().map(|(_, datum)| datum);
                Error::from_wire(name.as_str(), sentence.unwrap_or_default(), datum)
            }
            zbus::Error::FDO(error) => from_standard(*error),
            zbus::Error::InputOutput(error) => Error::Unreachable(broken(&error)),
            zbus::Error::Connection(error, _) => Error::Unreachable(broken(&error)),
            zbus::Error::Handshake(text) => Error::Unreachable(text),
            other => Error::Failed(format!("cannot understand the daemon's answer: {other}")),
        }
    }
}

/// Why a connection that there was is none any more.
fn broken(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof => {
            "the connection ended before the answer came".to_owned()
        }
        _ => error.to_string(),
    }
}

/// D-Bus's own errors: the bus's about a missing daemon or a policy, ours about a malformed call.
fn from_standard(error: fdo::Error) -> Error {
    match error {
        fdo::Error::ZBus(error) => error.into(),
        fdo::Error::AccessDenied(text) | fdo::Error::InteractiveAuthorizationRequired(text) => {
            Error::AccessDenied(text)
        }
        fdo::Error::InvalidArgs(text) => Error::InvalidArgument(text),
        fdo::Error::LimitsExceeded(text) => Error::TooManyRequests(text),
        fdo::Error::ServiceUnknown(text)
        | fdo::Error::NameHasNoOwner(text)
        | fdo::Error::NoReply(text)
        | fdo::Error::NoServer(text)
        | fdo::Error::Disconnected(text)
        | fdo::Error::Timeout(text) => Error::Unreachable(text),
        // dbus-daemon(1) says so when what it was to start does not come up in time.
        fdo::Error::TimedOut(text)
        | fdo::Error::SpawnExecFailed(text)
        | fdo::Error::SpawnChildExited(text)
        | fdo::Error::SpawnChildSignaled(text)
        | fdo::Error::SpawnFailed(text)
        | fdo::Error::SpawnServiceNotFound(text) => Error::NotStarted(text),
        other => Error::Failed(other.description().unwrap_or("the daemon refused the call").to_owned()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn through_the_wire(error: &Error) -> Error {
        let call = Message::method_call("/org/pm2rs1", "Ping").build(&()).unwrap();
        let reply = error.create_reply(&call.header()).unwrap();
        zbus::Error::from(reply).into()
    }

    #[test]
    fn a_daemon_that_the_bus_cannot_start_is_told_from_one_that_went_away() {
        let call = Message::method_call("/org/pm2rs1", "Ping").build(&()).unwrap();
        let answer = |name: &str, text: &str| -> Error {
            let name = ErrorName::try_from(name.to_owned()).unwrap();
            zbus::Error::from(Message::error(&call.header(), name).build(&text).unwrap()).into()
        };
        let masked = answer("org.freedesktop.systemd1.UnitMasked", "Unit pm2rs.service is masked.");
        assert_eq!(masked, Error::NotStarted("Unit pm2rs.service is masked.".to_owned()));
        let late = "Failed to activate service 'org.pm2rs1': timed out (service_start_timeout=25000ms)";
        assert_eq!(answer("org.freedesktop.DBus.Error.TimedOut", late), Error::NotStarted(late.to_owned()));
        let gone = answer("org.freedesktop.DBus.Error.NoReply", "gone");
        assert_eq!(gone, Error::Unreachable("gone".to_owned()));
    }

    #[test]
    fn every_error_comes_back_as_it_went() {
        let text = || "a `b`\nc".to_owned();
        for error in [
            Error::NoSuchTarget(text()),
            Error::NoSuchTarget(String::new()),
            Error::NoProcess,
            Error::NoSuchJob(4_000_000_000),
            Error::AccessDenied(text()),
            Error::InvalidArgument(text()),
            Error::ScriptNotFound(text()),
            Error::AlreadyLaunched(text()),
            Error::NotPossible(text()),
            Error::NothingToDo,
            Error::TooManyRequests(text()),
            Error::ShuttingDown,
            Error::Unreachable(text()),
            Error::NotStarted(text()),
            Error::Failed(text()),
        ] {
            assert_eq!(through_the_wire(&error), error);
        }
    }

    #[test]
    fn an_error_of_a_newer_daemon_keeps_its_sentence() {
        let call = Message::method_call("/org/pm2rs1", "Ping").build(&()).unwrap();
        let reply = Message::error(&call.header(), "org.pm2rs1.Error.Later").build(&"not today").unwrap();
        let Error::Failed(text) = Error::from(zbus::Error::from(reply)) else { panic!("not `Failed`") };
        assert!(text.contains("not today") && text.contains("Later"), "{text}");
    }

    #[test]
    fn a_connection_that_ends_is_told_of_in_words() {
        let error = zbus::Error::InputOutput(std::sync::Arc::new(io::Error::from_raw_os_error(32)));
        assert_eq!(
            Error::from(error).to_string(),
            "cannot reach the daemon: the connection ended before the answer came"
        );
    }

    #[test]
    fn a_bus_without_the_daemon_is_unreachable() {
        let error = fdo::Error::ServiceUnknown("the name is not activatable".to_owned());
        assert!(matches!(Error::from(zbus::Error::FDO(Box::new(error))), Error::Unreachable(_)));
    }
}
