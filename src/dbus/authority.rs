//! Who may what: caller, action, owner of what it is about.
//!
//! The rule is [`Caller::controls`]: root everything, everybody what is theirs. The daemon's loop applies it, for it
//! alone knows what targets stand for; this file applies it to jobs, and it alone asks polkit, which can only ever add
//! to the rule: no polkit, no answer in time, an answer that makes no sense all mean no. polkit is asked after a
//! refusal, so what people do with their own apps costs nothing.
//!
//! | | root | owner | others |
//! |---|---|---|---|
//! | see apps, processes, that there are jobs | yes | yes | yes |
//! | start, stop, restart, reload, delete, scale, reset, signal, message, trigger, flush logs; wait for jobs, cancel them | yes | yes | `manage-apps` |
//! | restart or reload with another environment or spec | yes | yes | no |
//! | logs | yes | yes | `read-logs` |
//! | environment | yes | yes | `read-environment` |
//! | kill, reexecute | yes | the daemon's own user | `manage-daemon` |
//! | start an app, save, resurrect, clear what was saved, reopen log files, report | yes | each for themselves | each for themselves |
//!
//! A name means what is the caller's own, where there is such. Root's environment goes to others' apps only where root names
//! nothing but those.
//!
//! The exception for another environment or spec is there because it runs code of the caller's choice as the owner,
//! which somebody who was trusted to restart things was not meant to have.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use tokio::sync::Semaphore;
use zbus::Connection;
use zbus::message::{Flags, Header};
use zbus_polkit::policykit1::{AuthorityProxy, CheckAuthorizationFlags, Subject};

use super::peer::locked;
use crate::api::JobView;
use crate::core::Uid;
use crate::daemon::Caller;

/// polkit decides by its rules alone.
const BY_RULES: Duration = Duration::from_secs(5);
/// polkit asks a person for a password.
const BY_A_PERSON: Duration = Duration::from_secs(120);
/// Questions to polkit at a time; whoever comes on top waits.
const QUESTIONS: usize = 16;

/// What polkit can be asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    ManageApps,
    ReadLogs,
    ReadEnvironment,
    ManageDaemon,
}

impl Action {
    /// Its id in `org.pm2rs1.policy`.
    pub(super) fn id(self) -> &'static str {
        match self {
            Action::ManageApps => "org.pm2rs1.manage-apps",
            Action::ReadLogs => "org.pm2rs1.read-logs",
            Action::ReadEnvironment => "org.pm2rs1.read-environment",
            Action::ManageDaemon => "org.pm2rs1.manage-daemon",
        }
    }

    /// The action that stands above a method's refusal; `None` where the refusal is final.
    pub(super) fn of(method: &str) -> Option<Action> {
        match method {
            "Restart" | "Reload" | "Stop" | "Delete" | "Scale" | "Reset" | "SendSignal" | "SendLine"
            | "SendMessage" | "Trigger" | "FlushLogs" | "Wait" | "Cancel" => Some(Action::ManageApps),
            "OpenLogs" => Some(Action::ReadLogs),
            "GetEnvironment" | "GetSpec" => Some(Action::ReadEnvironment),
            "Kill" | "Reexecute" => Some(Action::ManageDaemon),
            _ => None,
        }
    }
}

/// Whether a caller may read what a job is about, wait for it and learn why it failed.
pub(super) fn may_follow(caller: &Caller, job: &JobView) -> bool {
    caller.controls(Uid(job.owner))
}

/// polkit, where there is one.
#[derive(Debug)]
pub(super) struct Polkit {
    bus: Mutex<Option<Connection>>,
    questions: Semaphore,
}

impl Polkit {
    pub(super) fn new() -> Polkit {
        Polkit { bus: Mutex::new(None), questions: Semaphore::new(QUESTIONS) }
    }

    /// polkit is on the system bus; `None` once that is lost.
    pub(super) fn reach_over(&self, system_bus: Option<Connection>) {
        *locked(&self.bus) = system_bus;
    }

