//! Against the real kernel.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::*;
use crate::sys::pidfd::ExitStatus;

const DEADLINE: Duration = Duration::from_secs(20);

/// Runs a shell script as described and returns what it wrote to stdout and how it ended.
async fn output(describe: impl FnOnce(&mut Spawn), script: &str) -> (String, ExitStatus) {
    let (mut reader, writer) = io::pipe().unwrap();
    let mut spawn = Spawn::new("/bin/sh", ["-c", script]);
    spawn.fds.push((writer.into(), 1));
    describe(&mut spawn);
    let child = spawn.start().unwrap().release(DEADLINE).await.unwrap();
    let reading = tokio::task::spawn_blocking(move || {
        let mut text = String::new();
        reader.read_to_string(&mut text).map(|_| text)
    });
    let text = tokio::time::timeout(DEADLINE, reading).await.unwrap().unwrap().unwrap();
    let status = tokio::time::timeout(DEADLINE, pidfd::wait(child.pidfd.as_fd())).await.unwrap().unwrap();
    (text, status)
}

async fn failure(spawn: Spawn) -> SpawnError {
    spawn.start().unwrap().release(DEADLINE).await.unwrap_err()
}

async fn kill(child: Child) {
    pidfd::send_signal(child.pidfd.as_fd(), libc::SIGKILL).unwrap();
    tokio::time::timeout(DEADLINE, pidfd::wait(child.pidfd.as_fd())).await.unwrap().unwrap();
}

fn status_field(pid: u32, name: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_once(':').unwrap().1.trim().to_owned()
}

fn script(dir: &Path, name: &str, text: &str, mode: u32) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    path
}

fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        println!("skipped, needs root");
    }
    root
}

#[tokio::test]
async fn arguments_environment_folder_and_umask_are_as_said_and_nothing_else() {
    let (text, status) = output(
        |spawn| {
            spawn.env = vec![("B".into(), "2 3".into()), ("A".into(), "1".into())];
            spawn.cwd = "/usr".into();
            spawn.args.extend(["name".into(), "x y".into()]);
            spawn.umask = 0o027;
        },
        "pwd; umask; echo \"$A-$B-$1\"; /usr/bin/env | grep -vE '^(PWD|_|SHLVL|OLDPWD)='; exit 3",
    )
    .await;
    let mut lines: Vec<_> = text.lines().collect();
    lines[3..].sort_unstable();
    assert_eq!(lines, ["/usr", "0027", "1-2 3-x y", "A=1", "B=2 3"]);
    assert_eq!(status, ExitStatus::Code(3));
    let (text, _) = output(|_| (), "pwd; umask").await;
    assert_eq!(text, "/\n0022\n");
}

#[tokio::test]
async fn no_descriptor_leaks_and_each_has_its_number() {
    // Something inheritable of this process, which must not be inherited.
    let leak = rustix::io::fcntl_dupfd_cloexec(fs::File::open("/dev/zero").unwrap(), 700).unwrap();
    rustix::io::fcntl_setfd(&leak, rustix::io::FdFlags::empty()).unwrap();
    // cat answers when it is past the loader, which has files open for a moment.
    let (input, mut to_child) = io::pipe().unwrap();
    let (mut from_child, output) = io::pipe().unwrap();
    let link = |fd: &dyn AsRawFd| fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap();
    let (input_link, output_link) = (link(&input), link(&output));
    let zero: OwnedFd = fs::File::open("/dev/zero").unwrap().into();
    let full: OwnedFd = fs::File::open("/dev/full").unwrap().into();
    let mut spawn = Spawn::new("/bin/cat", Vec::<OsString>::new());
    // Targets that are numbers of other sources: swapped, were it done one after the other.
    let (a, b, c) = (zero.as_raw_fd(), full.as_raw_fd(), output.as_raw_fd());
    let again = output.try_clone().unwrap();
    spawn.fds = vec![(zero, b), (full, a), (output.into(), 1), (input.into(), 0), (again.into(), c)];
    let child = spawn.start().unwrap().release(DEADLINE).await.unwrap();
    to_child.write_all(b"?").unwrap();
    from_child.read_exact(&mut [0]).unwrap();
    let mut open = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{}/fd", child.pid)).unwrap() {
        let entry = entry.unwrap();
        let number: i32 = entry.file_name().to_str().unwrap().parse().unwrap();
        open.insert(number, fs::read_link(entry.path()).unwrap());
    }
    let wanted = BTreeMap::from([
        (0, input_link),
        (1, output_link.clone()),
        (2, "/dev/null".into()),
        (a, "/dev/full".into()),
        (b, "/dev/zero".into()),
        (c, output_link),
    ]);
    assert_eq!(open, wanted);
    kill(child).await;
}

