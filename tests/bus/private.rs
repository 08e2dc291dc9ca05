//! Clients over private sockets.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;

use pm2rs::api::{Client, ConnectError, Error, JobState, LogsDict, StartDict, UpdateDict, names};
use pm2rs::daemon::Change;
use pm2rs::dbus::{Access, ServeError};
use zbus::fdo;

use crate::daemon::{DEADLINE, Daemon, SOMEBODY_ELSE, app_of, connect, job, me, process, within};

#[tokio::test]
async fn a_request_reaches_the_loop_with_the_kernels_word_on_who_asks() {
    let daemon = Daemon::of_two();
    let (_server, client) = daemon.connected().await;
    assert_eq!(client.manager().resolve(&["api"]).await, Ok(vec![0]));
    let caller = daemon.last_caller();
    assert_eq!((caller.uid.0, caller.pid, caller.privileged), (me(), std::process::id(), false));
}

#[tokio::test]
async fn a_job_can_be_waited_for_as_soon_as_its_path_is_known() {
    let daemon = Daemon::of_two();
    let (_server, client) = daemon.connected().await;
    for _ in 0..50 {
        let job = client.manager().restart(&["api"], &UpdateDict::default()).await.unwrap();
        let outcome = within(client.wait(&job)).await.unwrap();
        assert_eq!((outcome.state, outcome.warnings), (JobState::Done, vec!["a warning".to_owned()]));
    }
}

#[tokio::test]
async fn waiting_ends_with_the_job() {
    let daemon = Daemon::of_two();
    let (_server, client) = daemon.connected().await;
    daemon.tell(Change::Job(job(77, "reload", me(), JobState::Running)));
    let mut proxy = client.job(&names::job_path(77)).await.unwrap();
    // The change and this client come to the server by different ways.
    while proxy.state().await.is_err() {
        tokio::task::yield_now().await;
        proxy = client.job(&names::job_path(77)).await.unwrap();
    }
    let path = names::job_path(77);
    let waiting = tokio::spawn({
        let client = client.clone();
        let path = path.clone();
        async move { client.wait(&path).await }
    });
    assert_eq!(proxy.state().await.unwrap(), "running");
    let mut ended = job(77, "reload", me(), JobState::Failed);
    ended.message = "the new release does not listen".into();
    daemon.tell(Change::Job(ended));
    let outcome = within(waiting).await.unwrap().unwrap();
    assert_eq!((outcome.state, outcome.message.as_str()), (JobState::Failed, "the new release does not listen"));
    assert_eq!(
        within(client.wait(&names::job_path(5))).await,
        Err(Error::Failed("there is no object `/org/pm2rs1/job/5`".into()))
    );
}

#[tokio::test]
async fn errors_keep_their_type_on_the_way() {
    let daemon = Daemon::of_two();
    let (_server, client) = daemon.connected().await;
    let manager = client.manager();
    assert_eq!(manager.stop(&["nobody"]).await, Err(Error::NoSuchTarget("nobody".into())));
    let spec = r#"{"name":"api","script":"/a.js"}"#;
    assert_eq!(manager.start_app(spec, &StartDict::default()).await, Err(Error::AlreadyLaunched("a.js".into())));
    assert_eq!(manager.scale("api", "1").await, Err(Error::NothingToDo));
    assert!(matches!(manager.send_line(0, "x").await, Err(Error::NotPossible(_))));
    assert!(matches!(manager.send_message(0, "{").await, Err(Error::InvalidArgument(_))));
    assert!(matches!(manager.start_app("{", &StartDict { force: true }).await, Err(Error::InvalidArgument(_))));
    let Err(Error::InvalidArgument(text)) = manager.start_app(r#"{"nam":1}"#, &StartDict { force: true }).await else {
        panic!("an unknown key was taken");
    };
    assert!(text.contains("nam"), "{text}");
    let options = LogsDict { streams: "both".into(), ..LogsDict::default() };
    assert!(matches!(manager.open_logs(&["api"], &options).await, Err(Error::InvalidArgument(_))));
}

