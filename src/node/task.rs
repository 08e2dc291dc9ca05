//! The task that owns every channel and every listening socket.

use tokio::sync::mpsc;

use super::primary::{Command, NodeEvent, PrimaryConfig};

/// State of the primary.
pub(super) struct Task {
    inbox: mpsc::UnboundedReceiver<Command>,
    events: mpsc::Sender<NodeEvent>,
    config: PrimaryConfig,
}

impl Task {
    pub(super) fn new(
        config: PrimaryConfig,
        inbox: mpsc::UnboundedReceiver<Command>,
        events: mpsc::Sender<NodeEvent>,
    ) -> std::io::Result<Task> {
        Ok(Task { inbox, events, config })
    }

    pub(super) async fn run(mut self) {
        while let Some(command) = self.inbox.recv().await {
            tracing::trace!(?command, hang_ms = self.config.hang_ms, open = !self.events.is_closed(), "told");
        }
    }
}
