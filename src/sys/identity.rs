//! Who a process is: users and groups from the account database, and acting as one of them.
//!
//! Owns every look-up of accounts and the switch of a thread's filesystem credentials. Must never change the
//! credentials of the whole process: the daemon stays what it is, only one short-lived thread becomes somebody else.
//!
//! Looking up an account asks whom nsswitch.conf(5) names; where that is a server, it may block for seconds.

use std::ffi::CString;
use std::io;
use std::path::PathBuf;

use nix::unistd::{Gid, Group, Uid, User};
use serde::{Deserialize, Serialize};

/// A user as a process sees itself: ids, supplementary groups and what login(1) puts into the environment.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Identity {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary groups, the primary one usually among them.
    pub groups: Vec<u32>,
    /// Login name; the number in decimal for a user without an account.
    pub name: String,
    /// Home folder.
    pub home: PathBuf,
    /// Login shell.
    pub shell: PathBuf,
}

/// Why there is no such identity, or why it cannot be taken on.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// No account has this name or number.
    #[error("no user `{0}`")]
    NoUser(String),
    /// No group has this name or number.
    #[error("no group `{0}`")]
    NoGroup(String),
    /// The account database did not answer.
    #[error("cannot look up `{name}` in the account database: {source}")]
    Lookup {
        /// What was looked up.
        name: String,
        /// What the C library said.
        source: io::Error,
    },
    /// The kernel did not let the thread take on the user's rights.
    #[error("cannot act as user `{name}`: {source}")]
    Switch {
        /// Whose rights.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
}

impl Identity {
    /// The account with this user id.
    ///
    /// # Errors
    /// [`IdentityError::NoUser`] when there is none. For the process's own uid there always is one, see
    /// [`Identity::own`].
    pub fn of_uid(uid: u32) -> Result<Identity, IdentityError> {
        match User::from_uid(Uid::from_raw(uid)).map_err(|e| lookup(&uid.to_string(), e))? {
            Some(user) => Identity::from_account(user),
            None if uid == Uid::effective().as_raw() => Ok(Identity::without_account()),
            None => Err(IdentityError::NoUser(uid.to_string())),
        }
    }

    /// The account with this name, else with this number (a name made of digits wins, as in chown(1)).
    ///
    /// # Errors
    /// [`IdentityError::NoUser`] when neither exists.
    pub fn by_name(name: &str) -> Result<Identity, IdentityError> {
        if let Some(user) = User::from_name(name).map_err(|e| lookup(name, e))? {
            return Identity::from_account(user);
        }
        match name.parse() {
            Ok(uid) => Identity::of_uid(uid),
            Err(_) => Err(IdentityError::NoUser(name.to_owned())),
        }
    }

    /// Who this process is (its effective uid). Never fails for want of an account: containers are often run with a
    /// number that no account has; such a user has the groups the process has, `$HOME` (or `/`) and /bin/sh.
    ///
    /// # Errors
    /// [`IdentityError::Lookup`] when the account database does not answer.
    pub fn own() -> Result<Identity, IdentityError> {
        Identity::of_uid(Uid::effective().as_raw())
    }

    /// The same user with another primary group, by name or number. The supplementary groups become those that
    /// initgroups(3) would give with it.
    ///
    /// # Errors
    /// [`IdentityError::NoGroup`] when there is no such group.
    pub fn with_group(mut self, group: &str) -> Result<Identity, IdentityError> {
        let found = match Group::from_name(group).map_err(|e| lookup(group, e))? {
            Some(found) => found,
            None => {
                let missing = || IdentityError::NoGroup(group.to_owned());
                let gid = group.parse().map_err(|_| missing())?;
                Group::from_gid(Gid::from_raw(gid)).map_err(|e| lookup(group, e))?.ok_or_else(missing)?
            }
        };
        let before = std::mem::replace(&mut self.gid, found.gid.as_raw());
        let mut groups = supplementary(&self.name, found.gid)?;
        if !groups.contains(&before) {
            groups.push(before);
        }
        self.groups = groups;
        Ok(self)
    }

    fn from_account(user: User) -> Result<Identity, IdentityError> {
        let groups = supplementary(&user.name, user.gid)?;
        Ok(Identity {
            uid: user.uid.as_raw(),
            gid: user.gid.as_raw(),
            groups,
            name: user.name,
            home: user.dir,
            shell: if user.shell.as_os_str().is_empty() { PathBuf::from("/bin/sh") } else { user.shell },
        })
    }