#[tokio::test]
async fn session_signals_and_parent_death_are_reset() {
    let child = Spawn::new("/bin/sleep", ["60"]).start().unwrap().release(DEADLINE).await.unwrap();
    let stat = proc::Stat::read(child.pid).unwrap();
    assert_eq!((stat.pgrp, stat.session, stat.ppid), (child.pid, child.pid, std::process::id()));
    assert_eq!(stat.start_time, child.start_time);
    for mask in ["SigBlk", "SigIgn", "SigCgt"] {
        assert_eq!(status_field(child.pid, mask), "0000000000000000", "{mask}");
    }
    // The parent ignores SIGPIPE, as Rust programs do; were that inherited, this would not end by it.
    kill(child).await;
    let (_, status) = output(|_| (), "kill -PIPE $$; exit 1").await;
    assert_eq!(status, ExitStatus::Signal(libc::SIGPIPE));
}

#[tokio::test]
async fn the_user_is_taken_on_whole() {
    if !is_root() {
        return;
    }
    let mut nobody = Identity::by_name("nobody").unwrap();
    nobody.groups.push(12345);
    let mut spawn = Spawn::new("/bin/sleep", ["60"]);
    spawn.identity = Some(nobody.clone());
    let child = spawn.start().unwrap().release(DEADLINE).await.unwrap();
    let ids = |id: u32| [id; 4].map(|id| id.to_string()).join("\t");
    assert_eq!(status_field(child.pid, "Uid"), ids(nobody.uid));
    assert_eq!(status_field(child.pid, "Gid"), ids(nobody.gid));
    let groups = status_field(child.pid, "Groups");
    let mut wanted: Vec<_> = nobody.groups.clone();
    wanted.sort_unstable();
    assert_eq!(groups.split(' ').map(|gid| gid.parse::<u32>().unwrap()).collect::<Vec<_>>(), wanted);
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(status_field(child.pid, set), "0000000000000000", "{set}");
    }
    kill(child).await;
}

#[tokio::test]
async fn users_do_not_share_our_keys() {
    if !is_root() {
        return;
    }
    let nobody = Identity::by_name("nobody").unwrap();
    // SAFETY: the name and the key are NUL-terminated or of the given length, and only read.
    let added = unsafe {
        libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, std::ptr::null::<libc::c_char>());
        let (kind, name, session) = (c"user".as_ptr(), c"pm2rs-test-key".as_ptr(), libc::KEY_SPEC_SESSION_KEYRING);
        libc::syscall(libc::SYS_add_key, kind, name, b"s".as_ptr(), 1usize, session)
    };
    if added < 0 {
        println!("skipped, needs a kernel with keys");
        return;
    }
    let keys = "cat /proc/keys";
    let (own, _) = output(|_| (), keys).await;
    assert!(own.contains("pm2rs-test-key"), "{own}");
    let (others, _) = output(|spawn| spawn.identity = Some(nobody), keys).await;
    assert!(!others.contains("pm2rs-test-key") && others.contains(" _ses"), "{others}");
}

