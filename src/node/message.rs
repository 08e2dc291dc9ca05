//! The lines of Node's cluster channel: one JSON text each, parsed and built.
//!
//! Knows the wire (lib/internal/cluster and lib/internal/child_process of Node 18 to 26) and nothing else: no
//! descriptor, no state. What a worker sends is taken apart here, so that nobody else sees untyped JSON.

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// Longest line that Node's own machinery or the agent may send; with a path, TLS ticket keys and numbers it stays
/// far below.
pub(super) const INTERNAL_LIMIT: usize = 64 << 10;

/// Version of the agent's private messages (`NODE_PM2RS`).
const PRIVATE: &str = "NODE_PM2RS";

/// A line from a worker.
#[derive(Debug, PartialEq)]
pub(super) enum Incoming {
    /// The cluster layer is up.
    Online,
    /// A server wants to listen.
    Query(Box<Query>),
    /// That server does; the query's fields with the port that it got.
    Listening(Box<Query>),
    /// The server that we know by this key does not any more.
    Closed { key: String },
    /// It has taken the connection that we sent under this number, or not.
    Connection { ack: u64, accepted: bool },
    /// `cluster.worker.disconnect()`: waits for our answer to this number.
    Leaving { seq: u64 },
    /// It got the descriptor of our oldest unanswered NODE_HANDLE.
    HandleArrived,
    /// It got that message and no descriptor.
    HandleMissing,
    /// It sent a handle, and this with it; waits for an answer.
    Handle { message: Value },
    /// The agent speaks.
    Agent(AgentNote),
    /// `process.send()` of the app.
    User(Value),
    /// Something that a later Node may say.
    Unknown,
}

/// What the agent says.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(tag = "act", rename_all = "snake_case")]
pub(super) enum AgentNote {
    /// It is there, in this version of Node.
    Hello {
        #[serde(default)]
        node: String,
    },
    /// The event loop turned since our ping.
    Pong,
    /// A server of the app listens, through us or by itself.
    Listening {
        /// An address, or the path when the port is negative.
        address: String,
        port: i32,
    },
    /// Done, with so many connections open.
    Drained { left: u32 },
}

/// `queryServer`: for what a worker wants a handle.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Query {
    /// The number that our answer names.
    pub seq: u64,
    /// Tells servers with otherwise equal fields apart (`listen(0)` twice).
    #[serde(default)]
    pub index: u32,
    /// TLS ticket keys, or null: the first worker's are everybody's.
    #[serde(default)]
    pub data: Value,
    /// Numeric address, absolute path, or nothing for "any".
    #[serde(default)]
    pub address: Option<String>,
    /// -1 for a path.
    #[serde(default)]
    pub port: Option<i32>,
    /// `udp4`, `udp6`, 4, 6, -1 for a path or null.
    #[serde(default)]
    pub address_type: Value,
    /// `listen({ fd })`: a descriptor of the primary's. -1 or absent otherwise.
    #[serde(default)]
    pub fd: Option<i32>,
    /// libuv's: 1 for IPv6 only, 4 for SO_REUSEADDR of UDP.
    #[serde(default)]
    pub flags: Option<u32>,
    /// The app's wish, `false` or 0 for none.
    #[serde(default)]
    pub backlog: Value,
}

/// Why a line is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    /// No JSON, or an internal message whose fields make no sense.
    #[error("sent a line that is no message")]
    NoMessage,
    /// An internal message beyond [`INTERNAL_LIMIT`].
    #[error("sent an internal message of more than {} KiB", INTERNAL_LIMIT >> 10)]
    TooLong,
}

