//! By whose rights log files are opened.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use pm2rs::core::{ProcessId, Uid};
use pm2rs::logs::{LogEvent, Search, Whose};
use pm2rs::sys::identity::Identity;

use crate::rig::{OWNER, Pipes, Rig, messages, read, until};

#[tokio::test]
async fn a_file_that_became_read_only_costs_counted_lines_only() {
    let mut rig = Rig::new();
    if rig.identity.uid == 0 {
        // Root may write whatever a file's mode says.
        rig.identity = Identity::by_name("nobody").unwrap();
    }
    let allow = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    allow(rig.dir.path(), 0o777);
    let mut pipes = rig.attach(1, 0, &rig.spec(|_| ()));
    let path = rig.path("logs/api-out-0.log");
    pipes.out(b"before\n");
    until(&path, |text| text == "before\n").await;
    allow(&path, 0o444);
    rig.logs.reopen(None).await;
    let line = [b"x".repeat(99), b"\n".to_vec()].concat();
    (0..10_000).for_each(|_| pipes.out(&line));
    let LogEvent::Dropped { reason, .. } = rig.event().await else { panic!("expected a loss") };
    assert!(reason.starts_with("cannot open `") && reason.contains("Permission denied"), "{reason}");
    allow(&path, 0o644);
    let lost = loop {
        match rig.event().await {
            LogEvent::Recovered { lines, .. } => break lines,
            LogEvent::Dropped { .. } | LogEvent::Suppressed { .. } | LogEvent::Waiting { .. } => {}
        }
    };
    pipes.out(b"after\n");
    let text = until(&path, |text| text.ends_with("after\n")).await;
    rig.end(pipes).await;
    let kept = text.lines().filter(|line| line.len() == 99).count() as u64;
    assert!(kept > 0 && kept + lost == 10_000, "{kept} kept, {lost} lost");
    assert_eq!(rig.logs.counters(ProcessId(0)).await.dropped, lost);
}

/// Two apps that name one file: root's, which wrote it first, and a stranger's.
struct Strangers {
    rig: Rig,
    file: PathBuf,
    roots: Pipes,
    theirs: Pipes,
}

impl Strangers {
    /// `None` for those who cannot be two users.
    async fn at(file: &str) -> Option<Strangers> {
        let mut rig = Rig::with(|config| config.owner = Uid(0));
        if rig.identity.uid != 0 {
            eprintln!("skipped: only root can write for two users");
            return None;
        }
        // So that a stranger would get at it, if the mode of the file allowed that.
        fs::set_permissions(rig.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let file = rig.path(file);
        let spec = rig.spec(|spec| {
            spec.log.out_file = Some(file.clone());
            spec.log.merge_logs = true;
        });
        let mut roots = rig.attach(1, 0, &spec);
        roots.out(b"secret\n");
        until(&file, |text| text == "secret\n").await;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        rig.identity = Identity::by_name("nobody").unwrap();
        let mut theirs = rig.attach(2, 1, &spec);
        theirs.out(b"theirs\n");
        rig.identity = Identity::own().unwrap();
        // Root's app is restarted.
        let mut again = rig.attach(3, 0, &spec);
        again.out(b"again\n");
        until(&file, |text| text.ends_with("again\n")).await;
        roots.out(b"more\n");
        until(&file, |text| text.ends_with("more\n")).await;
        rig.end(again).await;
        Some(Strangers { rig, file, roots, theirs })
    }

    async fn part(mut self) {
        self.theirs.out(b"to the end\n");
        self.rig.end(self.theirs).await;
        self.rig.end(self.roots).await;
        assert_eq!(read(&self.file), "secret\nagain\nmore\n");
        assert_eq!(fs::metadata(&self.file).unwrap().uid(), 0);
    }
}

#[tokio::test]
async fn who_names_another_s_file_gets_nothing_of_it_and_takes_nothing_away() {
    let Some(strangers) = Strangers::at("logs/shared.log").await else { return };
    let whose = Whose::Processes(vec![ProcessId(1)]);
    let found = strangers.rig.logs.search(OWNER, whose, Search::last(9)).await.unwrap();
    assert_eq!(messages(found, 9), Vec::<String>::new());
    assert_eq!(strangers.rig.logs.tail(ProcessId(1), false, 9).await, Vec::<String>::new());
    let problems = strangers.rig.logs.flush(vec![ProcessId(1)]).await;
    assert!(problems[0].contains("Permission denied"), "{problems:?}");
    strangers.part().await;
}

#[tokio::test]
async fn what_lies_in_the_daemon_s_folder_is_given_to_nobody_who_just_names_it() {
    let Some(strangers) = Strangers::at("own/shared.log").await else { return };
    strangers.part().await;
}
