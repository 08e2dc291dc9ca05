//! The committed introspection XML, what introspection answers, what the server really takes and gives, and what the
//! proxies call: all four say the same.

use std::collections::{BTreeMap, BTreeSet};

use pm2rs::api::{JobState, LogsDict, StartDict, UpdateDict, names};
use pm2rs::daemon::Change;
use pm2rs::dbus::Server;
use zbus::{Message, OwnedVariant, fdo};

use crate::daemon::{Daemon, job, me, within};
use crate::private::next;

const MANAGER: &str = include_str!("../../packaging/dbus/org.pm2rs1.Manager.xml");
const APP: &str = include_str!("../../packaging/dbus/org.pm2rs1.App.xml");
const PROCESS: &str = include_str!("../../packaging/dbus/org.pm2rs1.Process.xml");
const JOB: &str = include_str!("../../packaging/dbus/org.pm2rs1.Job.xml");

/// Objects that exist in these tests, with their interface and its description.
const OBJECTS: [(&str, &str, &str); 4] = [
    ("/org/pm2rs1", names::MANAGER_INTERFACE, MANAGER),
    ("/org/pm2rs1/app/api", names::APP_INTERFACE, APP),
    ("/org/pm2rs1/process/0", names::PROCESS_INTERFACE, PROCESS),
    ("/org/pm2rs1/job/900", names::JOB_INTERFACE, JOB),
];

/// What an `<interface>` element says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Interface {
    /// In and out signature of each method.
    methods: BTreeMap<String, (String, String)>,
    signals: BTreeMap<String, String>,
    /// Type and EmitsChangedSignal of each property.
    properties: BTreeMap<String, (String, String)>,
}

/// The value of an XML attribute.
fn attribute<'t>(tag: &'t str, name: &str) -> &'t str {
    let from = tag.find(&format!("{name}=\"")).unwrap_or_else(|| panic!("no `{name}` in `{tag}`")) + name.len() + 2;
    &tag[from..from + tag[from..].find('"').unwrap()]
}

/// Reads one interface out of an introspection document.
fn interface(document: &str, name: &str) -> Interface {
    let from = document.find(&format!("<interface name=\"{name}\">")).unwrap_or_else(|| panic!("no `{name}`"));
    let text = &document[from..from + document[from..].find("</interface>").unwrap()];
    let mut found = Interface::default();
    let mut inside = String::new();
    for tag in text.split('<').filter(|tag| !tag.starts_with("!--")) {
        match tag.split([' ', '/', '>']).next().unwrap() {
            "method" => {
                inside = attribute(tag, "name").to_owned();
                found.methods.insert(inside.clone(), Default::default());
            }
            "signal" => {
                inside = attribute(tag, "name").to_owned();
                found.signals.insert(inside.clone(), String::new());
            }
            "property" => {
                inside = attribute(tag, "name").to_owned();
                assert_eq!(attribute(tag, "access"), "read", "{inside}");
                found.properties.insert(inside.clone(), (attribute(tag, "type").to_owned(), String::new()));
            }
            "arg" => match found.methods.get_mut(&inside) {
                Some((takes, _)) if attribute(tag, "direction") == "in" => takes.push_str(attribute(tag, "type")),
                Some((_, gives)) => gives.push_str(attribute(tag, "type")),
                None => found.signals.get_mut(&inside).unwrap().push_str(attribute(tag, "type")),
            },
            "annotation" => {
                assert_eq!(attribute(tag, "name"), "org.freedesktop.DBus.Property.EmitsChangedSignal");
                found.properties.get_mut(&inside).unwrap().1 = attribute(tag, "value").to_owned();
            }
            _ => {}
        }
    }
    found
}

async fn served() -> (Daemon, Server, pm2rs::api::Client) {
    let daemon = Daemon::of_two();
    let (server, client) = daemon.connected().await;
    daemon.tell(Change::Job(job(900, "start", me(), JobState::Done)));
    let job = client.job(&names::job_path(900)).await.unwrap();
    while job.state().await.is_err() {
        tokio::task::yield_now().await;
    }
    (daemon, server, client)
}