#[tokio::test]
async fn logs_come_as_a_descriptor() {
    let daemon = Daemon::of_two();
    let (_server, client) = daemon.connected().await;
    let options = LogsDict { lines: 3, ..LogsDict::default() };
    let output = client.manager().open_logs(&["api"], &options).await.unwrap();
    let file = std::fs::File::from(std::os::fd::OwnedFd::from(output));
    let mut line = String::new();
    BufReader::new(file).read_line(&mut line).unwrap();
    assert_eq!(line, "{\"message\":\"lines 3\"}\n");
}

#[tokio::test]
async fn all_objects_can_be_listed_and_read() {
    let daemon = Daemon::of_two();
    let (_server, client) = daemon.connected().await;
    let objects = fdo::ObjectManagerProxy::builder(client.connection())
        .destination(names::BUS_NAME)
        .path(names::MANAGER_PATH)
        .build()
        .await
        .unwrap();
    let all = objects.get_managed_objects().await.unwrap();
    let mut paths: Vec<&str> = all.keys().map(|path| path.as_str()).collect();
    paths.sort_unstable();
    assert_eq!(
        paths,
        ["/org/pm2rs1/app/api", "/org/pm2rs1/app/shop", "/org/pm2rs1/process/0", "/org/pm2rs1/process/1"]
    );
    let process = client.process(1).await.unwrap();
    assert_eq!(process.status().await.unwrap(), "online");
    assert_eq!(process.pid().await.unwrap(), 1001);
    let app = client.app(&names::app_path("shop")).await.unwrap();
    assert_eq!(app.processes().await.unwrap(), [names::process_path(1)]);
    assert_eq!(client.manager().online().await.unwrap(), 2);
    assert_eq!(client.manager().version().await.unwrap(), "9.8.7");
    assert!(client.process(9).await.unwrap().status().await.is_err());
}

#[tokio::test]
async fn who_has_looked_is_told_what_changes() {
    let daemon = Daemon::of_two();
    let (_server, client) = daemon.connected().await;
    let objects = fdo::ObjectManagerProxy::builder(client.connection())
        .destination(names::BUS_NAME)
        .path(names::MANAGER_PATH)
        .build()
        .await
        .unwrap();
    let mut added = objects.receive_interfaces_added().await.unwrap();
    let mut removed = objects.receive_interfaces_removed().await.unwrap();
    let properties = fdo::PropertiesProxy::builder(client.connection())
        .destination(names::BUS_NAME)
        .path(names::process_path(0))
        .build()
        .await
        .unwrap();
    let mut changed = properties.receive_properties_changed().await.unwrap();
    objects.get_managed_objects().await.unwrap();

    let mut view = process(0, "api", me());
    view.status = "stopped".into();
    view.pid = 0;
    daemon.tell(Change::Process(view));
    let signal = within(next(&mut changed)).await;
    let arguments = signal.args().unwrap();
    assert_eq!(arguments.interface_name.as_str(), "org.pm2rs1.Process");
    let values: HashMap<&str, String> =
        arguments.changed_properties.iter().map(|(name, value)| (*name, value.to_string())).collect();
    assert_eq!(values, HashMap::from([("Status", "\"stopped\"".into()), ("Pid", "uint32 0".into())]));

    let new = process(5, "new", me());
    daemon.tell(Change::App(app_of(&new)));
    daemon.tell(Change::Process(new));
    let paths = [within(next(&mut added)).await, within(next(&mut added)).await];
    let paths = paths.map(|signal| signal.args().unwrap().object_path.to_string());
    assert_eq!(paths, ["/org/pm2rs1/app/new", "/org/pm2rs1/process/5"]);
    daemon.tell(Change::ProcessRemoved(5));
    let signal = within(next(&mut removed)).await;
    assert_eq!(signal.args().unwrap().object_path.as_str(), "/org/pm2rs1/process/5");
}

#[tokio::test]
async fn the_managers_signals_come_to_who_asked_for_them() {
    let daemon = Daemon::of_two();
    let (_server, client) = daemon.connected().await;
    let mut events = client.manager().receive_process_event().await.unwrap();
    let mut ends = client.manager().receive_job_removed().await.unwrap();
    client.hear_signals().await.unwrap();
    let event = Change::Event { process: 0, name: "api".into(), event: "online".into(), manually: true, at: 1_234_567 };
    daemon.tell(event);
    let signal = within(next(&mut events)).await;
    let arguments = signal.args().unwrap();
    assert_eq!((arguments.process, arguments.event, arguments.at), (0, "online", 1_234_567));
    let job = client.manager().stop(&["api"]).await.unwrap();
    let signal = within(next(&mut ends)).await;
    let arguments = signal.args().unwrap();
    assert_eq!((arguments.job.as_str(), arguments.result), (job.as_str(), "done"));
}

