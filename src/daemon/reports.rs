//! What workers report over their channels: metrics and actions (PM2's axm messages), replies to triggers.
//!
//! A worker is not trusted: what it reports is bounded in count and size and shown only to those who control its app.

use serde_json::{Map, Value, json};
use tokio::sync::oneshot;

use super::Daemon;
use super::handle::{Caller, Reply};
use super::requests::answer;
use crate::api::Error;
use crate::core::{Event, ProcessId, WorkerId};

/// What one process may have reported altogether, as JSON text.
const MAX_REPORTED: usize = 256 << 10;
/// Actions one process may offer.
const MAX_ACTIONS: usize = 128;
/// Triggers that may wait for their replies.
const MAX_TRIGGERS: usize = 256;
/// How long replies are waited for.
const TRIGGER_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(30);

/// A trigger that waits for a process's reply.
#[derive(Debug)]
pub(super) struct PendingTrigger {
    process: ProcessId,
    action: String,
    reply: oneshot::Sender<(u32, String)>,
}

/// Whether what is reported of a process says that it does not answer.
pub(super) fn is_hung(reported: Option<&Map<String, Value>>) -> bool {
    reported.and_then(|reported| reported.get("hung")) == Some(&Value::Bool(true))
}

impl Daemon {
    /// Takes a message that a worker sent with `process.send`.
    pub(super) fn on_message(&mut self, worker: WorkerId, message: &Value) {
        if message.as_str() == Some("ready") {
            self.feed(Event::ReadyReceived { worker });
            return;
        }
        let Some(process) = self.fleet.worker(worker).map(|worker| worker.process) else { return };
        let data = message.get("data");
        match (message.get("type").and_then(Value::as_str), data) {
            (Some("axm:monitor"), Some(Value::Object(metrics))) => self.merge(process, "axm_monitor", metrics),
            (Some("axm:option:configuration"), Some(Value::Object(options))) => {
                self.merge(process, "axm_options", options);
            }
            (Some("axm:action"), Some(action)) => self.add_action(process, action),
            (Some("axm:reply"), Some(data)) => self.on_reply(process, data),
            _ => {
                if let Some(version) = message.get("node_version").filter(|version| version.is_string()) {
                    self.report_value(process, "node_version", version.clone());
                    self.persist.note_change();
                }
            }
        }
    }

    /// Takes the version of Node that a worker runs in.
    pub(super) fn on_version(&mut self, worker: WorkerId, node: String) {
        let Some(process) = self.fleet.worker(worker).map(|worker| worker.process) else { return };
        if !node.is_empty() {
            self.report_value(process, "node_version", Value::String(node));
        }
    }

    /// Sets a reported value unless the process has reported too much already.
    pub(super) fn report_value(&mut self, process: ProcessId, key: &str, value: Value) {
        let reported = self.reported.entry(process).or_default();
        let old = reported.insert(key.to_owned(), value);
        if serde_json::to_string(reported).map_or(true, |text| text.len() > MAX_REPORTED) {
            match old {
                Some(old) => reported.insert(key.to_owned(), old),
                None => reported.shift_remove(key),
            };
        }
    }

    fn merge(&mut self, process: ProcessId, key: &str, new: &Map<String, Value>) {
        let mut all = self
            .reported
            .get(&process)
            .and_then(|reported| reported.get(key))
            .and_then(Value::as_object)
            .cloned()
            .unwrap_or_default();
        all.extend(new.clone());
        self.report_value(process, key, Value::Object(all));
    }

    fn add_action(&mut self, process: ProcessId, action: &Value) {
        let Some(name) = action.get("action_name").and_then(Value::as_str) else { return };
        let mut all = self
            .reported
            .get(&process)
            .and_then(|reported| reported.get("axm_actions"))
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default();
        all.retain(|known| known.get("action_name").and_then(Value::as_str) != Some(name));
        if all.len() < MAX_ACTIONS {
            all.push(action.clone());
            self.report_value(process, "axm_actions", Value::Array(all));
            self.persist.note_change();
        }
    }

    fn on_reply(&mut self, process: ProcessId, data: &Value) {
        let action = data.get("action_name").and_then(Value::as_str).unwrap_or_default();
        let waiting = self.triggers.iter().position(|t| t.process == process && t.action == action);
        if let Some(at) = waiting {
            let trigger = self.triggers.swap_remove(at);
            let text = data.get("return").map_or_else(|| "null".to_owned(), Value::to_string);
            drop(trigger.reply.send((process.0, text)));
        }
    }

    /// Has the apps behind `targets` run an action of theirs, and collects what they answer in time.
    pub(super) fn trigger(
        &mut self,
        caller: &Caller,
        targets: &[String],
        action: &str,
        params: &str,
        reply: Reply<Vec<(u32, String)>>,
    ) {
        let processes = match self.resolve(caller, targets) {
            Ok(processes) => processes,
            Err(error) => return answer(reply, Err(error)),
        };
        self.triggers.retain(|trigger| !trigger.reply.is_closed());
        let mut waiting = Vec::new();
        for process in processes {
            let Ok(worker) = self.running_worker(process) else { continue };
            let offered =
                self.reported.get(&process).and_then(|reported| reported.get("axm_actions")).is_some_and(|all| {
                    all.as_array().is_some_and(|all| all.iter().any(|known| known["action_name"] == action))
                });
            if !offered || self.triggers.len() >= MAX_TRIGGERS {
                continue;
            }
            let message = if params.is_empty() {
                json!(action)
            } else {
                json!({ "msg": action, "opts": params, "id": process.0 })
            };
            self.primary.send(worker, message);
            let (sender, receiver) = oneshot::channel();
            self.triggers.push(PendingTrigger { process, action: action.to_owned(), reply: sender });
            waiting.push(receiver);
        }
        tokio::spawn(async move {
            let mut replies = Vec::new();
            let deadline = tokio::time::Instant::now() + TRIGGER_TIMEOUT;
            for receiver in waiting {
                if let Ok(Ok(reply)) = tokio::time::timeout_at(deadline, receiver).await {
                    replies.push(reply);
                }
            }
            answer(reply, Ok::<_, Error>(replies));
        });
    }
}