/// Takes a line apart, without its newline.
pub(super) fn parse(line: &[u8]) -> Result<Incoming, Malformed> {
    let value: Value = match serde_json::from_slice(line).or_else(|_| serde_json::from_slice(&without_surrogates(line)))
    {
        Ok(value) => value,
        // An app's, nested more deeply than we follow. What comes with a handle wants an answer all the same.
        Err(_) if serde_json::from_slice::<IgnoredAny>(line).is_ok() => {
            let with_handle = line.starts_with(br#"{"cmd":"NODE_HANDLE","#);
            return Ok(if with_handle { Incoming::Handle { message: Value::Null } } else { Incoming::Unknown });
        }
        Err(_) => return Err(Malformed::NoMessage),
    };
    let Some(cmd) = internal_command(&value) else { return Ok(Incoming::User(value)) };
    // A handle's inner message is the app's own; its length is bounded as any user message's.
    if line.len() > INTERNAL_LIMIT && cmd != "NODE_HANDLE" {
        return Err(Malformed::TooLong);
    }
    match cmd {
        "NODE_CLUSTER" => cluster(value),
        "NODE_HANDLE" => {
            let Value::Object(mut object) = value else { return Err(Malformed::NoMessage) };
            Ok(Incoming::Handle { message: object.remove("msg").unwrap_or(Value::Null) })
        }
        "NODE_HANDLE_ACK" => Ok(Incoming::HandleArrived),
        "NODE_HANDLE_NACK" => Ok(Incoming::HandleMissing),
        PRIVATE => Ok(AgentNote::deserialize(value).map_or(Incoming::Unknown, Incoming::Agent)),
        _ => Ok(Incoming::Unknown),
    }
}

/// The line with U+FFFD for each half of a surrogate pair that stands alone, as a text has it that was cut in two: JavaScript
/// writes it as an escape, and no text here can have it.
fn without_surrogates(line: &[u8]) -> Vec<u8> {
    let unit = |at: usize| {
        let escape = line.get(at..at + 6).filter(|escape| escape.starts_with(b"\\u"))?;
        u16::from_str_radix(std::str::from_utf8(&escape[2..]).ok()?, 16).ok()
    };
    let mut clean = Vec::with_capacity(line.len());
    let mut at = 0;
    while at < line.len() {
        let (step, alone) = match (unit(at), unit(at + 6)) {
            (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => (12, false),
            (Some(0xd800..=0xdfff), _) => (6, true),
            // Another escape's second half begins none.
            _ if line[at] == b'\\' => (2, false),
            _ => (1, false),
        };
        let end = line.len().min(at + step);
        clean.extend_from_slice(if alone { b"\\ufffd" } else { &line[at..end] });
        at = end;
    }
    clean
}

/// Node's own rule of what the app must not see: `cmd` begins with `NODE_` and goes on.
fn internal_command(value: &Value) -> Option<&str> {
    value.get("cmd")?.as_str().filter(|cmd| cmd.len() > 5 && cmd.starts_with("NODE_"))
}

fn cluster(value: Value) -> Result<Incoming, Malformed> {
    let number = |name: &str| value.get(name).and_then(Value::as_u64);
    let act = value.get("act").and_then(Value::as_str);
    match act {
        Some("online") => Ok(Incoming::Online),
        Some("close") => {
            let key = value.get("key").and_then(Value::as_str).ok_or(Malformed::NoMessage)?;
            Ok(Incoming::Closed { key: key.to_owned() })
        }
        Some("exitedAfterDisconnect") => Ok(Incoming::Leaving { seq: number("seq").ok_or(Malformed::NoMessage)? }),
        Some("queryServer" | "listening") => {
            let listening = act == Some("listening");
            let query = Box::new(Query::deserialize(value).map_err(|_| Malformed::NoMessage)?);
            Ok(if listening { Incoming::Listening(query) } else { Incoming::Query(query) })
        }
        Some(_) => Ok(Incoming::Unknown),
        None => match (number("ack"), value.get("accepted").and_then(Value::as_bool)) {
            (Some(ack), Some(accepted)) => Ok(Incoming::Connection { ack, accepted }),
            _ => Ok(Incoming::Unknown),
        },
    }
}

fn line(value: &Value) -> Vec<u8> {
    let mut line = value.to_string().into_bytes();
    line.push(b'\n');
    line
}

fn with_handle(kind: &str, message: &Value) -> Vec<u8> {
    line(&json!({ "cmd": "NODE_HANDLE", "type": kind, "msg": message }))
}

fn cluster_message(fields: Value) -> Value {
    let mut message = Map::new();
    message.insert("cmd".to_owned(), "NODE_CLUSTER".into());
    if let Value::Object(fields) = fields {
        message.extend(fields);
    }
    Value::Object(message)
}

/// Goes with a listening or bound socket.
///
/// `errno` is null and not 0: with 0 the worker compares the socket's port with the one it asked for, and a socket
/// from systemd may have another.
pub(super) fn shared_reply(ack: u64, seq: u64, key: &str, data: &Value, datagram: bool) -> Vec<u8> {
    let message = json!({ "errno": null, "key": key, "ack": ack, "data": data, "seq": seq });
    with_handle(if datagram { "dgram.Native" } else { "net.Native" }, &cluster_message(message))
}

/// Connections will come one by one; `sockname` is what `server.address()` shows, none for a path.
pub(super) fn dealt_reply(ack: u64, seq: u64, key: &str, data: &Value, sockname: Option<Value>) -> Vec<u8> {
    let mut message = json!({ "errno": null, "key": key, "ack": ack, "data": data, "seq": seq });
    if let Some(sockname) = sockname {
        message["sockname"] = sockname;
    }
    line(&cluster_message(message))
}

/// The server cannot listen; `errno` is positive as in errno(3), libuv's numbers are their negatives.
pub(super) fn error_reply(ack: u64, seq: u64, key: &str, errno: i32) -> Vec<u8> {
    line(&cluster_message(json!({ "errno": -errno, "key": key, "ack": ack, "data": null, "seq": seq })))
}

/// Goes with a connection.
pub(super) fn connection(seq: u64, key: &str) -> Vec<u8> {
    with_handle("net.Native", &cluster_message(json!({ "act": "newconn", "key": key, "seq": seq })))
}

/// Answers [`Incoming::Leaving`].
pub(super) fn acknowledge(ack: u64, seq: u64) -> Vec<u8> {
    line(&cluster_message(json!({ "ack": ack, "seq": seq })))
}

/// Has the worker close its servers and then the channel.
pub(super) fn disconnect(seq: u64) -> Vec<u8> {
    line(&cluster_message(json!({ "act": "disconnect", "seq": seq })))
}

/// Answers [`Incoming::Handle`].
pub(super) fn handle_answer(arrived: bool) -> Vec<u8> {
    line(&json!({ "cmd": if arrived { "NODE_HANDLE_ACK" } else { "NODE_HANDLE_NACK" } }))
}

/// A handle that does not come: an event loop that turns answers [`Incoming::HandleMissing`]. Only for a worker that
/// has answered all handles before, and none may follow until it has answered this.
pub(super) fn missing_handle() -> Vec<u8> {
    with_handle("net.Native", &json!({}))
}

/// Asks the agent for a sign of life.
pub(super) fn ping() -> Vec<u8> {
    line(&json!({ "cmd": PRIVATE, "act": "ping" }))
}

/// Has the agent keep its worker from accepting, until [`admit`].
pub(super) fn wait() -> Vec<u8> {
    line(&json!({ "cmd": PRIVATE, "act": "wait" }))
}

/// Has the agent let its worker accept. It listens with the backlog that the supervisor's sockets have.
pub(super) fn admit() -> Vec<u8> {
    line(&json!({ "cmd": PRIVATE, "act": "admit", "backlog": super::bind::BACKLOG }))
}

/// Tells the agent on which ports the supervisor holds sockets of its app.
pub(super) fn held(ports: &[u16]) -> Vec<u8> {
    line(&json!({ "cmd": PRIVATE, "act": "held", "ports": ports }))
}

/// Has the agent drain.
pub(super) fn drain(timeout_ms: u64) -> Vec<u8> {
    line(&json!({ "cmd": PRIVATE, "act": "drain", "timeout": timeout_ms }))
}

/// A message for the app; `None` when Node would take it for one of its own.
pub(super) fn user(message: &Value) -> Option<Vec<u8>> {
    internal_command(message).is_none().then(|| line(message))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(line: Vec<u8>) -> String {
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn what_workers_send_is_understood() {
        let query = r#"{"cmd":"NODE_CLUSTER","act":"queryServer","index":1,"data":null,"address":null,"port":3000,"addressType":4,"flags":0,"backlog":0,"seq":1}"#;
        let Ok(Incoming::Query(query)) = parse(query.as_bytes()) else { panic!() };
        assert_eq!((query.seq, query.index, query.port, query.address.as_deref()), (1, 1, Some(3000), None));
        // listen({ fd }) sends nulls, Node 18 leaves flags out, dgram names its type.
        for fields in [
            r#""address":null,"port":null,"addressType":null,"fd":9"#,
            r#""address":"0.0.0.0","port":53,"addressType":"udp4","fd":-1,"flags":4"#,
            r#""address":"/run/x","port":-1,"addressType":-1,"readableAll":true,"backlog":false"#,
        ] {
            let query =
                format!(r#"{{"cmd":"NODE_CLUSTER","act":"listening","data":{{"ticketKeys":"0a"}},{fields},"seq":2}}"#);
            assert!(matches!(parse(query.as_bytes()), Ok(Incoming::Listening(_))), "{fields}");
        }
        let table = [
            (r#"{"cmd":"NODE_CLUSTER","act":"online","seq":0}"#, Incoming::Online),
            (r#"{"cmd":"NODE_CLUSTER","act":"close","key":"7","seq":3}"#, Incoming::Closed { key: "7".into() }),
            (
                r#"{"cmd":"NODE_CLUSTER","ack":5,"accepted":false,"seq":4}"#,
                Incoming::Connection { ack: 5, accepted: false },
            ),
            (r#"{"cmd":"NODE_CLUSTER","act":"exitedAfterDisconnect","seq":6}"#, Incoming::Leaving { seq: 6 }),
            (r#"{"cmd":"NODE_HANDLE_ACK"}"#, Incoming::HandleArrived),
            (r#"{"cmd":"NODE_HANDLE_NACK"}"#, Incoming::HandleMissing),
            (
                r#"{"cmd":"NODE_HANDLE","type":"net.Socket","msg":{"a":1},"key":"k"}"#,
                Incoming::Handle { message: json!({"a": 1}) },
            ),
            (
                r#"{"cmd":"NODE_PM2RS","act":"hello","node":"20.20.2"}"#,
                Incoming::Agent(AgentNote::Hello { node: "20.20.2".into() }),
            ),
            (
                r#"{"cmd":"NODE_PM2RS","act":"drained","left":2,"ms":1}"#,
                Incoming::Agent(AgentNote::Drained { left: 2 }),
            ),
            (r#"{"cmd":"NODE_PM2RS","act":"later"}"#, Incoming::Unknown),
            (r#"{"cmd":"NODE_CLUSTER","act":"later"}"#, Incoming::Unknown),
            (r#"{"cmd":"NODE_DEBUG_ENABLED"}"#, Incoming::Unknown),
            (r#""ready""#, Incoming::User(json!("ready"))),
            (r#"{"cmd":"NODE_"}"#, Incoming::User(json!({"cmd": "NODE_"}))),
            (r#"{"cmd":7}"#, Incoming::User(json!({"cmd": 7}))),
            ("null", Incoming::User(Value::Null)),
            (r#""cut \ud83d""#, Incoming::User(json!("cut \u{fffd}"))),
            (r#""\udc00\ud83d\ude00\\ud800\ud800\n""#, Incoming::User(json!("\u{fffd}\u{1f600}\\ud800\u{fffd}\n"))),
        ];
        for (line, expected) in table {
            assert_eq!(parse(line.as_bytes()), Ok(expected), "{line}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for line in [
            "",
            "{",
            "\u{2}{}",
            r#"{"cmd":"NODE_CLUSTER","act":"close"}"#,
            r#"{"cmd":"NODE_CLUSTER","act":"queryServer","seq":-1}"#,
        ] {
            assert_eq!(parse(line.as_bytes()), Err(Malformed::NoMessage), "{line}");
        }
        let long = format!(r#"{{"cmd":"NODE_CLUSTER","act":"online","pad":"{}"}}"#, "x".repeat(INTERNAL_LIMIT));
        assert_eq!(parse(long.as_bytes()), Err(Malformed::TooLong));
        let long = format!(r#""{}""#, "x".repeat(INTERNAL_LIMIT));
        assert!(matches!(parse(long.as_bytes()), Ok(Incoming::User(_))));
        assert_eq!(parse("[".repeat(100_000).as_bytes()), Err(Malformed::NoMessage));
        // Whatever an app sends is none of our business.
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(parse(deep.as_bytes()), Ok(Incoming::Unknown));
        let deep = format!(r#"{{"cmd":"NODE_HANDLE","type":"net.Socket","msg":{deep}}}"#);
        assert_eq!(parse(deep.as_bytes()), Ok(Incoming::Handle { message: Value::Null }));
    }

    #[test]
    fn lines_to_workers_are_as_nodes_primary_writes_them() {
        assert_eq!(
            text(shared_reply(1, 9, "4", &json!({"ticketKeys": "0a"}), false)),
            "{\"cmd\":\"NODE_HANDLE\",\"type\":\"net.Native\",\"msg\":{\"cmd\":\"NODE_CLUSTER\",\"errno\":null,\"key\":\"4\",\"ack\":1,\"data\":{\"ticketKeys\":\"0a\"},\"seq\":9}}\n"
        );
        assert_eq!(
            text(error_reply(1, 9, "4", 98)),
            "{\"cmd\":\"NODE_CLUSTER\",\"errno\":-98,\"key\":\"4\",\"ack\":1,\"data\":null,\"seq\":9}\n"
        );
        assert!(
            text(dealt_reply(1, 2, "4", &Value::Null, Some(json!({"port": 80})))).contains(r#""sockname":{"port":80}"#)
        );
        assert!(!text(dealt_reply(1, 2, "4", &Value::Null, None)).contains("sockname"));
        assert_eq!(text(user(&json!("shutdown")).unwrap()), "\"shutdown\"\n");
        assert_eq!(user(&json!({"cmd": "NODE_HANDLE_ACK"})), None);
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_much(line in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&line);
        }

        #[test]
        fn an_apps_text_comes_back_as_one_line(text in ".*") {
            let line = user(&Value::from(text.clone())).unwrap();
            prop_assert_eq!(line.iter().filter(|b| **b == b'\n').count(), 1);
            prop_assert_eq!(parse(&line[..line.len() - 1]), Ok(Incoming::User(Value::from(text))));
        }
    }
}
