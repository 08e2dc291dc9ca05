//! The commands against a real private daemon with real Node apps: what is printed, what is exited with, what runs.
#![allow(clippy::unwrap_used)]

mod cli;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cli::{Call, pm2rs};
use serde_json::Value;

const DEADLINE: Duration = Duration::from_secs(60);

/// A home folder with its daemon, and a folder of apps to start from. The daemon ends with it.
struct Place {
    home: tempfile::TempDir,
    apps: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        Place { home: tempfile::tempdir().unwrap(), apps: tempfile::tempdir().unwrap() }
    }

    fn call(&self, line: &str) -> Call {
        pm2rs(line).home(self.home.path()).cwd(self.apps.path())
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.apps.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// An app that says so when it is up and then waits.
    fn waiter(&self, name: &str) -> PathBuf {
        self.write(name, "console.log('up', process.argv.slice(2).join(' '));\nsetInterval(() => {}, 1 << 30);\n")
    }

    fn jlist(&self) -> Vec<Value> {
        let ended = self.call("jlist").ok();
        serde_json::from_str(&ended.stdout()).unwrap_or_else(|error| panic!("jlist is no JSON: {error}: {ended}"))
    }

    /// Waits until the list is as wanted.
    #[track_caller]
    fn until(&self, what: &str, wanted: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        let end = Instant::now() + DEADLINE;
        loop {
            let list = self.jlist();
            if wanted(&list) {
                return list;
            }
            assert!(Instant::now() < end, "not {what}: {list:#?}");
            std::thread::yield_now();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let ended = self.call("kill").run();
        if !std::thread::panicking() {
            assert!(ended.stdout().contains("PM2 Daemon Stopped"), "{ended}");
        } else if let Ok(log) = std::fs::read_to_string(self.home.path().join("pm2.log")) {
            eprintln!("-- the daemon's log\n{log}");
        }
    }
}

fn status(process: &Value) -> &str {
    process["pm2_env"]["status"].as_str().unwrap()
}

fn ids(list: &[Value]) -> Vec<u64> {
    list.iter().map(|process| process["pm_id"].as_u64().unwrap()).collect()
}

#[test]
fn first_command_starts_the_daemon_and_says_so_once_beside_the_output() {
    let place = Place::new();
    let first = place.call("jlist").ok();
    assert_eq!(first.stdout(), "[]");
    let home = place.home.path().display();
    first.complains(&format!("[PM2] Spawning PM2 daemon with pm2_home={home}\n[PM2] PM2 Successfully daemonized\n"));
    let pid = std::fs::read_to_string(place.home.path().join("pm2.pid")).unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // proc_pid_stat(5): after the name come state, parent, process group and session.
    let session = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(3).unwrap();
    assert_eq!(session, pid, "the daemon is in its caller's session, whose terminal may interrupt it");
    place.call("jlist").ok().complains("");
    assert_eq!(place.call("ping").ok().stdout(), "{ msg: 'pong' }\n");
    assert_eq!(place.call("prettylist").ok().stdout(), "[]");
    assert_eq!(place.call("pid").ok().stdout(), "\n");
    assert_eq!(place.call("id nothing").ok().stdout(), "[]\n");
    place.call("list").ok().says("│ id │ name");
    place.call("stop all").fails().prints_nothing().complains("[PM2][WARN] No process found\n");
    place.call("save").ok().says("[PM2][WARN] PM2 is not managing any process, skipping save...");
}

#[test]
fn a_script_s_life() {
    let place = Place::new();
    let app = place.waiter("app.js");
    let app = app.display();
    place
        .call("start app.js -- one two")
        .ok()
        .says(&format!("[PM2] Starting {app} in fork_mode (1 instance)\n[PM2] Done.\n┌────┬"))
        .says("│ 0  │ app    │ default     │ N/A     │ fork    │ ");
    let list = place.until("online", |list| status(&list[0]) == "online");
    let pid = list[0]["pid"].as_u64().unwrap();
    assert!(Path::new(&format!("/proc/{pid}")).exists());
    assert_eq!(list[0]["pm2_env"]["args"], serde_json::json!(["one", "two"]));
    assert_eq!(list[0]["pm2_env"]["pm_exec_path"], app.to_string());
    assert_eq!(place.call("pid app").ok().stdout(), format!("{pid}\n"));
    assert_eq!(place.call("id app").ok().stdout(), "[ 0 ]\n");

    place
        .call("start app.js")
        .fails()
        .prints_nothing()
        .complains("[PM2][ERROR] Script already launched, add -f option to force re-execution\n");

    place
        .call("stop app")
        .ok()
        .says("[PM2] Applying action stopProcessId on app [app](ids: [ 0 ])\n[PM2] [app](0) ✓\n┌────┬")
        .says("│ stopped ");
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    assert_eq!(place.jlist()[0]["pid"], 0);
    place.call("stop 0").ok();

    place
        .call("start app")
        .ok()
        .says("[PM2] Applying action restartProcessId on app [app](ids: [ 0 ])")
        .says("[PM2] Process successfully started");
    assert_eq!(place.jlist()[0]["pm2_env"]["restart_time"], 0);
    place.call("restart app.js").ok().says(
        "Use --update-env to update environment variables\n[PM2] Applying action restartProcessId on app [app.js]",
    );
    assert_eq!(place.jlist()[0]["pm2_env"]["restart_time"], 1);
    place.call("reset app").ok().says("[PM2] Resetting meta for process id 0");
    assert_eq!(place.jlist()[0]["pm2_env"]["restart_time"], 0);

    place.call("start app.js -f --name twin").ok();
    assert_eq!(ids(&place.jlist()), [0, 1]);
    place.call("restart all").ok().says("on app [all](ids: [ 0, 1 ])").says("[PM2] [twin](1) ✓");
    place.call("delete twin app").ok().says("[PM2] Applying action deleteProcessId on app [twin](ids: [ 1 ])");
    assert_eq!(place.jlist(), Vec::<Value>::new());
}

#[test]
fn what_is_not_there_is_said_with_what_may_have_been_meant() {
    let place = Place::new();
    place.waiter("app.js");
    place.call("start app.js --name payments").ok();
    let near = "[PM2][ERROR] Process or Namespace paymetns not found (did you mean `payments`?)\n";
    let unknown = [
        ("stop", "99 : id unknown"),
        ("restart", "God db process id unknown"),
        ("reload", "PM2 ID unknown"),
        ("delete", "99 : id unknown"),
    ];
    for (verb, id_unknown) in unknown {
        place.call(&format!("{verb} paymetns")).fails().complains(near);
        place.call(&format!("{verb} 99")).fails().complains(&format!("[PM2][ERROR] {id_unknown}\n"));
        place.call(&format!("{verb} nothing payments")).fails();
    }
    assert_eq!(place.jlist()[0]["pm2_env"]["restart_time"], 0, "what comes after a wrong target is touched");
    assert_eq!(status(&place.jlist()[0]), "online");
    place.call("describe paymetns").fails().mentions("[PM2][WARN] paymetns doesn't exist (did you mean `payments`?)");
    place.call("env 55").fails().complains("[PM2][ERROR] Modules with id 55 not found\n");
    place.call("scale nothing 2").fails().complains("[PM2][ERROR] Application nothing not found\n");
    place.call("scale payments 1").fails().complains("[PM2][ERROR] Nothing to do\n");
    place.call("scale payments many").fails();
    // PM2 lets this pass, and so do scripts.
    place.call("logs nothing --nostream").ok().mentions("nothing not found");
    place.call("sendSignal SIGNOTHING payments").fails();
    place.call("start 7").fails();
}

#[test]
fn a_cluster_is_scaled_and_reloaded() {
    let place = Place::new();
    place.write(
        "server.js",
        "require('http').createServer((q, r) => r.end(String(process.pid))).listen(process.env.PORT_FILE);\n",
    );
    let socket = place.apps.path().join("http.sock");
    place
        .call("start server.js -i 2 --name web")
        .env("PORT_FILE", socket.to_str().unwrap())
        .ok()
        .says("in cluster_mode (2 instances)")
        .says("│ cluster │");
    place.call("scale web +2").ok().says("[PM2] Scaling up application\n[PM2] Scaling up application\n");
    assert_eq!(ids(&place.jlist()), [0, 1, 2, 3]);
    place.call("scale web -1").ok();
    assert_eq!(ids(&place.jlist()), [1, 2, 3]);
    place.call("scale web 2").ok().says("[PM2] [web](1) ✓");
    let before = place.until("two online", |list| list.len() == 2 && list.iter().all(|p| status(p) == "online"));
    place
        .call("reload web")
        .ok()
        .says("[PM2] Applying action reloadProcessId on app [web](ids: [ 2, 3 ])\n[PM2] [web](2) ✓\n[PM2] [web](3) ✓\n")
        .says_not("┌");
    let after = place.jlist();
    for (old, new) in before.iter().zip(&after) {
        assert_ne!(old["pid"], new["pid"]);
        assert_eq!(new["pm2_env"]["restart_time"], 1);
    }
}

#[test]
fn environment_is_updated_when_asked() {
    let place = Place::new();
    place.waiter("app.js");
    place.call("start app.js").env("COLOUR", "red").ok();
    place.call("env 0").ok().says("COLOUR: red\n");
    place.call("restart app").env("COLOUR", "blue").ok();
    place.call("env 0").ok().says("COLOUR: red\n");
    place.call("restart app --update-env").env("COLOUR", "blue").ok().says_not("Use --update-env");
    place.call("env 0").ok().says("COLOUR: blue\n");
    assert_eq!(place.jlist()[0]["pm2_env"]["env"]["COLOUR"], "blue");
}

#[test]
fn a_file_is_started_restarted_and_ended() {
    let place = Place::new();
    place.waiter("a.js");
    place.waiter("b.js");
    let file = |count: u32, extra: &str| {
        let text = format!(
            "module.exports = {{ apps: [\n  {{ name: 'api', script: 'a.js', instances: {count}, exec_mode: 'cluster', \
             env: {{ MODE: 'plain' {extra} }}, env_production: {{ MODE: 'production' }} }},\n  \
             {{ name: 'worker', script: 'b.js' }},\n] }};\n"
        );
        place.write("ecosystem.config.js", &text);
    };
    file(2, ", OLD: '1'");
    place
        .call("start")
        .ok()
        .says("[PM2][WARN] Applications api, worker not running, starting...")
        .says("[PM2] App [api] launched (2 instances)")
        .says("[PM2] App [worker] launched (1 instances)");
    let list = place.jlist();
    assert_eq!(ids(&list), [0, 1, 2]);
    assert_eq!(list[0]["pm2_env"]["env"]["OLD"], "1");

    file(3, "");
    place
        .call("start ecosystem.config.js --env production --only api")
        .ok()
        .says("[PM2] Applying action restartProcessId on app [api](ids: [ 0, 1 ])");
    let list = place.until("three of api", |list| list.iter().filter(|p| p["name"] == "api").count() == 3);
    let api = list.iter().find(|p| p["name"] == "api").unwrap();
    assert_eq!(api["pm2_env"]["env"]["MODE"], "production");
    assert_eq!(api["pm2_env"]["env"]["OLD"], Value::Null, "a variable that the file lost is still there");

    place.call("reload ecosystem.config.js --only worker").ok();
    place.call("stop ecosystem.config.js --only worker").ok().says("[PM2] [worker](2) ✓");
    place.call("startOrReload ecosystem.config.js").ok();
    place.call("start ecosystem.config.js --only wroker").ok().mentions("did you mean `worker`?");
    place.call("delete ecosystem.config.js").ok();
    assert_eq!(place.jlist(), Vec::<Value>::new());

    let json = "{\"apps\": [{\"name\": \"piped\", \"script\": \"a.js\"}]}";
    place.call("start -").input(json).ok().says("[PM2] App [piped] launched (1 instances)");
    place.call("delete -").input(json).ok();
    assert_eq!(place.jlist(), Vec::<Value>::new());
}

#[test]
fn options_with_a_restart_change_the_app() {
    let place = Place::new();
    place.waiter("app.js");
    place.call("start app.js --name one -- first").ok();
    place.call("start app.js --name two -- second").ok();
    place.call("restart one --max-memory-restart 300M --name uno -- other").ok();
    let list = place.jlist();
    let env = |id: usize| &list[id]["pm2_env"];
    assert_eq!((&list[0]["name"], &env(0)["max_memory_restart"]), (&"uno".into(), &(300_u32 << 20).into()));
    assert_eq!(env(0)["args"], serde_json::json!(["other"]));
    assert_eq!((&list[1]["name"], &env(1)["args"][0]), (&"two".into(), &"second".into()));
    place.call("restart all --kill-timeout 4000").ok();
    let list = place.jlist();
    assert!(list.iter().all(|process| process["pm2_env"]["kill_timeout"] == 4000));
    assert_eq!(list[0]["pm2_env"]["args"], serde_json::json!(["other"]), "all apps were given one configuration");
    place.call("restart uno --env production").fails().prints_nothing();
}

#[test]
fn apply_says_and_does_what_is_needed() {
    let place = Place::new();
    place.waiter("a.js");
    let file = |count: u32, colour: &str| {
        let app = serde_json::json!({"name": "a", "script": "a.js", "instances": count, "env": {"COLOUR": colour}});
        place.write("apps.json", &serde_json::json!({ "apps": [app] }).to_string());
    };
    file(1, "red");
    assert_eq!(place.call("apply apps.json --dry-run").ok().stdout(), "a: start\n");
    assert_eq!(place.jlist(), Vec::<Value>::new());
    place.call("apply apps.json").ok().says("[PM2] App [a] launched (1 instances)");
    let first = place.jlist()[0]["pid"].clone();
    assert_eq!(place.call("apply apps.json --dry-run").ok().stdout(), "a: no change\n");
    place.call("apply apps.json").ok();
    assert_eq!(place.jlist()[0]["pid"], first, "what needed no change was restarted");
    file(2, "red");
    place.call("apply apps.json").ok().says("a: scale\n  instances: 1 -> 2\n");
    assert_eq!(place.until("two", |list| list.len() == 2)[0]["pid"], first);
    file(2, "blue");
    place.call("apply apps.json").ok().says("a: reload\n").says_not("blue");
    let list = place.jlist();
    assert!(list.iter().all(|process| process["pm2_env"]["env"]["COLOUR"] == "blue"), "{list:#?}");
}

#[test]
fn a_terminal_can_be_attached() {
    let place = Place::new();
    place.write("echo.js", "process.stdin.on('data', (d) => console.log('got', String(d).trim()));\n");
    place.call("start echo.js").ok();
    let mut follower = Follower::start(&place, "attach 0 '>'");
    assert_eq!(follower.line_after(|| place.call("send 0 hello").ok(), "got"), ">got hello\n");
    place.call("attach 7").fails().complains("[PM2][ERROR] Process with ID <7> unknown.\n");
}

#[test]
fn logs_show_the_tail_and_follow() {
    let place = Place::new();
    place.write("talk.js", "console.log('hello 1');console.error('oops');process.stdin.on('data', (d) => console.log('got ' + String(d).trim()));\n");
    place.call("start talk.js --name talk").ok();
    let end = Instant::now() + DEADLINE;
    let tail = loop {
        let tail = place.call("logs talk --nostream --lines 5").ok();
        if tail.stdout().contains("oops") && tail.stdout().contains("hello 1") {
            break tail;
        }
        assert!(Instant::now() < end, "{tail}");
    };
    tail.says("[TAILING] Tailing last 5 lines for [talk] process (change the value with --lines option)")
        .says("talk-out.log last 5 lines:\n0|talk     | hello 1\n")
        .says("talk-error.log last 5 lines:\n0|talk     | oops\n");
    let raw = place.call("logs talk --nostream --raw --out");
    raw.ok().says("talk-out.log last 15 lines:\nhello 1\n").says_not("oops").says_not("|");

    let mut follower = Follower::start(&place, "logs talk --lines 0");
    follower.after(|| place.call("send 0 first").ok(), "0|talk  | got first\n");
    drop(follower);
    let mut json = Follower::start(&place, "logs --json");
    let line = json.line_after(|| place.call("send 0 second").ok(), "second");
    let record: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(
        (&record["message"], &record["type"], &record["process_id"]),
        (&"got second".into(), &"out".into(), &0.into())
    );
    drop(json);

    let all = place.call("logs --nostream").ok();
    all.says("pm2.log last 15 lines:\nPM2        | ").says("talk-out.log last 15 lines:\n");
    place.call("flush").ok().says("[PM2] Flushing ").says("pm2.log\n");
    place.call("flush talk").ok().says("[PM2] Logs flushed");
    place.call("logs talk --nostream").ok().says_not("hello 1");
    place.call("reloadLogs").ok().says("All logs reloaded");
}

/// A command that goes on until it is killed.
struct Follower {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Follower {
    fn start(place: &Place, line: &str) -> Follower {
        let mut child = Command::new(env!("CARGO_BIN_EXE_pm2rs"))
            .args(shell_words::split(line).unwrap())
            .env("PM2RS_HOME", place.home.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Follower { child, lines }
    }

    /// Does something, again and again as the follower may not listen yet, until a line comes.
    fn line_after<T>(&mut self, act: impl Fn() -> T, part: &str) -> String {
        act();
        let end = Instant::now() + DEADLINE;
        loop {
            let mut line = String::new();
            if self.lines.get_ref().readable_within(Duration::from_millis(500)) || !self.lines.buffer().is_empty() {
                self.lines.read_line(&mut line).unwrap();
            } else {
                act();
            }
            if line.contains(part) {
                return line;
            }
            assert!(Instant::now() < end, "no line with `{part}`");
        }
    }

    fn after<T>(&mut self, act: impl Fn() -> T, whole: &str) {
        assert_eq!(self.line_after(act, whole.trim_end()), whole);
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

trait Readable {
    fn readable_within(&self, time: Duration) -> bool;
}

impl<T: std::os::fd::AsFd> Readable for T {
    fn readable_within(&self, time: Duration) -> bool {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        let mut fds = [PollFd::new(self.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::try_from(time).unwrap()).unwrap() > 0
    }
}

#[test]
fn what_is_saved_comes_back() {
    let place = Place::new();
    place.waiter("app.js");
    place.call("start app.js --name kept -i 2").ok();
    place.call("save").ok().says("[PM2] Saving current process list...\n[PM2] Successfully saved in ");
    place.call("delete all").ok();
    place.call("resurrect").ok().says("[PM2] Resurrecting").says(" restored\n");
    assert_eq!(place.jlist().iter().filter(|p| p["name"] == "kept").count(), 2);
    place
        .call("kill")
        .ok()
        .says("[PM2] [kept](")
        .says("[PM2] [v] All Applications Stopped\n[PM2] [v] PM2 Daemon Stopped\n");
    place.call("update").ok().says(" restored\n").says(">>>>>>>>>> PM2 updated");
    assert_eq!(place.jlist().iter().filter(|p| p["name"] == "kept").count(), 2);
    place.call("cleardump").ok();
    place.call("resurrect").ok();
}

#[test]
fn described_and_signalled() {
    let place = Place::new();
    place.write(
        "sig.js",
        "process.on('SIGUSR2', () => console.log('signalled'));setInterval(() => {}, 1 << 30);console.log('up')\n",
    );
    place.call("start sig.js --max-memory-restart 200M --time").ok();
    place
        .call("describe sig")
        .ok()
        .says(" Describing process with id 0 - name sig \n")
        .says("│ max memory restart │ 209715200")
        .says("│ exec mode          │ fork_mode");
    place.until("up", |_| place.call("logs sig --nostream --raw").ok().stdout().contains("up"));
    place.call("sendSignal SIGUSR2 sig").ok().says("\nsuccessfully sent signal SIGUSR2 to process name sig\n");
    place.until("signalled", |_| place.call("logs sig --nostream --raw").ok().stdout().contains("signalled"));
    place.call("trigger sig nothing").fails().prints_nothing();
}

#[test]
fn what_cannot_be_executed_is_not_blamed_for_what_was_said_before() {
    let place = Place::new();
    place.write("app.sh", "#!/bin/sh\necho the day before >&2\nexec sleep 1000000\n");
    let script = place.apps.path().join("app.sh");
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    place.call("start app.sh --interpreter none").ok();
    place.until("its word", |_| place.call("logs app --nostream --raw").ok().stderr().contains("the day before"));
    place.write("app.sh", "#!/nowhere/sh\n");
    let ended = place.call("restart app").fails();
    assert!(ended.stderr().contains("cannot start `app`"), "{ended}");
    assert!(!ended.stderr().contains("the day before"), "{ended}");
}

#[test]
fn called_as_pm2_it_keeps_pm2_s_home() {
    let place = Place::new();
    let link = place.apps.path().join("pm2");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_pm2rs"), &link).unwrap();
    let home = place.home.path();
    let call = |word: &str| {
        let output = Command::new(&link).arg(word).env("PM2_HOME", home).env_remove("PM2RS_HOME").output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(call("ping"), "{ msg: 'pong' }\n");
    let pid = std::fs::read_to_string(home.join("pm2.pid")).unwrap();
    assert!(Path::new(&format!("/proc/{pid}")).exists());
    assert!(home.join("pm2.log").exists());
}

#[test]
fn a_reader_that_goes_away_ends_it_quietly() {
    let place = Place::new();
    place.call("ping").ok();
    let script = format!(
        "PM2RS_HOME={} {} list | true; echo ${{PIPESTATUS[0]}}",
        place.home.path().display(),
        env!("CARGO_BIN_EXE_pm2rs")
    );
    let output = Command::new("bash").args(["-c", &script]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert!(matches!(String::from_utf8_lossy(&output.stdout).trim(), "0" | "141"));
}

#[test]
fn commands_that_come_at_once_share_one_daemon() {
    let place = Place::new();
    let outputs: Vec<String> = std::thread::scope(|scope| {
        let calls: Vec<_> = (0..4).map(|_| scope.spawn(|| place.call("ping").ok().stdout())).collect();
        calls.into_iter().map(|call| call.join().unwrap()).collect()
    });
    assert!(outputs.iter().all(|output| output == "{ msg: 'pong' }\n"), "{outputs:?}");
}

#[test]
fn a_port_is_served_and_freed() {
    let place = Place::new();
    place.write(
        "web.js",
        "require('http').createServer((q, r) => r.end('hello')).listen(0, '127.0.0.1', function () { \
         require('fs').writeFileSync('port', String(this.address().port)) });\n",
    );
    place.call("start web.js").ok();
    let path = place.apps.path().join("port");
    let port: u16 = loop {
        if let Ok(port) = std::fs::read_to_string(&path).unwrap_or_default().parse() {
            break port;
        }
        place.until("online", |list| status(&list[0]) == "online");
    };
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("hello"), "{answer}");
    place.call("stop web").ok();
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
}
