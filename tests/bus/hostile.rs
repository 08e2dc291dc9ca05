//! Peers that do what no honest client does: the daemon stays up, small, and at everybody else's service.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use pm2rs::api::{Client, Error, JobState, names};
use pm2rs::daemon::Change;
use pm2rs::dbus::Server;
use pm2rs::sys::{socket, stray};
use rustix::net::sockopt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use zbus::Message;
use zbus::message::Flags;

use crate::daemon::{Daemon, connect, job, me, process, within};

/// Somebody who speaks bytes.
fn stranger(server: &mut Server) -> UnixStream {
    let (ours, theirs) = UnixStream::pair().unwrap();
    server.serve_stream(theirs);
    ours
}

fn greeting(uid: u32) -> Vec<u8> {
    let hex: String = uid.to_string().bytes().map(|byte| format!("{byte:02x}")).collect();
    format!("\0AUTH EXTERNAL {hex}\r\nNEGOTIATE_UNIX_FD\r\nBEGIN\r\n").into_bytes()
}

/// A stranger who got past the greeting.
async fn greeted(server: &mut Server) -> UnixStream {
    let mut stream = stranger(server);
    stream.write_all(&greeting(me())).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"AGREE_UNIX_FD\r\n") {
        assert_ne!(within(stream.read_buf(&mut answer)).await.unwrap(), 0, "the greeting was not taken");
    }
    stream
}

/// Reads until the server closes the connection.
async fn closed(stream: &mut UnixStream) -> Vec<u8> {
    let mut rest = Vec::new();
    // A reset says the same as an end.
    let _ = within(stream.read_to_end(&mut rest)).await;
    rest
}

async fn serves(client: &Client) {
    assert_eq!(within(client.manager().ping()).await, Ok("pong".into()));
}

fn call(member: &'static str) -> zbus::message::Builder<'static> {
    Message::method_call(names::MANAGER_PATH, member).interface(names::MANAGER_INTERFACE)
}

#[tokio::test]
async fn garbage_ends_the_connection_it_came_over() {
    let daemon = Daemon::of_two();
    let (mut server, client) = daemon.connected().await;
    for garbage in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        b"\n",
        b"\0\n",
        b"\0AUTH\r\n\n",
        b"\0AUTH EXTERNAL zz\r\n",
        b"\0AUTH EXTERNAL 30\r\nBEGIN\r\nl\x01\x00\x01\xff\xff\xff\xff",
        &[0xff; 4000],
    ] {
        let mut stream = stranger(&mut server);
        stream.write_all(garbage).await.unwrap();
        stream.shutdown().await.unwrap();
        closed(&mut stream).await;
        serves(&client).await;
    }
}

#[tokio::test]
async fn descriptors_that_take_long_to_close_hold_nobody_up() {
    let daemon = Daemon::of_two();
    let (mut server, client) = daemon.connected().await;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut lingering = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let _who_does_not_read = listener.accept().unwrap();
    lingering.set_nonblocking(true).unwrap();
    while lingering.write(&[0; 65536]).is_ok() {}
    sockopt::set_socket_linger(&lingering, Some(Duration::from_secs(40))).unwrap();
    let (mut gone, ours) = std::io::pipe().unwrap();

    let mut stream = stranger(&mut server);
    socket::send(&stream, &greeting(me()), Some(lingering.as_fd())).unwrap();
    // The last one is in the socket by the time that the server looks.
    stray::close(vec![lingering.into(), ours.into()]);
    assert_eq!(gone.read(&mut [0]).unwrap(), 0);
    let began = std::time::Instant::now();
    closed(&mut stream).await;
    serves(&client).await;
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
}

#[tokio::test]
async fn an_endless_greeting_is_not_kept() {
    let daemon = Daemon::of_two();
    let (mut server, client) = daemon.connected().await;
    let mut stream = stranger(&mut server);
    let _ = stream.write_all(&[&b"\0"[..], &[b'A'; 64 << 10]].concat()).await;
    closed(&mut stream).await;
    serves(&client).await;
}

#[tokio::test(start_paused = true)]
async fn who_connects_and_says_nothing_is_let_go() {
    let daemon = Daemon::of_two();
    let mut server = daemon.server().await;
    let began = tokio::time::Instant::now();
    let mut stream = stranger(&mut server);
    assert!(closed(&mut stream).await.is_empty());
    assert!(began.elapsed() < Duration::from_secs(11), "{:?}", began.elapsed());
}

#[tokio::test]
async fn nobody_is_taken_for_another_user() {
    let daemon = Daemon::of_two();
    let mut server = daemon.server().await;
    let mut stream = stranger(&mut server);
    stream.write_all(&greeting(me() + 1)).await.unwrap();
    stream.shutdown().await.unwrap();
    let answer = closed(&mut stream).await;
    assert!(answer.starts_with(b"REJECTED"), "{}", String::from_utf8_lossy(&answer));
}

#[tokio::test]
async fn a_message_of_a_hundred_megabytes_is_refused_by_its_header() {
    let daemon = Daemon::of_two();
    let (mut server, client) = daemon.connected().await;
    let mut stream = greeted(&mut server).await;
    let mut header = vec![b'l', 1, 0, 1];
    header.extend_from_slice(&(100_u32 << 20).to_le_bytes());
    header.extend_from_slice(&1_u32.to_le_bytes());
    header.extend_from_slice(&0_u32.to_le_bytes());
    stream.write_all(&header).await.unwrap();
    closed(&mut stream).await;
    serves(&client).await;
}

