//! Plain data as the bus shows it.

use serde::{Deserialize, Serialize};

/// An app as anybody may see it: nothing secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppView {
    /// Internal number.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Uid of its owner.
    pub owner: u32,
    /// `fork_mode` or `cluster_mode`.
    pub mode: String,
    /// Count of process rows.
    pub instances: u32,
    /// PM2's status of its processes rolled into one: the worst of them.
    pub status: String,
    /// Ids of its processes.
    pub processes: Vec<u32>,
}

/// A process row as anybody may see it: nothing secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessView {
    /// PM2's `pm_id`.
    pub id: u32,
    /// Number of its app.
    pub app: u32,
    /// Its app's name.
    pub name: String,
    /// Its app's namespace.
    pub namespace: String,
    /// Uid of its owner.
    pub owner: u32,
    /// Instance number within the app.
    pub instance: u32,
    /// PM2's word for its state: `launching`, `online`, `stopping`, `stopped`, `waiting restart`, `errored`.
    pub status: String,
    /// Our word for it: `starting`, `ready`, `draining`, `stopping`, `backoff`, `errored`, `stopped`.
    pub state: String,
    /// Process id of its worker, 0 for none.
    pub pid: u32,
    /// Restarts since it was created.
    pub restarts: u32,
    /// Ends before `min_uptime` within the window.
    pub unstable_restarts: u32,
    /// When its worker started, ms since the epoch; 0 for none.
    pub started_at: u64,
    /// When the row was created, ms since the epoch.
    pub created_at: u64,
    /// Exit code of its last worker, -1 for none.
    pub exit_code: i32,
    /// Name of the signal that ended its last worker, empty for none.
    pub exit_signal: String,
    /// Why it does not run, or what is amiss; empty when all is well.
    pub reason: String,
}

/// How a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Under way.
    Running,
    /// Ended as asked.
    Done,
    /// Ended otherwise.
    Failed,
    /// Cancelled.
    Cancelled,
}

impl JobState {
    /// As the bus has it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            JobState::Running => "running",
            JobState::Done => "done",
            JobState::Failed => "failed",
            JobState::Cancelled => "cancelled",
        }
    }

    /// The state of that word, if there is one.
    #[must_use]
    pub fn from_word(word: &str) -> Option<JobState> {
        use JobState::{Cancelled, Done, Failed, Running};
        [Running, Done, Failed, Cancelled].into_iter().find(|state| state.as_str() == word)
    }
}

/// A job as its owner sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobView {
    /// Its number.
    pub id: u32,
    /// `start`, `stop`, `restart`, `reload`, `delete`, `scale`, `kill`, `resurrect`.
    pub kind: String,
    /// What it is about, in the caller's words.
    pub target: String,
    /// Uid of who asked.
    pub owner: u32,
    /// How it stands.
    pub state: JobState,
    /// Steps done.
    pub done: u32,
    /// Steps in all.
    pub total: u32,
    /// Why it failed; empty otherwise.
    pub message: String,
    /// What the caller should know though it succeeded.
    pub warnings: Vec<String>,
}