#[tokio::test]
async fn what_is_only_asked_about_once_sends_no_signals() {
    let daemon = Daemon::start((0..100).map(|id| process(id, &format!("a{id}"), me())).collect());
    let (_server, client) = daemon.connected().await;
    let rule = zbus::MatchRule::builder().msg_type(zbus::message::Type::Signal).build().unwrap();
    let mut signals = zbus::MessageStream::for_match_rule(rule, client.connection(), None).await.unwrap();
    client.manager().ping().await.unwrap();
    for id in 0..100 {
        daemon.tell(Change::ProcessRemoved(id));
    }
    daemon.tell(Change::Event { process: 0, name: "a".into(), event: "exit".into(), manually: true, at: 1 });
    assert_eq!(client.manager().resolve(&["50"]).await, Ok(vec![50]));
    client.hear_signals().await.unwrap();
    daemon.tell(Change::Event { process: 0, name: "a".into(), event: "online".into(), manually: true, at: 1 });
    let first = within(next(&mut signals)).await.unwrap();
    assert_eq!(first.body().deserialize::<(u32, String, String, bool, u64)>().unwrap().2, "online");
}

#[tokio::test]
async fn others_may_see_that_there_is_a_job_but_not_what_it_says() {
    let daemon = Daemon::of_two();
    let (_server, client) = daemon.connected().await;
    let mut theirs = job(3, "start", SOMEBODY_ELSE, JobState::Failed);
    theirs.message = "their app's last words".into();
    daemon.tell(Change::Job(theirs));
    daemon.tell(Change::Job(job(4, "start", me(), JobState::Done)));
    let mine = client.job(&names::job_path(4)).await.unwrap();
    while mine.state().await.is_err() {
        tokio::task::yield_now().await;
    }
    assert_eq!(mine.message().await, Ok(String::new()));
    let theirs = client.job(&names::job_path(3)).await.unwrap();
    assert_eq!(theirs.state().await, Ok("failed".into()));
    if me() != 0 {
        assert!(matches!(theirs.message().await, Err(Error::AccessDenied(_))));
        assert!(matches!(theirs.wait().await, Err(Error::AccessDenied(_))));
    }
}