    /// Whether polkit grants the caller this action. Everything but a clear yes is a no.
    pub(super) async fn privilege(&self, subject: Asker<'_>, action: Action) -> bool {
        let Some(bus) = locked(&self.bus).clone() else { return false };
        let Ok(_permit) = self.questions.acquire().await else { return false };
        let interactive = subject.interactive();
        let patience = if interactive { BY_A_PERSON } else { BY_RULES };
        let answer = tokio::time::timeout(patience, ask(&bus, &subject, action, interactive)).await;
        match answer {
            Ok(Ok(granted)) => granted,
            Ok(Err(error)) => {
                tracing::debug!(%error, action = action.id(), "polkit did not answer");
                false
            }
            Err(_) => false,
        }
    }
}

async fn ask(bus: &Connection, asker: &Asker<'_>, action: Action, interactive: bool) -> Result<bool, String> {
    let polkit = AuthorityProxy::builder(bus)
        .cache_properties(zbus::proxy::CacheProperties::No)
        .build()
        .await
        .map_err(|error| error.to_string())?;
    let subject = asker.subject().map_err(|error| error.to_string())?;
    let flags = match interactive {
        true => CheckAuthorizationFlags::ALLOW_USER_INTERACTION,
        false => CheckAuthorizationFlags::empty(),
    };
    let answer = polkit.check_authorization(&subject, action.id(), &HashMap::new(), flags, "").await;
    answer.map(|answer| answer.is_authorized).map_err(|error| error.to_string())
}

/// Whom polkit is asked about.
#[derive(Debug, Clone, Copy)]
pub(super) enum Asker<'m> {
    /// The sender of this call over the system bus.
    OnBus(&'m Header<'m>),
    /// The process at the other end of a private socket, and its call.
    OnSocket { uid: u32, pid: u32, call: &'m Header<'m> },
}

impl Asker<'_> {
    /// polkit's name for it. The uid goes with the pid, from the kernel: a process that made the call and then executed
    /// a program with more rights is not taken for that program.
    fn subject(&self) -> Result<Subject, zbus_polkit::Error> {
        match self {
            Asker::OnBus(call) => Subject::new_for_message_header(call),
            Asker::OnSocket { uid, pid, .. } => Subject::new_for_pid(*pid, None, Some(*uid)),
        }
    }

    fn interactive(&self) -> bool {
        let (Asker::OnBus(call) | Asker::OnSocket { call, .. }) = self;
        call.primary().flags().contains(Flags::ALLOW_INTERACTIVE_AUTH)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dbus::interfaces;
    use crate::dbus::tree::Object;

    const POLICY: &str = include_str!("../../packaging/dbus/org.pm2rs1.policy");

    #[test]
    fn every_action_is_described_in_the_policy() {
        let all = [Action::ManageApps, Action::ReadLogs, Action::ReadEnvironment, Action::ManageDaemon];
        for action in all {
            assert!(POLICY.contains(&format!("<action id=\"{}\">", action.id())), "{action:?}");
        }
        assert_eq!(POLICY.matches("<action id=").count(), all.len());
    }

    #[test]
    fn every_method_was_thought_of() {
        // What is the caller's own, or everybody's to know.
        let for_themselves = [
            "StartApp",
            "Save",
            "ClearSaved",
            "Resurrect",
            "ReopenLogs",
            "Report",
            "ListProcesses",
            "Resolve",
            "Ping",
            "GetHostMetrics",
        ];
        for object in [Object::Manager, Object::App(0), Object::Process(0), Object::Job(0)] {
            for (method, ..) in interfaces::methods(object) {
                assert_ne!(Action::of(method).is_some(), for_themselves.contains(method), "{method}");
            }
        }
    }

    #[tokio::test]
    async fn without_polkit_nothing_is_granted() {
        let call = zbus::Message::method_call("/org/pm2rs1", "Stop").build(&()).expect("an empty call can be built");
        let asker = Asker::OnSocket { uid: 1000, pid: std::process::id(), call: &call.header() };
        assert!(!Polkit::new().privilege(asker, Action::ManageApps).await);
    }
}