    fn without_account() -> Identity {
        let groups = nix::unistd::getgroups().unwrap_or_default();
        Identity {
            uid: Uid::effective().as_raw(),
            gid: Gid::effective().as_raw(),
            groups: groups.into_iter().map(Gid::as_raw).collect(),
            name: Uid::effective().to_string(),
            home: std::env::var_os("HOME").filter(|home| !home.is_empty()).map_or_else(|| "/".into(), PathBuf::from),
            shell: PathBuf::from("/bin/sh"),
        }
    }

    /// Whether this process already has exactly this identity's rights on files, so that no switch is needed.
    pub(super) fn is_own(&self) -> bool {
        // An ordinary user cannot change its groups anyway; root with another group or other groups is a real change.
        self.uid == Uid::effective().as_raw() && (self.uid != 0 || self.gid == Gid::effective().as_raw())
    }
}

fn lookup(name: &str, errno: nix::errno::Errno) -> IdentityError {
    IdentityError::Lookup { name: name.to_owned(), source: errno.into() }
}

fn supplementary(name: &str, gid: Gid) -> Result<Vec<u32>, IdentityError> {
    let c_name = CString::new(name.to_owned().into_bytes()).map_err(|_| IdentityError::NoUser(name.to_owned()))?;
    let groups = nix::unistd::getgrouplist(&c_name, gid).map_err(|e| lookup(name, e))?;
    Ok(groups.into_iter().map(Gid::as_raw).collect())
}

/// Runs `f` in a thread of its own that has this user's rights on files and no capability, and waits for it.
///
/// Everything the file system decides by credentials (opening, creating, binding and connecting unix sockets,
/// ownership of what is created, reserved blocks and quotas) is decided as for the user. The thread shares umask and
/// working folder with the process. Descriptors opened in it keep their rights afterwards, as ever.
///
/// Where the process is that user already, `f` just runs.
///
/// # Errors
/// [`IdentityError::Switch`] when the kernel does not allow the switch; `f` has not run then.
///
/// # Panics
/// When `f` does: the panic goes on in the caller.
pub fn run_as<T: Send>(who: &Identity, f: impl FnOnce() -> T + Send) -> Result<T, IdentityError> {
    if who.is_own() {
        return Ok(f());
    }
    let result = std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("run-as".to_owned())
            .spawn_scoped(scope, || take_on(who).map(|()| f()))
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    result.and_then(|inner| inner).map_err(|source| IdentityError::Switch { name: who.name.clone(), source })
}

/// [`run_as`] for async code: `f` may block (a slow disk, a hanging network share) without holding up the loop, nor
/// anybody else, for the thread is its alone: those of the runtime are few. It goes on when the future is dropped.
///
/// # Errors
/// As [`run_as`].
///
/// # Panics
/// When `f` does: the panic goes on in the caller.
pub async fn run_as_async<T, F>(who: Identity, f: F) -> Result<T, IdentityError>
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    in_own_thread(who, take_on, f).await
}

/// [`run_as_async`] for what the kernel counts by effective user, as inotify(7) instances and what they watch: it is
/// charged to the user. The thread, and those that `f` begins, have the user's effective ids, so that user may renice
/// them (setpriority(2)): nobody else may wait for what is done there.
///
/// # Errors
/// As [`run_as`].
///
/// # Panics
/// When `f` does: the panic goes on in the caller.
pub async fn run_charged_to<T, F>(who: Identity, f: F) -> Result<T, IdentityError>
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    in_own_thread(who, take_on_wholly, f).await
}

async fn in_own_thread<T, F>(who: Identity, switch: fn(&Identity) -> io::Result<()>, f: F) -> Result<T, IdentityError>
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    let (tell, told) = tokio::sync::oneshot::channel();
    let name = who.name.clone();
    let cannot = |source| IdentityError::Switch { name, source };
    let work = move || {
        let act = || if who.is_own() { Ok(f()) } else { switch(&who).map(|()| f()) };
        // Nobody may wait for it any more.
        let _ = tell.send(std::panic::catch_unwind(std::panic::AssertUnwindSafe(act)));
    };
    if let Err(error) = std::thread::Builder::new().name("run-as".to_owned()).spawn(work) {
        return Err(cannot(error));
    }
    match told.await {
        Ok(Ok(result)) => result.map_err(cannot),
        Ok(Err(panic)) => std::panic::resume_unwind(panic),
        Err(gone) => Err(cannot(io::Error::other(gone))),
    }
}