#[tokio::test]
async fn introspection_answers_with_what_is_committed() {
    let (_daemon, _server, client) = served().await;
    for (path, name, committed) in OBJECTS {
        let introspectable = fdo::IntrospectableProxy::builder(client.connection())
            .destination(names::BUS_NAME)
            .path(path)
            .build()
            .await
            .unwrap();
        let live = introspectable.introspect().await.unwrap();
        assert_eq!(interface(&live, name), interface(committed, name), "{path}");
        for standard in ["Peer", "Introspectable", "Properties"] {
            assert!(
                live.contains(&format!("<interface name=\"org.freedesktop.DBus.{standard}\">")),
                "{path}: {standard}"
            );
        }
    }
}

#[tokio::test]
async fn every_object_can_be_reached_by_introspection() {
    let (_daemon, _server, client) = served().await;
    let mut found = BTreeSet::new();
    let mut folders = vec!["/".to_owned()];
    while let Some(path) = folders.pop() {
        let introspectable = fdo::IntrospectableProxy::builder(client.connection())
            .destination(names::BUS_NAME)
            .path(path.as_str())
            .build()
            .await
            .unwrap();
        let document = introspectable.introspect().await.unwrap();
        for (_, name, _) in OBJECTS {
            if document.contains(&format!("<interface name=\"{name}\">")) {
                found.insert(path.clone());
            }
        }
        let children = document.lines().filter(|line| line.trim_start().starts_with("<node name="));
        folders.extend(children.map(|line| format!("{}/{}", path.trim_end_matches('/'), attribute(line, "name"))));
    }
    let expected = [
        "/org/pm2rs1",
        "/org/pm2rs1/app/api",
        "/org/pm2rs1/app/shop",
        "/org/pm2rs1/job/900",
        "/org/pm2rs1/process/0",
        "/org/pm2rs1/process/1",
    ];
    assert_eq!(found, expected.map(str::to_owned).into());
}

#[tokio::test]
async fn the_properties_are_those_described_and_of_these_types() {
    let (_daemon, _server, client) = served().await;
    for (path, name, committed) in OBJECTS {
        let properties = fdo::PropertiesProxy::builder(client.connection())
            .destination(names::BUS_NAME)
            .path(path)
            .build()
            .await
            .unwrap();
        let all = properties.get_all(name.try_into().unwrap()).await.unwrap();
        let live: BTreeMap<String, String> =
            all.iter().map(|(name, value)| (name.clone(), value.value_signature().to_string())).collect();
        let described = interface(committed, name).properties;
        let described: BTreeMap<String, String> = described.into_iter().map(|(name, (kind, _))| (name, kind)).collect();
        assert_eq!(live, described, "{path}");
        for (property, value) in &all {
            assert_eq!(properties.get(name.try_into().unwrap(), property).await.unwrap(), *value, "{property}");
        }
        assert!(properties.get(name.try_into().unwrap(), "Nonsense").await.is_err());
        assert!(properties.get_all("org.example.Other".try_into().unwrap()).await.is_err());
    }
}

/// A call of the method with arguments that the daemon of these tests takes.
fn call_with_arguments(path: &str, name: &str, member: &str) -> Message {
    let builder = Message::method_call(path, member).interface(name).destination(names::BUS_NAME);
    let spec = r#"{"name":"api","script":"/a.js"}"#;
    let targets = ["api"].as_slice();
    let built = match (name, member) {
        (names::APP_INTERFACE, "Scale") => builder.build(&"4"),
        (names::PROCESS_INTERFACE, "SendSignal") => builder.build(&"SIGHUP"),
        (names::APP_INTERFACE | names::PROCESS_INTERFACE | names::JOB_INTERFACE, _) => builder.build(&()),
        (_, "StartApp") => builder.build(&(spec, StartDict { force: true })),
        (_, "Restart" | "Reload") => builder.build(&(targets, UpdateDict { batch: Some(2), ..UpdateDict::default() })),
        (_, "Stop" | "Delete" | "Reset" | "Resolve" | "FlushLogs") => builder.build(&targets),
        (_, "Scale") => builder.build(&("api", "+1")),
        (_, "SendSignal") => builder.build(&(targets, "SIGHUP")),
        (_, "SendLine") => builder.build(&(0_u32, "line")),
        (_, "SendMessage") => builder.build(&(0_u32, "{}")),
        (_, "Trigger") => builder.build(&(targets, "dump", "")),
        (_, "GetEnvironment" | "GetSpec") => builder.build(&0_u32),
        (_, "OpenLogs") => builder.build(&(targets, LogsDict::default())),
        (_, "Save") => builder.build(&true),
        _ => builder.build(&()),
    };
    built.unwrap()
}