#[tokio::test]
async fn limits_and_nice_value_are_set() {
    let resource = nix::sys::resource::Resource::RLIMIT_NOFILE;
    let (text, _) = output(
        |spawn| {
            spawn.limits = vec![Limit { resource, soft: 123, hard: 456 }];
            spawn.nice = Some(7);
        },
        "ulimit -S -n; ulimit -H -n; /usr/bin/nice",
    )
    .await;
    assert_eq!(text, "123\n456\n7\n");
}

#[tokio::test]
async fn the_childs_own_id_is_in_its_environment() {
    let (text, _) = output(
        |spawn| {
            spawn.env = vec![("LISTEN_PID".into(), "1".into()), ("LISTEN_FDS".into(), "2".into())];
            spawn.pid_vars = vec!["LISTEN_PID".into(), "OTHER".into()];
        },
        "echo $$ $LISTEN_PID $OTHER $LISTEN_FDS",
    )
    .await;
    let words: Vec<_> = text.split_whitespace().collect();
    assert_eq!(words[1..], [words[0], words[0], "2"]);
}

#[tokio::test]
async fn what_is_missing_is_named() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let at = dir.path().display();
    let none = Vec::<OsString>::new;

    let error = failure(Spawn::new(dir.path().join("nope"), none())).await;
    assert_eq!(error.to_string(), format!("cannot start `{at}/nope`: no such file"));
    assert_eq!((error.stage, error.errno, error.is_transient()), (Stage::Exec, libc::ENOENT, false));
    assert_eq!(error.path, dir.path().join("nope"));

    let error = failure(Spawn::new(script(dir.path(), "s", "#!/no/such/node x\n", 0o755), none())).await;
    let wanted =
        format!("cannot start `{at}/s`: its first line names the interpreter `/no/such/node`, which does not exist");
    assert_eq!(error.to_string(), wanted);

    let error = failure(Spawn::new(script(dir.path(), "crlf", "#!/bin/sh\r\n", 0o755), none())).await;
    assert!(error.to_string().contains("interpreter `/bin/sh` and ends with CR LF"), "{error}");

    let error = failure(Spawn::new(script(dir.path(), "text", "hello\n", 0o755), none())).await;
    assert_eq!(error.errno, libc::ENOEXEC);
    assert!(error.to_string().contains("neither a program for this machine nor a script"), "{error}");

    let error = failure(Spawn::new(script(dir.path(), "plain", "#!/bin/sh\n", 0o644), none())).await;
    assert!(error.to_string().ends_with("the user may not execute it (chmod +x)"), "{error}");

    let error = failure(Spawn::new(dir.path(), none())).await;
    assert!(error.to_string().ends_with("it is a folder"), "{error}");

    let mut spawn = Spawn::new("/bin/true", none());
    spawn.cwd = dir.path().join("gone");
    let error = failure(spawn).await;
    assert_eq!(error.to_string(), format!("cannot enter working folder `{at}/gone`: no such folder"));
    assert_eq!((error.stage, error.path), (Stage::Folder, dir.path().join("gone")));

    let error = Spawn::new("/bin/true", ["a\0b"]).start().unwrap_err();
    assert_eq!(error.to_string(), "cannot start `/bin/true`: `a\\0b` holds a NUL byte");
}

#[tokio::test]
async fn what_the_user_may_not_is_named_with_the_user() {
    if !is_root() {
        return;
    }
    let nobody = Identity::by_name("nobody").unwrap();
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let path = script(dir.path(), "s", "#!/bin/sh\n", 0o755);
    let mut spawn = Spawn::new(&path, Vec::<OsString>::new());
    spawn.identity = Some(nobody.clone());
    let error = failure(spawn).await;
    assert_eq!(error.errno, libc::EACCES);
    assert!(error.to_string().ends_with("user `nobody` may not enter a folder on the way to it"), "{error}");
    let mut spawn = Spawn::new("/bin/true", Vec::<OsString>::new());
    spawn.identity = Some(nobody);
    spawn.cwd = dir.path().to_owned();
    let error = failure(spawn).await;
    assert!(error.to_string().ends_with("user `nobody` may not enter it"), "{error}");
}