/// Gives the calling thread, and it alone, the user's filesystem credentials, for the rest of its life.
///
/// The raw system calls are used on purpose: the C library's wrappers of setgroups(2) change all threads (nptl(7)).
/// The order matters: each step needs the right that a later one takes away.
fn take_on(who: &Identity) -> io::Result<()> {
    take_on_groups(who)?;
    // setfsuid(2) and setfsgid(2) tell no errors: they return the previous id, so the second call, with an id that
    // is never valid, tells what the first one did.
    for (call, id) in [(libc::SYS_setfsgid, who.gid), (libc::SYS_setfsuid, who.uid)] {
        // SAFETY: both calls take one integer and touch no memory.
        let now = unsafe {
            libc::syscall(call, id);
            libc::syscall(call, u32::MAX)
        };
        if u32::try_from(now) != Ok(id) {
            return Err(io::Error::from_raw_os_error(libc::EPERM));
        }
    }
    drop_capabilities()
}

/// Gives the calling thread, and it alone, the user's effective ids, which bring the filesystem's with them
/// (credentials(7)). The real and the saved ones stay: by those it is decided who may signal and trace it.
fn take_on_wholly(who: &Identity) -> io::Result<()> {
    take_on_groups(who)?;
    for (call, id) in [(libc::SYS_setresgid, who.gid), (libc::SYS_setresuid, who.uid)] {
        // SAFETY: both calls take three integers, of which -1 leaves the id as it is, and touch no memory.
        check(unsafe { libc::syscall(call, u32::MAX, id, u32::MAX) })?;
    }
    drop_capabilities()
}

fn take_on_groups(who: &Identity) -> io::Result<()> {
    // SAFETY: the pointer and length describe a live slice; the kernel only reads it.
    check(unsafe { libc::syscall(libc::SYS_setgroups, who.groups.len(), who.groups.as_ptr()) })
}

