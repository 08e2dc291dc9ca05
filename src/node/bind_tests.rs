//! Questions, answers and rights.
#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};

use super::*;
use crate::node::message::{Incoming, parse};

fn query(fields: &Value) -> Query {
    let mut message = json!({ "cmd": "NODE_CLUSTER", "act": "queryServer", "seq": 1 });
    message.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    match parse(message.to_string().as_bytes()) {
        Ok(Incoming::Query(query)) => *query,
        other => panic!("{other:?}"),
    }
}

fn ip(text: &str) -> Option<Host> {
    Some(text.parse::<IpAddr>().unwrap().into())
}

fn user(uid: u32) -> Identity {
    Identity { uid, gid: uid, groups: vec![uid], name: "x".into(), home: "/".into(), shell: "/bin/sh".into() }
}

fn bound(fd: &OwnedFd) -> SocketAddr {
    match socket::local_address(fd).unwrap() {
        Address::Inet(address) => address,
        Address::Unix(path) => panic!("{path:?}"),
    }
}

#[test]
fn questions_are_understood() {
    let table = [
        (
            json!({"address": null, "port": 80, "addressType": 4}),
            Ok(Wanted::Tcp { host: None, port: 80, v6_only: false }),
        ),
        (
            json!({"address": "::", "port": 80, "addressType": 6, "flags": 1}),
            Ok(Wanted::Tcp { host: ip("::"), port: 80, v6_only: true }),
        ),
        (
            json!({"address": "0.0.0.0", "port": 53, "addressType": "udp4", "fd": -1, "flags": 4}),
            Ok(Wanted::Udp { host: ip("0.0.0.0").unwrap(), port: 53, v6_only: false, reuse: true }),
        ),
        (json!({"address": "/run/x", "port": -1, "addressType": -1}), Ok(Wanted::Path("/run/x".into()))),
        (json!({"address": null, "port": null, "addressType": null, "fd": 3}), Ok(Wanted::Fd(3))),
        (json!({"address": "nowhere", "port": 80, "addressType": 4}), Err(libc::EINVAL)),
        (json!({"address": null, "port": 70000, "addressType": 4}), Err(libc::EINVAL)),
        (json!({"address": "relative", "port": -1, "addressType": -1}), Err(libc::EINVAL)),
        (json!({"address": null, "port": 80, "addressType": "sctp"}), Err(libc::EINVAL)),
        (json!({"address": "fe80::1%../x", "port": 80, "addressType": 6}), Err(libc::EINVAL)),
        (
            json!({"address": "fe80::1%1", "port": 80, "addressType": 6}),
            Ok(Wanted::Tcp { host: Some(Host { ip: "fe80::1".parse().unwrap(), scope: 1 }), port: 80, v6_only: false }),
        ),
    ];
    for (fields, expected) in table {
        assert_eq!(Wanted::from_query(&query(&fields)), expected, "{fields}");
    }
}

#[test]
fn configured_addresses_are_understood() {
    let tcp = |host, port| Some(Wanted::Tcp { host, port, v6_only: false });
    for (text, expected) in [
        ("8080", tcp(None, 8080)),
        ("*:8080", tcp(None, 8080)),
        ("127.0.0.1:80", tcp(ip("127.0.0.1"), 80)),
        ("[::1]:80", tcp(ip("::1"), 80)),
        ("/run/x.sock", Some(Wanted::Path("/run/x.sock".into()))),
        ("localhost:80", None),
        ("", None),
        ("99999", None),
    ] {
        assert_eq!(Wanted::from_text(text), expected, "{text}");
    }
}

#[test]
fn an_inherited_socket_serves_its_own_address() {
    let any = |port| Wanted::Tcp { host: None, port, v6_only: false };
    let on = |host| Wanted::Tcp { host: ip(host), port: 80, v6_only: false };
    let table = [
        (any(80), "[::]:80", false, true),
        (any(80), "0.0.0.0:80", false, true),
        (any(80), "127.0.0.1:80", false, false),
        (any(81), "[::]:80", false, false),
        (on("0.0.0.0"), "[::]:80", false, true),
        (on("0.0.0.0"), "[::]:80", true, false),
        (on("127.0.0.1"), "[::]:80", false, false),
        (on("127.0.0.1"), "127.0.0.1:80", false, true),
    ];
    for (wanted, address, v6_only, expected) in table {
        let inet = Address::Inet(address.parse().unwrap());
        assert_eq!(wanted.is_served_by(Kind::Stream, &inet, v6_only), expected, "{wanted:?} by {address}");
        assert!(!wanted.is_served_by(Kind::Datagram, &inet, v6_only));
        for kind in [Kind::Stream, Kind::Datagram] {
            assert!(Wanted::of(&inet, kind, v6_only).unwrap().is_served_by(kind, &inet, v6_only), "{address}");
        }
    }
    let path = Address::Unix("/run/x".into());
    assert!(Wanted::of(&path, Kind::Stream, false).unwrap().is_served_by(Kind::Stream, &path, false));
    assert_eq!(Wanted::of(&path, Kind::Datagram, false), None);
    assert_eq!(Wanted::of(&Address::Unix("".into()), Kind::Stream, false), None);
}

#[test]
fn what_is_in_use_is_refused_with_and_without_sharing() {
    let local = |port| Wanted::Tcp { host: ip("127.0.0.1"), port, v6_only: false };
    let root = user(0);
    for theirs_shared in [false, true] {
        for ours_shared in [false, true] {
            let theirs = bind_inet(&local(0), &root, theirs_shared).unwrap();
            socket::listen(&theirs, 1).unwrap();
            let refused = bind_inet(&local(bound(&theirs).port()), &root, ours_shared).unwrap_err();
            assert_eq!(refused, libc::EADDRINUSE, "theirs {theirs_shared}, ours {ours_shared}");
        }
    }
    let first = bind_inet(&local(0), &root, true).unwrap();
    socket::listen(&first, 1).unwrap();
    socket::listen(bind_another(bound(&first), false).unwrap(), 1).unwrap();
    assert_eq!(
        bind_inet(&Wanted::Tcp { host: ip("192.0.2.1"), port: 0, v6_only: false }, &root, false).unwrap_err(),
        libc::EADDRNOTAVAIL
    );
}

#[test]
fn low_ports_are_for_those_who_may() {
    let text = std::fs::read_to_string(UNPRIVILEGED_PORT_START).unwrap();
    let first: u16 = text.trim().parse().unwrap();
    if first == 0 {
        println!("skipped: {UNPRIVILEGED_PORT_START} is 0 here");
        return;
    }
    assert_eq!(may_bind_port(first - 1, &user(1000)), Err(libc::EACCES));
    assert_eq!(may_bind_port(first - 1, &user(0)), Ok(()));
    assert_eq!(may_bind_port(first, &user(1000)), Ok(()));
    assert_eq!(may_bind_port(0, &user(1000)), Ok(()));
}

#[test]
fn a_path_is_bound_once_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let own = Identity::own().unwrap();
    let fd = bind_path(&path, &own).unwrap();
    std::os::unix::net::UnixStream::connect(&path).unwrap();
    drop(fd);
    assert_eq!(bind_path(&path, &own).unwrap_err(), libc::EADDRINUSE);
    unlink_path(&path, &own);
    bind_path(&path, &own).unwrap();
    assert_eq!(bind_path(&dir.path().join("no/s"), &own).unwrap_err(), libc::ENOENT);
}
