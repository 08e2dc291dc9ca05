//! The numbers by which things are known. Newtypes, so that one is never taken for another.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id! {
    /// One started app. Never reused while the daemon's state lives.
    AppId(u32)
}
id! {
    /// PM2's `pm_id`: a row of the process list. From 0 upwards, not reused while any process exists, back to 0 when
    /// the list is empty.
    ProcessId(u32)
}
id! {
    /// One operating-system process that serves, or served, a row. From 1 upwards, never reused; it is also what Node
    /// knows as `cluster.worker.id`.
    WorkerId(u32)
}
id! {
    /// One request that takes time.
    JobId(u32)
}
id! {
    /// A user of the system, as in uid_t(3type).
    Uid(u32)
}