/// Empties the calling thread's capability sets. setfsuid(2) takes away only those about files, setresuid(2) leaves the
/// inheritable ones, and SECBIT_NO_SETUID_FIXUP keeps them all (capabilities(7)). Safe to call between fork and exec.
pub(super) fn drop_capabilities() -> io::Result<()> {
    /// `_LINUX_CAPABILITY_VERSION_3` of linux/capability.h: two 32-bit words a set.
    const VERSION_3: u32 = 0x2008_0522;
    #[repr(C)]
    struct Header {
        version: u32,
        /// 0 is the calling thread.
        pid: libc::c_int,
    }
    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Data {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    let mut header = Header { version: VERSION_3, pid: 0 };
    let none = [Data { effective: 0, permitted: 0, inheritable: 0 }; 2];
    // SAFETY: both point to live values of the layout that capset(2) defines for version 3. Of the header, the version
    // is written to when the kernel does not know it.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw mut header, none.as_ptr()) })
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    fn as_root(test: &str) -> bool {
        let root = Uid::effective().is_root();
        if !root {
            println!("{test}: skipped, needs root");
        }
        root
    }

    #[test]
    fn accounts_are_found_by_name_and_number() {
        let root = Identity::by_name("root").unwrap();
        assert_eq!((root.uid, root.gid), (0, 0));
        assert_eq!(Identity::by_name("0").unwrap(), root);
        assert_eq!(Identity::of_uid(0).unwrap(), root);
        assert!(root.groups.contains(&0));
        assert!(root.home.is_absolute() && root.shell.is_absolute());
    }

    #[test]
    fn what_does_not_exist_is_named() {
        assert_eq!(Identity::by_name("no-such-user-x").unwrap_err().to_string(), "no user `no-such-user-x`");
        assert_eq!(Identity::of_uid(4_000_000_001).unwrap_err().to_string(), "no user `4000000001`");
        assert_eq!(Identity::by_name("a\0b").unwrap_err().to_string(), "no user `a\0b`");
        let error = Identity::by_name("root").unwrap().with_group("no-such-group-x").unwrap_err();
        assert_eq!(error.to_string(), "no group `no-such-group-x`");
    }

    #[test]
    fn a_group_is_taken_by_name_and_number() {
        let nobody = Identity::by_name("nobody").unwrap();
        let by_name = nobody.clone().with_group("daemon").unwrap();
        assert_eq!(by_name.gid, Group::from_name("daemon").unwrap().unwrap().gid.as_raw());
        assert!(by_name.groups.contains(&by_name.gid));
        assert_eq!(nobody.with_group(&by_name.gid.to_string()).unwrap(), by_name);
    }

    #[test]
    fn own_identity_runs_in_place() {
        let here = std::thread::current().id();
        let own = Identity::own().unwrap();
        assert_eq!(run_as(&own, || std::thread::current().id()).unwrap(), here);
    }

    #[test]
    fn another_user_is_refused_to_an_ordinary_user_and_the_closure_does_not_run() {
        if Uid::effective().is_root() {
            // Become ordinary in a thread, then try to become somebody else from there.
            let daemon = Identity::by_name("daemon").unwrap();
            let nobody = Identity::by_name("nobody").unwrap();
            let outcome = run_as(&nobody, || take_on(&daemon).map_err(|e| e.kind())).unwrap();
            assert_eq!(outcome, Err(io::ErrorKind::PermissionDenied));
        } else {
            let root = Identity::by_name("root").unwrap();
            let error = run_as(&root, || panic!("ran")).unwrap_err();
            assert!(error.to_string().starts_with("cannot act as user `root`: "), "{error}");
        }
    }

    #[tokio::test]
    async fn files_are_opened_and_created_with_the_users_rights() {
        if !as_root("files_are_opened_and_created_with_the_users_rights") {
            return;
        }
        let nobody = Identity::by_name("nobody").unwrap();
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let secret = dir.path().join("secret");
        fs::write(&secret, "s").unwrap();
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
        let locked = dir.path().join("locked");
        fs::create_dir(&locked).unwrap();
        fs::set_permissions(&locked, fs::Permissions::from_mode(0o755)).unwrap();
        let (made, socket) = (dir.path().join("made"), dir.path().join("socket"));

        let (secret_2, made_2, socket_2) = (secret.clone(), made.clone(), socket.clone());
        run_as_async(nobody.clone(), move || {
            assert_eq!(fs::read(&secret_2).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
            let bind = std::os::unix::net::UnixListener::bind(locked.join("s"));
            assert_eq!(bind.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
            // Changing the owner needs CAP_CHOWN, signalling somebody else's process CAP_KILL; both are gone.
            fs::write(&made_2, "m").unwrap();
            assert!(std::os::unix::fs::chown(&made_2, Some(0), None).is_err());
            std::os::unix::net::UnixListener::bind(&socket_2).unwrap();
            let status = fs::read_to_string("/proc/thread-self/status").unwrap();
            assert!(status.contains("CapEff:\t0000000000000000"), "{status}");
            assert!(!status.lines().any(|l| l.starts_with("Groups:") && l.split_whitespace().any(|g| g == "0")));
        })
        .await
        .unwrap();

        for path in [&made, &socket] {
            let meta = fs::metadata(path).unwrap();
            assert_eq!((meta.uid(), meta.gid()), (nobody.uid, nobody.gid), "{}", path.display());
        }
        // The process itself is still root.
        assert_eq!(fs::read(&secret).unwrap(), b"s");
        let status = fs::read_to_string("/proc/thread-self/status").unwrap();
        assert!(!status.contains("CapEff:\t0000000000000000"));
    }

    #[tokio::test]
    async fn what_is_charged_to_a_user_is_done_with_its_effective_ids_and_no_capability() {
        if !as_root("what_is_charged_to_a_user_is_done_with_its_effective_ids_and_no_capability") {
            return;
        }
        let nobody = Identity::by_name("nobody").unwrap();
        let (uid, gid) = (nobody.uid, nobody.gid);
        let status = || fs::read_to_string("/proc/thread-self/status").unwrap();
        let seen = run_charged_to(nobody, move || std::thread::spawn(status).join().unwrap()).await.unwrap();
        for line in [format!("Uid:\t0\t{uid}\t0\t{uid}"), format!("Gid:\t0\t{gid}\t0\t{gid}")] {
            assert!(seen.contains(&line), "{seen}");
        }
        for set in ["CapInh", "CapPrm", "CapEff"] {
            assert!(seen.contains(&format!("{set}:\t0000000000000000")), "{seen}");
        }
        assert!(
            !seen.lines().any(|line| line.starts_with("Groups:") && line.split_whitespace().any(|group| group == "0"))
        );
        assert!(status().contains("Uid:\t0\t0\t0\t0"), "only that thread");
    }

    #[test]
    fn who_waits_for_long_does_not_keep_the_threads_of_the_runtime() {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(1).build().unwrap();
        runtime.block_on(async {
            let own = Identity::own().unwrap();
            let (go, waits) = std::sync::mpsc::channel::<()>();
            let waiting = tokio::spawn(run_as_async(own, move || waits.recv().is_ok()));
            tokio::task::yield_now().await;
            let other = tokio::task::spawn_blocking(|| 1);
            let deadline = std::time::Duration::from_secs(20);
            assert_eq!(tokio::time::timeout(deadline, other).await.unwrap().unwrap(), 1);
            go.send(()).unwrap();
            assert!(waiting.await.unwrap().unwrap());
        });
    }

    #[test]
    fn a_panic_reaches_the_caller() {
        if !as_root("a_panic_reaches_the_caller") {
            return;
        }
        let nobody = Identity::by_name("nobody").unwrap();
        let panic = std::panic::catch_unwind(|| run_as(&nobody, || panic!("inside"))).unwrap_err();
        assert_eq!(panic.downcast_ref::<&str>(), Some(&"inside"));
    }
}