#[tokio::test]
async fn the_socket_is_its_owners_alone() {
    let daemon = Daemon::of_two();
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("run/bus.sock");
    let mut server = daemon.server().await;
    server.listen_private(&socket, Access::Owner).await.unwrap();
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&socket), mode(socket.parent().unwrap())), (0o600, 0o700));
    let client = Client::private(&socket).await.unwrap();
    assert_eq!(client.manager().ping().await, Ok("pong".into()));
    assert!(client.is_served().await.unwrap());

    let mut second = daemon.server().await;
    assert!(matches!(second.listen_private(&socket, Access::Owner).await, Err(ServeError::SocketInUse(_))));
    drop(server);
    within(client.connection().closed()).await;
    assert!(matches!(client.manager().ping().await, Err(Error::Unreachable(_))));
    // The dead daemon's socket is in the way of nobody; but a child that another test starts has it open, too, from fork(2)
    // to execve(2).
    within(async {
        while let Err(error) = second.listen_private(&socket, Access::Everybody).await {
            assert!(matches!(error, ServeError::SocketInUse(_)), "{error}");
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(mode(&socket), 0o666);
    assert!(Client::private(&socket).await.is_ok());
    drop(second);
    within(async {
        while !matches!(Client::private(&socket).await, Err(ConnectError::Absent(_))) {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn many_clients_are_served_at_once() {
    let daemon = Daemon::of_two();
    let mut server = daemon.server().await;
    let mut clients = Vec::new();
    for _ in 0..100 {
        clients.push(connect(&mut server).await);
    }
    let calls = clients.iter().map(|client| {
        let client = client.clone();
        tokio::spawn(async move {
            for _ in 0..10 {
                let job = client.manager().restart(&["0"], &UpdateDict::default()).await.unwrap();
                assert_eq!(client.wait(&job).await.unwrap().state, JobState::Done);
            }
        })
    });
    for call in calls.collect::<Vec<_>>() {
        within(call).await.unwrap();
    }
    assert_eq!(daemon.asked().iter().filter(|what| what.starts_with("Restart")).count(), 1000);
}

#[tokio::test]
async fn missed_changes_are_made_up_for() {
    let daemon = Daemon::of_two();
    let (_server, client) = daemon.connected().await;
    assert_eq!(client.manager().processes().await.unwrap(), 2);
    // More than the channel holds, before the server has a turn; the loop's own list has none of them.
    for id in 100..10_100 {
        daemon.tell(Change::Process(process(id, "ghost", me())));
    }
    let settled = async {
        while client.manager().processes().await.unwrap() != 2 {
            tokio::task::yield_now().await;
        }
    };
    within(settled).await;
}

#[tokio::test]
async fn other_peoples_tools_can_talk_to_the_socket() {
    let daemon = Daemon::of_two();
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("bus.sock");
    let mut server = daemon.server().await;
    server.listen_private(&socket, Access::Owner).await.unwrap();
    let address = format!("unix:path={}", socket.display());
    let (peer, bus) = (format!("--peer={address}"), format!("--address={address}"));
    let path = names::MANAGER_PATH;
    let tools: [(&[&str], &str); 5] = [
        (&["dbus-send", &peer, "--print-reply=literal", path, "org.pm2rs1.Manager.Ping"], "pong"),
        (&["busctl", &bus, "call", "org.pm2rs1", path, "org.pm2rs1.Manager", "Resolve", "as", "1", "api"], "au 1 0"),
        (&["busctl", &bus, "get-property", "org.pm2rs1", path, "org.pm2rs1.Manager", "Processes"], "u 2"),
        (&["busctl", &bus, "tree", "org.pm2rs1"], "/org/pm2rs1/process/1"),
        (&["gdbus", "call", &bus, "-d", "org.pm2rs1", "-o", path, "-m", "org.pm2rs1.Manager.Ping"], "('pong',)"),
    ];
    for (command, expected) in tools {
        match within(tokio::process::Command::new(command[0]).args(&command[1..]).output()).await {
            Ok(output) => {
                assert!(String::from_utf8_lossy(&output.stdout).contains(expected), "{command:?}: {output:?}");
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                eprintln!("skipped: {} is not installed", command[0]);
            }
            Err(error) => panic!("cannot run `{}`: {error}", command[0]),
        }
    }
}

/// The next item of a stream of messages or signals.
pub async fn next<S>(stream: &mut S) -> S::Item
where
    S: zbus::export::futures_core::Stream + Unpin,
{
    let item = std::future::poll_fn(|context| std::pin::Pin::new(&mut *stream).poll_next(context)).await;
    item.expect("the stream has ended")
}

#[tokio::test]
async fn who_waits_is_answered_before_the_server_goes() {
    let daemon = Daemon::of_two();
    let (server, client) = daemon.connected().await;
    for (id, state) in [(1, JobState::Running), (2, JobState::Running)] {
        daemon.tell(Change::Job(job(id, "kill", me(), state)));
    }
    let job_two = client.job(&names::job_path(2)).await.unwrap();
    while job_two.state().await.is_err() {
        tokio::task::yield_now().await;
    }
    let wait = |id| {
        let client = client.clone();
        tokio::spawn(async move { client.wait(&names::job_path(id)).await })
    };
    let (first, second) = (wait(1), wait(2));
    // Both are waiting once a later call of theirs is answered.
    client.manager().ping().await.unwrap();
    daemon.tell(Change::Job(job(1, "kill", me(), JobState::Done)));
    while client.job(&names::job_path(1)).await.unwrap().state().await.unwrap() == "running" {
        tokio::task::yield_now().await;
    }
    within(server.shutdown(DEADLINE)).await;
    assert_eq!(first.await.unwrap().unwrap().state, JobState::Done);
    assert_eq!(second.await.unwrap(), Err(Error::ShuttingDown));
    within(client.connection().closed()).await;
}
