//! The log path: from a worker's pipes to files, the journal and followers.
