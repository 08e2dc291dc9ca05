//! Channels on a socket pair, with the test as the worker.
#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::os::unix::net::UnixStream;

use serde_json::{Value, json};

use super::*;

fn channel() -> (Channel, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (Channel::new(ours.into()).unwrap(), theirs)
}

/// Looks and consumes until there is nothing more.
fn read_all(channel: &mut Channel, ended: bool) -> Result<(Vec<Received>, Next), Violation> {
    let mut all = Vec::new();
    loop {
        let mut buffer = Channel::buffer();
        let batch = channel.look(ended, &mut buffer)?;
        channel.consume(&batch, &mut buffer)?;
        all.extend(batch.messages);
        if batch.next != Next::More {
            return Ok((all, batch.next));
        }
    }
}

fn users(received: Vec<Received>) -> Vec<Value> {
    let value = |r: Received| match r.message {
        Incoming::User(value) => value,
        other => panic!("{other:?}"),
    };
    received.into_iter().map(value).collect()
}

#[test]
fn lines_are_read_whole_however_they_come() {
    let (mut channel, mut worker) = channel();
    worker.write_all(b"1\n2\n\"thr").unwrap();
    let (got, next) = read_all(&mut channel, false).unwrap();
    assert_eq!((users(got), next), (vec![json!(1), json!(2)], Next::Wait));
    worker.write_all(b"ee\"\n4").unwrap();
    assert_eq!(users(read_all(&mut channel, false).unwrap().0), [json!("three")]);
    drop(worker);
    // What was begun and will never be finished is no message.
    crate::sys::settled(|| read_all(&mut channel, true).unwrap() == (vec![], Next::End));
}

#[test]
fn what_was_looked_at_and_not_consumed_is_there_again() {
    let (mut channel, mut worker) = channel();
    worker.write_all(b"1\n2\n").unwrap();
    let mut buffer = Channel::buffer();
    assert_eq!(users(channel.look(false, &mut buffer).unwrap().messages), [json!(1), json!(2)]);
    let batch = channel.look(false, &mut buffer).unwrap();
    channel.consume(&batch, &mut buffer).unwrap();
    assert_eq!(users(batch.messages), [json!(1), json!(2)]);
    assert_eq!(channel.look(false, &mut buffer).unwrap().messages, []);
}

#[test]
fn a_line_longer_than_the_socket_holds_is_put_together() {
    let (mut channel, mut worker) = channel();
    let text = "x".repeat(3 << 20);
    let line = format!("\"{text}\"\n7\n");
    let writer = std::thread::spawn(move || worker.write_all(line.as_bytes()));
    let mut got = Vec::new();
    while got.len() < 2 {
        if !socket::is_readable(&channel).unwrap() {
            std::thread::yield_now();
            continue;
        }
        got.extend(users(read_all(&mut channel, false).unwrap().0));
    }
    writer.join().unwrap().unwrap();
    assert_eq!(got, [json!(text), json!(7)]);
}

#[test]
fn a_line_without_end_is_not_waited_for() {
    let (mut channel, mut worker) = channel();
    let writer = std::thread::spawn(move || while worker.write_all(&[b' '; 4096]).is_ok() {});
    let error = loop {
        match read_all(&mut channel, false) {
            Ok(_) => std::thread::yield_now(),
            Err(error) => break error,
        }
    };
    drop(channel);
    writer.join().unwrap();
    assert_eq!(error.to_string(), "sent a message of more than 16 MiB");
}

#[test]
fn nonsense_is_passed_over_until_it_is_too_much() {
    let (mut channel, mut worker) = channel();
    for _ in 0..3 {
        worker.write_all(&b"x\n".repeat(60)).unwrap();
        worker.write_all(b"1\n").unwrap();
    }
    assert_eq!(users(read_all(&mut channel, false).unwrap().0).len(), 3);
    worker.write_all(&b"\n".repeat(100)).unwrap();
    assert_eq!(read_all(&mut channel, false).unwrap_err().to_string(), "sent 100 lines that are no messages");
}

#[test]
fn a_handle_is_closed_and_told() {
    let (mut channel, worker) = channel();
    let (reader, writer) = std::io::pipe().unwrap();
    let handle = br#"{"cmd":"NODE_HANDLE","type":"net.Socket","msg":1}"#;
    // The descriptor goes with the first byte, the line ends in another message.
    socket::send(&worker, &handle[..10], Some(writer.as_fd())).unwrap();
    assert_eq!(read_all(&mut channel, false).unwrap(), (vec![], Next::Wait));
    socket::send(&worker, &handle[10..], None).unwrap();
    socket::send(&worker, b"\n2\n", None).unwrap();
    socket::send(&worker, handle, None).unwrap();
    socket::send(&worker, b"\n", None).unwrap();
    drop(writer);
    let (got, _) = read_all(&mut channel, false).unwrap();
    let told: Vec<bool> = got.iter().map(|r| r.with_fd).collect();
    assert_eq!(told, [true, false, false]);
    assert_eq!(std::io::read_to_string(reader).unwrap(), "", "a duplicate was left open");
}

#[test]
fn a_worker_that_does_not_read_is_waited_for_within_bounds() {
    let (mut channel, worker) = channel();
    let line = |n: usize| format!("{n:0>30000}\n").into_bytes();
    let mut written = 0;
    let error = loop {
        match channel.write(line(written), None) {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(error.to_string(), "does not read its channel: 4 MiB wait");
    assert!(channel.is_writing());
    // Everything that was accepted arrives, in order and whole.
    let reader = std::thread::spawn(move || {
        let lines = std::io::BufRead::lines(std::io::BufReader::new(worker));
        lines.map(|line| line.unwrap().parse::<usize>().unwrap()).collect::<Vec<_>>()
    });
    while channel.flush().unwrap() == Written::Waits {
        std::thread::yield_now();
    }
    drop(channel);
    assert_eq!(reader.join().unwrap(), (0..written).collect::<Vec<_>>());
}

#[test]
fn a_worker_that_is_gone_is_told_by_reading() {
    let (mut channel, worker) = channel();
    channel.write(b"1\n".to_vec(), None).unwrap();
    drop(worker);
    channel.write(b"2\n".to_vec(), None).unwrap();
    crate::sys::settled(|| channel.look(true, &mut Channel::buffer()).unwrap().next == Next::End);
}
