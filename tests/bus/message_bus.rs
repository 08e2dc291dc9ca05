//! On a real dbus-daemon, with the policy that is installed and users other than the one who runs the tests.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use pm2rs::api::{Error, JobState, UpdateDict, names};
use pm2rs::daemon::Change;
use pm2rs::dbus::{Bus, ServeError, Server};
use zbus::connection::Builder;
use zbus::{Connection, fdo, interface};

use crate::daemon::{Daemon, SOMEBODY_ELSE, job, me, process, within};
use crate::private::next;

const POLICY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/dbus/org.pm2rs1.conf");
/// A user who owns nothing here: `nobody`.
const STRANGER: u32 = 65_534;

/// A dbus-daemon of the test's own; it ends with it.
struct PrivateBus {
    child: Child,
    address: String,
    folder: tempfile::TempDir,
}

impl PrivateBus {
    /// Starts one; `None`, with a message, where dbus-daemon is not installed.
    fn start() -> Option<PrivateBus> {
        let folder = tempfile::tempdir().unwrap();
        // Others must be able to reach the socket.
        std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let child = PrivateBus::launch(folder.path(), &folder.path().join("bus"));
        let mut child = match child {
            Ok(child) => child,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                eprintln!("skipped: dbus-daemon is not installed");
                return None;
            }
            Err(error) => panic!("cannot start dbus-daemon: {error}"),
        };
        let mut address = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut address).unwrap();
        // Without the part that names this one run of the bus.
        let address = address.trim().split(",guid=").next().unwrap().to_owned();
        Some(PrivateBus { child, address, folder })
    }

    fn launch(folder: &Path, socket: &Path) -> std::io::Result<Child> {
        let own = match me() {
            0 => String::new(),
            // The policy lets root alone have the name; without root the tests would have nobody to be the daemon.
            uid => format!("<policy user=\"{uid}\"><allow own=\"org.pm2rs1\"/></policy>"),
        };
        let config = folder.join("bus.conf");
        let text = format!(
            r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-BUS Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path={}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <deny own="*"/>
    <deny send_type="method_call"/>
    <allow send_type="signal"/>
    <allow send_requested_reply="true" send_type="method_return"/>
    <allow send_requested_reply="true" send_type="error"/>
    <allow receive_type="method_call"/>
    <allow receive_type="method_return"/>
    <allow receive_type="error"/>
    <allow receive_type="signal"/>
    <allow send_destination="org.freedesktop.DBus"/>
    <allow own="org.freedesktop.PolicyKit1"/>
    <allow send_destination="org.freedesktop.PolicyKit1"/>
  </policy>
  <include>{POLICY}</include>
  {own}
</busconfig>"#,
            socket.display()
        );
        std::fs::write(&config, text).unwrap();
        let mut command = Command::new("dbus-daemon");
        command.arg("--config-file").arg(&config).args(["--nofork", "--nosyslog", "--print-address=1"]);
        command.stdout(Stdio::piped()).spawn()
    }

    fn end(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        std::fs::remove_file(self.folder.path().join("bus")).unwrap();
    }

    fn begin(&mut self) {
        self.child = PrivateBus::launch(self.folder.path(), &self.folder.path().join("bus")).unwrap();
    }

    /// Returns once a daemon answers on it.
    async fn answers(&self) {
        loop {
            // Until it listens there is nothing to connect to, and until the daemon is there nobody has the name.
            if let Ok(connection) = Builder::address(self.address.as_str()).build().await
                && manager(&connection).await.ping().await == Ok("pong".into())
            {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    fn bus(&self) -> Bus {
        Bus::Address(self.address.clone())
    }

    async fn connection(&self) -> Connection {
        Builder::address(self.address.as_str()).build().await.unwrap()
    }

    /// What dbus-send prints, run as somebody who owns nothing where that is possible.
    async fn stranger_calls(&self, path: &str, method: &str, arguments: &[&str]) -> Option<String> {
        let mut command = Command::new("dbus-send");
        command.arg(format!("--bus={}", self.address)).args(["--print-reply", "--dest=org.pm2rs1", path, method]);
        command.args(arguments).env("LC_ALL", "C");
        if me() == 0 {
            command.uid(STRANGER).gid(STRANGER).current_dir("/");
        }
        let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap();
        match output {
            Ok(output) => Some(String::from_utf8([output.stdout, output.stderr].concat()).unwrap()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                eprintln!("skipped: dbus-send is not installed");
                None
            }
            Err(error) => panic!("cannot run dbus-send: {error}"),
        }
    }
}

impl Drop for PrivateBus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A proxy of the manager over the bus.
async fn manager(connection: &Connection) -> pm2rs::api::proxy::ManagerProxy<'static> {
    let builder = pm2rs::api::proxy::ManagerProxy::builder(connection);
    builder.cache_properties(zbus::proxy::CacheProperties::No).build().await.unwrap()
}

async fn served(daemon: &Daemon, bus: &PrivateBus) -> Server {
    let mut server = daemon.server().await;
    within(server.add_bus(bus.bus())).await.unwrap();
    server
}

#[tokio::test]
async fn callers_are_known_by_the_bus() {
    let Some(bus) = PrivateBus::start() else { return };
    let daemon = Daemon::of_two();
    let _server = served(&daemon, &bus).await;
    let client = bus.connection().await;
    let manager = manager(&client).await;
    for _ in 0..3 {
        assert_eq!(manager.resolve(&["api"]).await, Ok(vec![0]));
        let caller = daemon.last_caller();
        assert_eq!((caller.uid.0, caller.pid, caller.privileged), (me(), std::process::id(), false));
    }
    let job = manager.restart(&["api"], &UpdateDict::default()).await.unwrap();
    let job = pm2rs::api::proxy::JobProxy::new(&client, job).await.unwrap();
    assert_eq!(job.wait().await.unwrap().0, "done");
}

#[tokio::test]
async fn a_stranger_sees_what_is_no_secret_and_changes_nothing() {
    let Some(bus) = PrivateBus::start() else { return };
    let daemon = Daemon::of_two();
    let _server = served(&daemon, &bus).await;
    let mut theirs = job(3, "start", SOMEBODY_ELSE, JobState::Failed);
    theirs.message = "last words".into();
    daemon.tell(Change::Job(theirs));
    let manager_path = names::MANAGER_PATH;
    let calls: [(&str, &str, &[&str], &str); 10] = [
        (manager_path, "org.pm2rs1.Manager.Ping", &[], "pong"),
        (manager_path, "org.pm2rs1.Manager.Stop", &["array:string:shop"], "org.pm2rs1.Error.AccessDenied"),
        (manager_path, "org.pm2rs1.Manager.Stop", &["array:string:nothing"], "org.pm2rs1.Error.NoSuchTarget"),
        (manager_path, "org.pm2rs1.Manager.GetEnvironment", &["uint32:1"], "org.pm2rs1.Error.AccessDenied"),
        (manager_path, "org.pm2rs1.Manager.SendSignal", &["array:string:shop", "string:SIGKILL"], "AccessDenied"),
        ("/org/pm2rs1/app/shop", "org.pm2rs1.App.Delete", &[], "org.pm2rs1.Error.AccessDenied"),
        ("/org/pm2rs1/process/1", "org.pm2rs1.Process.Restart", &[], "org.pm2rs1.Error.AccessDenied"),
        (
            "/org/pm2rs1/process/1",
            "org.freedesktop.DBus.Properties.Get",
            &["string:org.pm2rs1.Process", "string:Status"],
            "online",
        ),
        ("/org/pm2rs1/job/3", "org.pm2rs1.Job.Wait", &[], "org.pm2rs1.Error.AccessDenied"),
        (
            "/org/pm2rs1/job/3",
            "org.freedesktop.DBus.Properties.Get",
            &["string:org.pm2rs1.Job", "string:Message"],
            "org.pm2rs1.Error.AccessDenied",
        ),
    ];
    for (path, method, arguments, expected) in calls {
        let Some(answer) = bus.stranger_calls(path, method, arguments).await else { return };
        assert!(answer.contains(expected), "{method} {arguments:?}: {answer}");
        assert!(!answer.contains("last words") && !answer.contains("SECRET"), "{method}: {answer}");
    }
    let all = bus.stranger_calls(manager_path, "org.freedesktop.DBus.ObjectManager.GetManagedObjects", &[]).await;
    let all = all.unwrap();
    assert!(all.contains("/org/pm2rs1/job/3") && all.contains("/org/pm2rs1/app/shop"), "{all}");
    assert!(!all.contains("last words") && !all.contains("what I typed"), "{all}");
    if me() == 0 {
        for method in ["Kill", "Reexecute", "Report", "ReopenLogs"] {
            let answer = bus.stranger_calls(manager_path, &format!("org.pm2rs1.Manager.{method}"), &[]).await.unwrap();
            assert!(answer.contains("org.pm2rs1.Error.AccessDenied"), "{method}: {answer}");
        }
    }
}

#[tokio::test]
async fn only_one_daemon_has_the_name_and_only_root_may_have_it() {
    let Some(bus) = PrivateBus::start() else { return };
    let daemon = Daemon::of_two();
    let _server = served(&daemon, &bus).await;
    let mut second = daemon.server().await;
    assert!(matches!(second.add_bus(bus.bus()).await, Err(ServeError::NameTaken { .. })));
    let nowhere = second.add_bus(Bus::Address("unix:path=/nonexistent/bus".into())).await;
    assert!(matches!(nowhere, Err(ServeError::Bus { .. })), "{nowhere:?}");
    if me() == 0 {
        let request = ["string:org.pm2rs1", "uint32:0"];
        let mut command = Command::new("dbus-send");
        command.arg(format!("--bus={}", bus.address)).args(["--print-reply", "--dest=org.freedesktop.DBus"]);
        command.args(["/org/freedesktop/DBus", "org.freedesktop.DBus.RequestName"]).args(request);
        command.uid(STRANGER).gid(STRANGER).current_dir("/");
        let Ok(output) = command.output() else { return };
        let answer = String::from_utf8(output.stderr).unwrap();
        assert!(answer.contains("org.freedesktop.DBus.Error.AccessDenied"), "{answer}");
    }
}

#[tokio::test]
async fn changes_reach_who_listens_on_the_bus() {
    let Some(bus) = PrivateBus::start() else { return };
    let daemon = Daemon::of_two();
    let _server = served(&daemon, &bus).await;
    let client = bus.connection().await;
    let objects = fdo::ObjectManagerProxy::builder(&client)
        .destination(names::BUS_NAME)
        .path(names::MANAGER_PATH)
        .build()
        .await
        .unwrap();
    assert_eq!(objects.get_managed_objects().await.unwrap().len(), 4);
    let mut added = objects.receive_interfaces_added().await.unwrap();
    let manager = manager(&client).await;
    let mut events = manager.receive_process_event().await.unwrap();
    let properties = fdo::PropertiesProxy::builder(&client)
        .destination(names::BUS_NAME)
        .path(names::process_path(1))
        .build()
        .await
        .unwrap();
    let mut changed = properties.receive_properties_changed().await.unwrap();

    daemon.tell(Change::Process(process(8, "late", me())));
    let mut view = process(1, "shop", SOMEBODY_ELSE);
    view.restarts = 3;
    daemon.tell(Change::Process(view));
    daemon.tell(Change::Event { process: 1, name: "shop".into(), event: "restart".into(), manually: false, at: 5 });
    assert_eq!(within(next(&mut added)).await.args().unwrap().object_path.as_str(), "/org/pm2rs1/process/8");
    let signal = within(next(&mut changed)).await;
    assert_eq!(signal.args().unwrap().changed_properties.keys().copied().collect::<Vec<_>>(), ["Restarts"]);
    assert_eq!(within(next(&mut events)).await.args().unwrap().event, "restart");
}

#[tokio::test]
async fn a_bus_that_comes_back_is_served_again() {
    let Some(mut bus) = PrivateBus::start() else { return };
    let daemon = Daemon::of_two();
    let _server = served(&daemon, &bus).await;
    bus.end();
    bus.begin();
    within(bus.answers()).await;
}

#[tokio::test]
async fn a_bus_that_is_not_there_yet_is_served_when_it_is() {
    let Some(mut bus) = PrivateBus::start() else { return };
    bus.end();
    let daemon = Daemon::of_two();
    let mut server = daemon.server().await;
    let nobody = within(server.add_bus(bus.bus())).await;
    assert!(matches!(nobody, Err(ServeError::Bus { .. })), "{nobody:?}");
    bus.begin();
    within(bus.answers()).await;
}

/// polkit, as far as these tests need it: everybody may manage apps, nobody anything else.
struct Polkit;

/// Whom polkit is asked about.
#[derive(serde::Deserialize, zbus::Type)]
struct Subject {
    kind: String,
    details: std::collections::HashMap<String, zbus::OwnedVariant>,
}

type ResultDetails = std::collections::HashMap<String, String>;

#[interface(name = "org.freedesktop.PolicyKit1.Authority")]
impl Polkit {
    fn check_authorization(
        &self,
        subject: Subject,
        action: &str,
        _details: ResultDetails,
        _flags: u32,
        _cancellation: &str,
    ) -> (bool, bool, ResultDetails) {
        let Subject { kind, details } = subject;
        assert_eq!(kind, "system-bus-name");
        assert!(details.contains_key("name"));
        (action == "org.pm2rs1.manage-apps", false, ResultDetails::new())
    }
}

/// Run by the test below in a process of its own, where its bus is the system bus.
#[tokio::test]
#[ignore = "run by polkit_adds_to_what_the_owner_rule_allows"]
async fn with_the_system_bus_of_the_environment() {
    let address = std::env::var("DBUS_SYSTEM_BUS_ADDRESS").unwrap();
    let daemon = Daemon::of_two();
    let mut server = daemon.server().await;
    server.add_bus(Bus::System).await.unwrap();
    let child = Command::new("true").spawn().unwrap();
    let bus = PrivateBus { child, address, folder: tempfile::tempdir().unwrap() };
    let path = names::MANAGER_PATH;
    let stop = ("org.pm2rs1.Manager.Stop", ["array:string:shop"]);
    let environment = ("org.pm2rs1.Manager.GetEnvironment", ["uint32:1"]);

    // No polkit yet: the rule stands.
    let Some(answer) = bus.stranger_calls(path, stop.0, &stop.1).await else { return };
    assert!(answer.contains("org.pm2rs1.Error.AccessDenied"), "{answer}");

    let builder = Builder::system().serve_at("/org/freedesktop/PolicyKit1/Authority", Polkit);
    let _polkit = builder.name("org.freedesktop.PolicyKit1").build().await.unwrap();
    let answer = bus.stranger_calls(path, stop.0, &stop.1).await.unwrap();
    assert!(answer.contains("/org/pm2rs1/job/1"), "{answer}");
    assert!(daemon.last_caller().privileged);
    let answer = bus.stranger_calls(path, environment.0, &environment.1).await.unwrap();
    assert!(answer.contains("org.pm2rs1.Error.AccessDenied"), "{answer}");
    // What brings code along is not a restart.
    if me() != 0 {
        let client = bus.connection().await;
        let options = UpdateDict { env: Some([("A".to_owned(), "1".to_owned())].into()), ..UpdateDict::default() };
        let answer = manager(&client).await.restart(&["shop"], &options).await;
        assert!(matches!(answer, Err(Error::AccessDenied(_))), "{answer:?}");
    }
}

#[tokio::test]
async fn polkit_adds_to_what_the_owner_rule_allows() {
    let Some(bus) = PrivateBus::start() else { return };
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--ignored", "--exact", "message_bus::with_the_system_bus_of_the_environment"]);
    command.env("DBUS_SYSTEM_BUS_ADDRESS", &bus.address);
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}{}", String::from_utf8_lossy(&output.stderr));
}