#[tokio::test]
async fn the_methods_take_and_give_what_is_described() {
    let (_daemon, _server, client) = served().await;
    let connection = client.connection();
    let mut replies = zbus::MessageStream::from(connection);
    for (path, name, committed) in OBJECTS {
        for (member, (takes, gives)) in interface(committed, name).methods {
            let nonsense =
                connection.call_method(Some(names::BUS_NAME), path, Some(name), member.as_str(), &(1_u8, 2_u8));
            let error = within(nonsense).await.unwrap_err().to_string();
            assert!(error.contains("InvalidArgs") && error.contains(&format!("takes `{takes}`")), "{member}: {error}");

            let call = call_with_arguments(path, name, &member);
            assert_eq!(call.body().signature().to_string_no_parens(), takes, "{member}");
            // The only call that this daemon refuses with the right arguments.
            let gives = if member == "SendLine" { "s".to_owned() } else { gives };
            connection.send(&call).await.unwrap();
            let reply = loop {
                let message = within(next(&mut replies)).await.unwrap();
                if message.header().reply_serial() == Some(call.primary_header().serial_num()) {
                    break message;
                }
            };
            let error = reply.header().error_name().map(ToString::to_string);
            assert_eq!(error, (member == "SendLine").then(|| "org.pm2rs1.Error.NotPossible".to_owned()), "{member}");
            assert_eq!(reply.body().signature().to_string_no_parens(), gives, "{member}");
        }
    }
}

#[tokio::test]
async fn the_proxies_call_every_method_and_none_that_is_not_there() {
    let (daemon, _server, client) = served().await;
    let manager = client.manager();
    let (start, update, logs) = (StartDict { force: true }, UpdateDict::default(), LogsDict::default());
    let app = client.app(&names::app_path("api")).await.unwrap();
    let process = client.process(0).await.unwrap();
    let job = client.job(&names::job_path(900)).await.unwrap();

    macro_rules! called {
        ($($name:literal: $call:expr,)*) => {{
            $(let answer = within($call).await;
              assert!(answer.is_ok() || $name == "SendLine", "{}: {answer:?}", $name);)*
            BTreeSet::from([$($name.to_owned()),*])
        }};
    }
    let of = |xml, name| interface(xml, name).methods.into_keys().collect::<BTreeSet<_>>();
    let managers = called! {
        "StartApp": manager.start_app("{}", &start),
        "Restart": manager.restart(&["api"], &update),
        "Reload": manager.reload(&["api"], &update),
        "Stop": manager.stop(&["api"]),
        "Delete": manager.delete(&["api"]),
        "Scale": manager.scale("api", "4"),
        "Reset": manager.reset(&["api"]),
        "SendSignal": manager.send_signal(&["api"], "1"),
        "SendLine": manager.send_line(0, "x"),
        "SendMessage": manager.send_message(0, "1"),
        "Trigger": manager.trigger(&["api"], "a", ""),
        "Resolve": manager.resolve(&["api"]),
        "ListProcesses": manager.list_processes(),
        "GetEnvironment": manager.get_environment(0),
        "GetSpec": manager.get_spec(0),
        "GetHostMetrics": manager.get_host_metrics(),
        "OpenLogs": manager.open_logs(&["api"], &logs),
        "FlushLogs": manager.flush_logs(&["api"]),
        "ReopenLogs": manager.reopen_logs(),
        "Save": manager.save(false),
        "ClearSaved": manager.clear_saved(),
        "Resurrect": manager.resurrect(),
        "Kill": manager.kill(),
        "Reexecute": manager.reexecute(),
        "Report": manager.report(),
        "Ping": manager.ping(),
    };
    assert_eq!(managers, of(MANAGER, names::MANAGER_INTERFACE));
    let apps = called! {
        "Stop": app.stop(), "Restart": app.restart(), "Reload": app.reload(), "Delete": app.delete(),
        "Scale": app.scale("2"),
    };
    assert_eq!(apps, of(APP, names::APP_INTERFACE));
    let processes = called! {
        "Stop": process.stop(), "Restart": process.restart(), "Reload": process.reload(), "Delete": process.delete(),
        "SendSignal": process.send_signal("SIGHUP"), "GetEnvironment": process.get_environment(),
    };
    assert_eq!(processes, of(PROCESS, names::PROCESS_INTERFACE));
    let jobs = called! { "Wait": job.wait(), "Cancel": job.cancel(), };
    assert_eq!(jobs, of(JOB, names::JOB_INTERFACE));
    assert!(daemon.asked().iter().any(|what| what == "CancelJob(900, "), "{:?}", daemon.asked().last());
}