#[tokio::test]
async fn a_held_child_waits_and_a_dropped_one_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let mark = dir.path().join("ran");
    let describe = || {
        let mut spawn = Spawn::new("/bin/sh", [OsString::from("-c"), format!(": > {}", mark.display()).into()]);
        spawn.hold = true;
        spawn
    };
    let held = describe().start().unwrap();
    let other = describe().start().unwrap();
    let (pid, start_time) = (other.pid(), proc::start_time(other.pid()).unwrap());
    // Asleep in the pipe, before exec, with descriptors closed already.
    let program = fs::read_link(format!("/proc/{pid}/exe")).unwrap();
    assert_eq!(program, fs::read_link("/proc/self/exe").unwrap());
    assert!(!mark.exists());
    let end = pidfd::open_exact(pid, start_time).unwrap().unwrap();
    drop(other);
    tokio::time::timeout(DEADLINE, pidfd::wait(end.as_fd())).await.unwrap().unwrap();
    assert!(!mark.exists());
    let child = held.release(DEADLINE).await.unwrap();
    let status = tokio::time::timeout(DEADLINE, pidfd::wait(child.pidfd.as_fd())).await.unwrap().unwrap();
    assert_eq!(status, ExitStatus::Code(0));
    assert!(mark.exists());
}

#[tokio::test]
async fn the_way_of_old_kernels_works_too() {
    let (mut reader, writer) = io::pipe().unwrap();
    let mut spawn = Spawn::new("/bin/sh", ["-c", "/bin/cat /proc/self/cgroup; exit 5"]);
    spawn.fds.push((writer.into(), 1));
    let group = crate::sys::cgroup::tests::for_test("fork");
    spawn.cgroup = group.as_ref().map(|group| group.open().unwrap());
    let child = spawn.start_by(child::plain_fork).unwrap().release(DEADLINE).await.unwrap();
    let status = tokio::time::timeout(DEADLINE, pidfd::wait(child.pidfd.as_fd())).await.unwrap().unwrap();
    assert_eq!(status, ExitStatus::Code(5));
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    if let Some(group) = group {
        let name = group.path().file_name().unwrap().to_str().unwrap();
        assert!(text.lines().any(|line| line.starts_with("0::/") && line.ends_with(name)), "{text}");
        group.remove().unwrap();
    }
    let failed = Spawn::new("/no/such", Vec::<OsString>::new()).start_by(child::plain_fork).unwrap();
    assert_eq!(failed.release(DEADLINE).await.unwrap_err().stage, Stage::Exec);
}

#[tokio::test]
async fn a_failed_child_is_collected() {
    let held = Spawn::new("/no/such", Vec::<OsString>::new()).start().unwrap();
    let end = pidfd::open(held.pid()).unwrap();
    held.release(DEADLINE).await.unwrap_err();
    tokio::time::timeout(DEADLINE, pidfd::wait(end.as_fd())).await.unwrap().unwrap();
}

#[tokio::test]
async fn impossible_descriptors_are_refused() {
    let null = || -> OwnedFd { fs::File::open("/dev/null").unwrap().into() };
    for numbers in [[5, 5], [-1, 4]] {
        let mut spawn = Spawn::new("/bin/true", Vec::<OsString>::new());
        spawn.fds = numbers.map(|number| (null(), number)).into();
        let error = spawn.start().unwrap_err();
        assert!(error.to_string().contains("is negative or given twice"), "{error}");
    }
}

#[tokio::test]
async fn input_reaches_the_child_and_our_end_is_closed() {
    let (reader, mut writer) = io::pipe().unwrap();
    writer.write_all(b"line\n").unwrap();
    drop(writer);
    let (text, _) = output(|spawn| spawn.fds.push((reader.into(), 0)), "/bin/cat").await;
    assert_eq!(text, "line\n");
}
