//! Where a syslog daemon listens.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

// An address is a value; only what std does with it is input and output.
use ::core::net::SocketAddr;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// As it is written: `unix:/dev/log`, `udp:127.0.0.1:514`. A host has no name here: looking one up can take long, each
/// time that its address changes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SyslogAddress {
    /// A datagram socket on this machine.
    Unix(PathBuf),
    /// UDP.
    Udp(SocketAddr),
}

/// Text that is no such address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it must be `unix:/PATH` or `udp:ADDRESS:PORT`, as in `unix:/dev/log` and `udp:127.0.0.1:514`")]
pub struct NoSyslogAddress;

/// Longest path that a socket's address has room for (unix(7)).
const MAX_SOCKET_PATH: usize = 107;

impl FromStr for SyslogAddress {
    type Err = NoSyslogAddress;

    fn from_str(text: &str) -> Result<SyslogAddress, NoSyslogAddress> {
        match text.split_once(':') {
            Some(("unix", path))
                if path.starts_with('/') && path.len() <= MAX_SOCKET_PATH && !path.contains(['\0', '\n']) =>
            {
                Ok(SyslogAddress::Unix(path.into()))
            }
            Some(("udp", address)) => {
                let address: SocketAddr = address.parse().map_err(|_| NoSyslogAddress)?;
                if address.port() == 0 { Err(NoSyslogAddress) } else { Ok(SyslogAddress::Udp(address)) }
            }
            _ => Err(NoSyslogAddress),
        }
    }
}

impl fmt::Display for SyslogAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SyslogAddress::Unix(path) => write!(f, "unix:{}", path.display()),
            SyslogAddress::Udp(address) => write!(f, "udp:{address}"),
        }
    }
}

impl Serialize for SyslogAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SyslogAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<SyslogAddress, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written() {
        for text in ["unix:/dev/log", "udp:127.0.0.1:514", "udp:[::1]:5514"] {
            assert_eq!(text.parse::<SyslogAddress>().map(|address| address.to_string()), Ok(text.to_owned()));
        }
        let long = format!("unix:/{}", "x".repeat(107));
        for wrong in
            ["", "/dev/log", "unix:dev/log", "udp:514", "udp:localhost:514", "udp:127.0.0.1:0", "tcp:[::1]:1", &long]
        {
            assert_eq!(wrong.parse::<SyslogAddress>(), Err(NoSyslogAddress), "{wrong}");
        }
    }
}