#[tokio::test]
async fn the_signals_are_those_described() {
    let (daemon, _server, client) = served().await;
    client.hear_signals().await.unwrap();
    let rule = zbus::MatchRule::builder().msg_type(zbus::message::Type::Signal).build().unwrap();
    let mut stream = zbus::MessageStream::for_match_rule(rule, client.connection(), None).await.unwrap();
    let described = interface(MANAGER, names::MANAGER_INTERFACE).signals;
    daemon.tell(Change::Event { process: 0, name: "api".into(), event: "exit".into(), manually: false, at: 1 });
    daemon.tell(Change::Job(job(901, "start", me(), JobState::Running)));
    daemon.tell(Change::Job(job(901, "start", me(), JobState::Done)));
    let mut seen = BTreeMap::new();
    while seen.len() < described.len() {
        let message = within(next(&mut stream)).await.unwrap();
        if message.header().interface().unwrap().as_str() == names::MANAGER_INTERFACE {
            let member = message.header().member().unwrap().to_string();
            seen.insert(member, message.body().signature().to_string_no_parens());
        }
    }
    assert_eq!(seen, described);
}

#[tokio::test]
async fn what_is_said_to_be_constant_or_silent_is_in_no_signal() {
    let (daemon, _server, client) = served().await;
    let mut emitting = BTreeMap::new();
    for (path, name, committed) in OBJECTS {
        let properties = fdo::PropertiesProxy::builder(client.connection())
            .destination(names::BUS_NAME)
            .path(path)
            .build()
            .await
            .unwrap();
        let mut changes = properties.receive_properties_changed().await.unwrap();
        client.hear_signals().await.unwrap();
        match path {
            "/org/pm2rs1" => daemon.tell(Change::ProcessRemoved(1)),
            "/org/pm2rs1/app/api" => {
                let mut view = crate::daemon::app_of(&crate::daemon::process(0, "api", me()));
                view.status = "errored".into();
                view.instances = 2;
                daemon.tell(Change::App(view));
            }
            "/org/pm2rs1/process/0" => {
                let mut view = crate::daemon::process(0, "api", me());
                view.status = "errored".into();
                view.reason = "it does not start".into();
                daemon.tell(Change::Process(view));
            }
            _ => {
                let mut view = job(900, "start", me(), JobState::Failed);
                view.message = "secret".into();
                daemon.tell(Change::Job(view));
            }
        }
        let signal = within(next(&mut changes)).await;
        let described = interface(committed, name).properties;
        for (property, value) in &signal.args().unwrap().changed_properties {
            assert_eq!(described[*property].1, "true", "{path}: {property}");
            emitting.insert((*property).to_owned(), OwnedVariant::try_from(value).unwrap());
        }
    }
    for expected in ["Online", "Instances", "Reason", "State"] {
        assert!(emitting.contains_key(expected), "{expected}");
    }
}