#[tokio::test]
async fn a_call_with_nonsense_in_it_is_answered_with_an_error() {
    let daemon = Daemon::of_two();
    let (_server, client) = daemon.connected().await;
    let connection = client.connection();
    let ask = async |path: &'static str, interface: Option<&'static str>, member: &'static str| {
        let body = (1_u64, "x");
        let answer = connection.call_method(Some(names::BUS_NAME), path, interface, member, &body).await;
        answer.unwrap_err().to_string()
    };
    let manager = Some(names::MANAGER_INTERFACE);
    for (path, interface, member, error) in [
        ("/org/pm2rs1", manager, "Stop", "InvalidArgs"),
        ("/org/pm2rs1", manager, "Explode", "UnknownMethod"),
        ("/org/pm2rs1", Some("org.example.Other"), "Stop", "UnknownMethod"),
        ("/org/pm2rs1", None, "Stop", "InvalidArgs"),
        ("/org/pm2rs1/process/77", Some(names::PROCESS_INTERFACE), "Stop", "UnknownObject"),
        ("/org/pm2rs1/process", Some(names::PROCESS_INTERFACE), "Stop", "UnknownMethod"),
        ("/elsewhere", manager, "Stop", "UnknownObject"),
        ("/org/pm2rs1", Some("org.freedesktop.DBus.Properties"), "Get", "InvalidArgs"),
        ("/org/pm2rs1", Some("org.freedesktop.DBus.Properties"), "Set", "PropertyReadOnly"),
    ] {
        let answer = ask(path, interface, member).await;
        assert!(answer.contains(error), "{path} {member}: {answer}");
    }
    serves(&client).await;
}

#[tokio::test]
async fn only_so_many_calls_of_one_are_in_hand() {
    let daemon = Daemon::of_two();
    let (mut server, client) = daemon.connected().await;
    daemon.tell(Change::Job(job(1, "reload", me(), JobState::Running)));
    let proxy = client.job(&names::job_path(1)).await.unwrap();
    while proxy.state().await.is_err() {
        tokio::task::yield_now().await;
    }
    let waits: Vec<_> = (0..80)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.wait(&names::job_path(1)).await })
        })
        .collect();
    // The loop goes on for others, who can also end the wait.
    let other = connect(&mut server).await;
    serves(&other).await;
    while !matches!(client.manager().ping().await, Err(Error::TooManyRequests(_))) {
        tokio::task::yield_now().await;
    }
    daemon.tell(Change::Job(job(1, "reload", me(), JobState::Done)));
    let mut refused = 0;
    for wait in waits {
        match within(wait).await.unwrap() {
            Ok(outcome) => assert_eq!(outcome.state, JobState::Done),
            Err(Error::TooManyRequests(_)) => refused += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(refused, 80 - 64);
    serves(&client).await;
}

#[tokio::test(start_paused = true)]
async fn a_flood_that_reads_no_answer_is_cut_off() {
    let daemon = Daemon::of_two();
    let mut server = daemon.server().await;
    let mut stream = greeted(&mut server).await;
    let mut flood = Vec::new();
    for _ in 0..1000 {
        flood.extend_from_slice(call("Ping").build(&()).unwrap().data());
    }
    let flooding = async {
        loop {
            if stream.write_all(&flood).await.is_err() {
                return;
            }
        }
    };
    within(flooding).await;
    let other = connect(&mut server).await;
    assert_eq!(other.manager().ping().await, Ok("pong".into()));
}

#[tokio::test]
async fn a_flood_that_wants_no_answer_does_no_harm() {
    let daemon = Daemon::of_two();
    let (mut server, client) = daemon.connected().await;
    let mut stream = greeted(&mut server).await;
    for _ in 0..5000 {
        let message = call("ListProcesses").with_flags(Flags::NO_REPLY_EXPECTED).build(&()).unwrap();
        stream.write_all(message.data()).await.unwrap();
    }
    serves(&client).await;
    let last = call("Ping").build(&()).unwrap();
    stream.write_all(last.data()).await.unwrap();
    let mut answer = Vec::new();
    while answer.len() < 16 {
        assert_ne!(within(stream.read_buf(&mut answer)).await.unwrap(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn who_hears_signals_and_does_not_read_them_is_cut_off() {
    let daemon = Daemon::of_two();
    let (mut server, client) = daemon.connected().await;
    let mut stream = greeted(&mut server).await;
    let look = Message::method_call(names::MANAGER_PATH, "Introspect").build(&()).unwrap();
    stream.write_all(look.data()).await.unwrap();
    within(stream.readable()).await.unwrap();
    let mut view = process(0, "api", me());
    for round in 0..20_000_u32 {
        view.restarts = round;
        view.reason = "x".repeat(200);
        daemon.tell(Change::Process(view.clone()));
        serves_between(&client, round).await;
    }
    serves(&client).await;
    closed(&mut stream).await;
}

/// Gives the server a turn now and then, so that each turn has something new to tell.
async fn serves_between(client: &Client, round: u32) {
    if round.is_multiple_of(8) {
        serves(client).await;
    }
}
