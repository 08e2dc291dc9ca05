//! The names under which the daemon is found.

/// The well-known bus name, on the system and on the session bus.
pub const BUS_NAME: &str = "org.pm2rs1";
/// Path of the manager and root of the tree.
pub const MANAGER_PATH: &str = "/org/pm2rs1";
/// File name of the private peer-to-peer socket within the runtime folder.
pub const PRIVATE_SOCKET: &str = "bus.sock";
