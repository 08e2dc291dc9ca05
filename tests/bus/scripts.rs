//! Scripts that do not exist, at a real daemon: one clear error for whoever comes over the bus, and nothing changes.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pm2rs::api::{Client, Error, StartDict, UpdateDict, names};

use crate::daemon::{DEADLINE, within};

/// A daemon of its own home, in the foreground; it ends with this.
struct Home {
    folder: tempfile::TempDir,
    daemon: Child,
}

impl Home {
    async fn new() -> (Home, Client) {
        let folder = tempfile::tempdir().unwrap();
        let daemon = Command::new(env!("CARGO_BIN_EXE_pm2rs"))
            .args(["daemon", "--home"])
            .arg(folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let home = Home { folder, daemon };
        let socket = home.path().join(names::PRIVATE_SOCKET);
        let end = tokio::time::Instant::now() + DEADLINE;
        loop {
            match Client::private(&socket).await {
                Ok(client) if client.manager().ping().await.is_ok() => return (home, client),
                _ => assert!(tokio::time::Instant::now() < end, "the daemon does not come up"),
            }
            tokio::task::yield_now().await;
        }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // What was started is the keeper: SIGKILL would leave the daemon below it, SIGTERM is passed on and waited for.
        let keeper = Pid::from_raw(self.daemon.id().cast_signed());
        let _ = kill(keeper, Signal::SIGTERM);
        let _ = self.daemon.wait();
    }
}

#[tokio::test]
async fn a_script_that_does_not_exist_is_refused_and_nothing_changes() {
    let (home, client) = Home::new().await;
    let manager = client.manager();
    let missing = home.path().join("nowhere/app.js").display().to_string();
    let spec = |script: &str| format!(r#"{{"name":"api","script":"{script}","cwd":"/","interpreter":"none"}}"#);
    for force in [false, true] {
        let refused = within(manager.start_app(&spec(&missing), &StartDict { force })).await;
        assert_eq!(refused, Err(Error::ScriptNotFound(missing.clone())));
    }
    let below_a_file = "/bin/sh/app.js";
    let refused = within(manager.start_app(&spec(below_a_file), &StartDict { force: false })).await;
    assert_eq!(refused, Err(Error::ScriptNotFound(below_a_file.to_owned())));
    assert_eq!(manager.list_processes().await.unwrap(), "[]");
    assert_eq!(manager.apps().await.unwrap(), 0);

    let sleeper = spec("/bin/sleep").replace(r#""cwd""#, r#""args":["1000"],"cwd""#);
    let job = within(manager.start_app(&sleeper, &StartDict { force: false })).await.unwrap();
    within(client.wait(&job)).await.unwrap();
    let before = manager.get_spec(0).await.unwrap();
    let update = UpdateDict { spec: Some(spec(&missing)), ..UpdateDict::default() };
    assert_eq!(within(manager.restart(&["api"], &update)).await, Err(Error::ScriptNotFound(missing.clone())));
    assert_eq!(within(manager.reload(&["api"], &update)).await, Err(Error::ScriptNotFound(missing)));
    assert_eq!(manager.get_spec(0).await.unwrap(), before);
    assert_eq!(client.process(0).await.unwrap().status().await.unwrap(), "online");
    let job = within(manager.delete(&["api"])).await.unwrap();
    within(client.wait(&job)).await.unwrap();
}
