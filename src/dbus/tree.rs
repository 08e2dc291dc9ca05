//! What is served: one tree for all connections, and what changed in it since it was last announced.
//!
//! Owns the names of objects and the values of their properties. Must never send anything, and never ask the daemon: it
//! is fed with [`Change`]s. Jobs carry two properties that are their owner's business alone (what was asked, and why
//! it failed, with the last lines an app wrote); they are never part of a signal, for signals are for everybody.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use zbus::{Message, ObjectPath, OwnedObjectPath, Variant};

use crate::api::names::{self, MANAGER_INTERFACE, MANAGER_PATH};
use crate::api::{AppView, JobState, JobView, ProcessView};
use crate::daemon::Change;

/// An object of the tree. The order is that in which objects are announced: an app before its processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Object {
    Manager,
    App(u32),
    Process(u32),
    Job(u32),
}

impl Object {
    /// Its own interface.
    pub(super) fn interface(self) -> &'static str {
        match self {
            Object::Manager => MANAGER_INTERFACE,
            Object::App(_) => names::APP_INTERFACE,
            Object::Process(_) => names::PROCESS_INTERFACE,
            Object::Job(_) => names::JOB_INTERFACE,
        }
    }
}

/// Names and values, always in the same order for the same kind of object.
pub(super) type Properties = Vec<(&'static str, Variant<'static>)>;

/// What does not change while the daemon runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManagerInfo {
    /// The daemon's version.
    pub version: String,
    /// `system`, `user` or `private`.
    pub mode: String,
    /// Where it keeps its files.
    pub home: String,
    /// Its process id.
    pub pid: u32,
}

#[derive(Debug)]
struct App {
    view: AppView,
    path: OwnedObjectPath,
}

/// An object as it was announced.
#[derive(Debug)]
struct Announced {
    path: OwnedObjectPath,
    properties: Properties,
    job_state: Option<JobState>,
}

/// All objects.
#[derive(Debug)]
pub(super) struct Tree {
    info: ManagerInfo,
    apps: BTreeMap<u32, App>,
    app_paths: HashMap<String, u32>,
    processes: BTreeMap<u32, ProcessView>,
    jobs: BTreeMap<u32, JobView>,
    /// Objects touched since the last announcement, each as it was then; `None` for those that did not exist.
    touched: BTreeMap<Object, Option<Announced>>,
    events: Vec<Message>,
    counts: Properties,
}

impl Tree {
    pub(super) fn new(info: ManagerInfo) -> Tree {
        let mut tree = Tree {
            info,
            apps: BTreeMap::new(),
            app_paths: HashMap::new(),
            processes: BTreeMap::new(),
            jobs: BTreeMap::new(),
            touched: BTreeMap::new(),
            events: Vec::new(),
            counts: Vec::new(),
        };
        tree.counts = tree.manager_counts();
        tree
    }

    /// Takes in one change.
    pub(super) fn apply(&mut self, change: Change) {
        match change {
            Change::App(view) => self.set_app(view),
            Change::AppRemoved(id) => self.remove(Object::App(id)),
            Change::Process(view) => {
                self.touch(Object::Process(view.id));
                self.processes.insert(view.id, view);
            }
            Change::ProcessRemoved(id) => self.remove(Object::Process(id)),
            Change::Job(view) => {
                self.touch(Object::Job(view.id));
                self.jobs.insert(view.id, view);
            }
            Change::JobRemoved(id) => self.remove(Object::Job(id)),
            Change::Event { process, name, event, manually, at } => {
                let body = (process, name, event, manually, at);
                let built = Message::signal(MANAGER_PATH, MANAGER_INTERFACE, "ProcessEvent").build(&body);
                self.events.extend(built.inspect_err(not_sent).ok());
            }
        }
    }

    /// Takes in everything anew: what is not in the lists is gone.
    pub(super) fn replace(&mut self, apps: Vec<AppView>, processes: Vec<ProcessView>, jobs: Vec<JobView>) {
        let kept: BTreeSet<Object> = (apps.iter().map(|view| Object::App(view.id)))
            .chain(processes.iter().map(|view| Object::Process(view.id)))
            .chain(jobs.iter().map(|view| Object::Job(view.id)))
            .collect();
        let gone: Vec<Object> = self.objects().filter(|object| !kept.contains(object)).collect();
        gone.into_iter().for_each(|object| self.remove(object));
        let views = (apps.into_iter().map(Change::App))
            .chain(processes.into_iter().map(Change::Process))
            .chain(jobs.into_iter().map(Change::Job));
        views.for_each(|change| self.apply(change));
    }

    fn set_app(&mut self, view: AppView) {
        let id = view.id;
        self.touch(Object::App(id));
        if let Some(app) = self.apps.get_mut(&id) {
            app.view = view;
            return;
        }
        let plain = names::app_path(&view.name);
        let path =
            if self.app_paths.contains_key(plain.as_str()) { names::app_path_with_id(&view.name, id) } else { plain };
        self.touch_processes_of(id);
        self.app_paths.insert(path.to_string(), id);
        self.apps.insert(id, App { view, path });
    }

    fn remove(&mut self, object: Object) {
        self.touch(object);
        match object {
            Object::Manager => {}
            Object::App(id) => {
                self.touch_processes_of(id);
                if let Some(app) = self.apps.remove(&id) {
                    self.app_paths.remove(app.path.as_str());
                }
            }
            Object::Process(id) => {
                self.processes.remove(&id);
            }
            Object::Job(id) => {
                self.jobs.remove(&id);
            }
        }
    }

    /// Remembers an object as it is, once between two announcements.
    fn touch(&mut self, object: Object) {
        if !self.touched.contains_key(&object) {
            let announced = self.now(object);
            self.touched.insert(object, announced);
        }
    }

    /// An app's path is a property of its processes.
    fn touch_processes_of(&mut self, app: u32) {
        let of_app = self.processes.values().filter(|view| view.app == app);
        let objects: Vec<Object> = of_app.map(|view| Object::Process(view.id)).collect();
        objects.into_iter().for_each(|object| self.touch(object));
    }

    fn now(&self, object: Object) -> Option<Announced> {
        let path = self.path(object)?;
        let properties = self.properties(object, Audience::Everybody)?;
        let job_state = match object {
            Object::Job(id) => self.jobs.get(&id).map(|view| view.state),
            _ => None,
        };
        Some(Announced { path, properties, job_state })
    }

    /// The signals that tell of what happened since the last call. An object that changed ten times meanwhile is
    /// told of once.
    pub(super) fn announce(&mut self) -> Vec<Message> {
        // What goes is told of first: its path may be another's by now.
        let (mut gone, mut news) = (Vec::new(), Vec::new());
        for (object, before) in std::mem::take(&mut self.touched) {
            let now = self.now(object);
            if let Object::Job(_) = object {
                news.extend(job_signals(before.as_ref(), now.as_ref()));
            }
            match (before, now) {
                (Some(before), Some(now)) if before.path == now.path => {
                    let changed = now.properties.iter().zip(&before.properties).filter(|(now, before)| now != before);
                    news.extend(changed_signal(object, &now.path, changed.map(|(now, _)| now)));
                }
                (before, now) => {
                    gone.extend(before.and_then(|before| removed(object, &before.path)));
                    news.extend(now.and_then(|now| added(object, &now.path, &now.properties)));
                }
            }
        }
        let counts = self.manager_counts();
        let changed = counts.iter().zip(&self.counts).filter(|(now, before)| now != before).map(|(now, _)| now);
        news.extend(changed_signal(Object::Manager, &manager_path(), changed));
        self.counts = counts;
        news.extend(std::mem::take(&mut self.events));
        gone.append(&mut news);
        gone
    }

    /// The signals that tell a listener who missed some of everything there is.
    pub(super) fn announce_all(&self) -> Vec<Message> {
        let added = self.objects().filter_map(|object| {
            let now = self.now(object)?;
            added(object, &now.path, &now.properties)
        });
        let counts = changed_signal(Object::Manager, &manager_path(), self.counts.iter());
        added.chain(counts).collect()
    }

    /// All objects but the manager.
    pub(super) fn objects(&self) -> impl Iterator<Item = Object> + '_ {
        (self.apps.keys().map(|id| Object::App(*id)))
            .chain(self.processes.keys().map(|id| Object::Process(*id)))
            .chain(self.jobs.keys().map(|id| Object::Job(*id)))
    }

    /// The object of that path.
    pub(super) fn find(&self, path: &ObjectPath<'_>) -> Option<Object> {
        let path = path.as_str();
        if path == MANAGER_PATH {
            return Some(Object::Manager);
        }
        if let Some(id) = names::process_id(path) {
            return self.processes.contains_key(&id).then_some(Object::Process(id));
        }
        if let Some(id) = names::job_id(path) {
            return self.jobs.contains_key(&id).then_some(Object::Job(id));
        }
        self.app_paths.get(path).map(|id| Object::App(*id))
    }

    /// The path of an object that exists.
    pub(super) fn path(&self, object: Object) -> Option<OwnedObjectPath> {
        match object {
            Object::Manager => Some(manager_path()),
            Object::App(id) => self.apps.get(&id).map(|app| app.path.clone()),
            Object::Process(id) => self.processes.contains_key(&id).then(|| names::process_path(id)),
            Object::Job(id) => self.jobs.contains_key(&id).then(|| names::job_path(id)),
        }
    }

    /// Elements that follow `path` in the paths of objects; `None` when nothing is there.
    pub(super) fn children(&self, path: &str) -> Option<Vec<String>> {
        let one = |name: &str| Some(vec![name.to_owned()]);
        match path {
            "/" => one("org"),
            "/org" => one("pm2rs1"),
            MANAGER_PATH => Some(["app", "process", "job"].map(str::to_owned).into()),
            "/org/pm2rs1/app" => {
                let names = self.apps.values().filter_map(|app| app.path.as_str().rsplit('/').next());
                Some(names.map(str::to_owned).collect())
            }
            "/org/pm2rs1/process" => Some(self.processes.keys().map(u32::to_string).collect()),
            "/org/pm2rs1/job" => Some(self.jobs.keys().map(u32::to_string).collect()),
            _ => None,
        }
    }

    pub(super) fn app(&self, id: u32) -> Option<&AppView> {
        self.apps.get(&id).map(|app| &app.view)
    }

    pub(super) fn job(&self, id: u32) -> Option<&JobView> {
        self.jobs.get(&id)
    }

    /// An object's properties.
    pub(super) fn properties(&self, object: Object, audience: Audience) -> Option<Properties> {
        match object {
            Object::Manager => {
                let info = &self.info;
                let mut properties = vec![
                    ("Version", info.version.clone().into()),
                    ("Mode", info.mode.clone().into()),
                    ("Pid", info.pid.into()),
                    ("Home", info.home.clone().into()),
                ];
                properties.extend(self.manager_counts());
                Some(properties)
            }
            Object::App(id) => self.apps.get(&id).map(|app| app_properties(&app.view)),
            Object::Process(id) => self.processes.get(&id).map(|view| self.process_properties(view)),
            Object::Job(id) => self.jobs.get(&id).map(|view| job_properties(view, audience)),
        }
    }

    fn manager_counts(&self) -> Properties {
        let count = |number: usize| Variant::from(u32::try_from(number).unwrap_or(u32::MAX));
        let online = self.processes.values().filter(|view| view.status == "online").count();
        vec![("Apps", count(self.apps.len())), ("Processes", count(self.processes.len())), ("Online", count(online))]
    }

    fn process_properties(&self, view: &ProcessView) -> Properties {
        let app = self.apps.get(&view.app).map(|app| app.path.clone());
        let app = app.map_or(ObjectPath::from_static_str_unchecked("/"), OwnedObjectPath::into_inner);
        vec![
            ("Id", view.id.into()),
            ("App", app.into()),
            ("Name", view.name.clone().into()),
            ("Namespace", view.namespace.clone().into()),
            ("Owner", view.owner.into()),
            ("Instance", view.instance.into()),
            ("Status", view.status.clone().into()),
            ("State", view.state.clone().into()),
            ("Pid", view.pid.into()),
            ("Restarts", view.restarts.into()),
            ("UnstableRestarts", view.unstable_restarts.into()),
            ("StartedAt", view.started_at.into()),
            ("CreatedAt", view.created_at.into()),
            ("ExitCode", view.exit_code.into()),
            ("ExitSignal", view.exit_signal.clone().into()),
            ("Reason", view.reason.clone().into()),
        ]
    }
}

/// Who is to see an object's properties.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Audience {
    /// Anybody on the bus.
    Everybody,
    /// Whoever controls the object.
    Owner,
}

fn app_properties(view: &AppView) -> Properties {
    let processes: Vec<ObjectPath<'static>> =
        view.processes.iter().map(|id| names::process_path(*id).into_inner()).collect();
    vec![
        ("Name", view.name.clone().into()),
        ("Namespace", view.namespace.clone().into()),
        ("Owner", view.owner.into()),
        ("Mode", view.mode.clone().into()),
        ("Instances", view.instances.into()),
        ("Status", view.status.clone().into()),
        ("Processes", processes.into()),
    ]
}

fn job_properties(view: &JobView, audience: Audience) -> Properties {
    let mut properties: Properties = vec![
        ("Id", view.id.into()),
        ("Kind", view.kind.clone().into()),
        ("State", view.state.as_str().into()),
        ("Done", view.done.into()),
        ("Total", view.total.into()),
    ];
    if audience == Audience::Owner {
        properties.push(("Target", view.target.clone().into()));
        properties.push(("Message", view.message.clone().into()));
    }
    properties
}

fn manager_path() -> OwnedObjectPath {
    ObjectPath::from_static_str_unchecked(MANAGER_PATH).into()
}

/// What the manager says of a job: that it is there, how it ended.
fn job_signals(before: Option<&Announced>, now: Option<&Announced>) -> impl Iterator<Item = Message> {
    let state_before = before.and_then(|job| job.job_state);
    let new = now.filter(|_| before.is_none()).map(|job| signal("JobNew", &job.path));
    let ended = now.and_then(|job| {
        let state = job.job_state.filter(|state| *state != JobState::Running)?;
        let news = state_before.is_none_or(|before| before == JobState::Running);
        news.then(|| signal("JobRemoved", &(&job.path, state.as_str())))
    });
    new.into_iter().chain(ended).flatten()
}

fn signal<B: serde::Serialize + zbus::wire::DynamicType>(member: &'static str, body: &B) -> Option<Message> {
    Message::signal(MANAGER_PATH, MANAGER_INTERFACE, member).build(body).inspect_err(not_sent).ok()
}

fn added(object: Object, path: &OwnedObjectPath, properties: &Properties) -> Option<Message> {
    let properties: BTreeMap<&str, &Variant<'_>> = properties.iter().map(|(name, value)| (*name, value)).collect();
    let body = (path, BTreeMap::from([(object.interface(), properties)]));
    let builder = Message::signal(MANAGER_PATH, "org.freedesktop.DBus.ObjectManager", "InterfacesAdded");
    builder.build(&body).inspect_err(not_sent).ok()
}

fn removed(object: Object, path: &OwnedObjectPath) -> Option<Message> {
    let builder = Message::signal(MANAGER_PATH, "org.freedesktop.DBus.ObjectManager", "InterfacesRemoved");
    builder.build(&(path, [object.interface()].as_slice())).inspect_err(not_sent).ok()
}

fn changed_signal<'t>(
    object: Object,
    path: &OwnedObjectPath,
    changed: impl Iterator<Item = &'t (&'static str, Variant<'static>)>,
) -> Option<Message> {
    let changed: BTreeMap<&str, &Variant<'_>> = changed.map(|(name, value)| (*name, value)).collect();
    if changed.is_empty() {
        return None;
    }
    let body = (object.interface(), changed, [].as_slice() as &[&str]);
    let builder = Message::signal(path.as_ref(), "org.freedesktop.DBus.Properties", "PropertiesChanged");
    builder.build(&body).inspect_err(not_sent).ok()
}

/// Only a signal above D-Bus's limit of 128 MiB cannot be built.
fn not_sent(error: &zbus::Error) {
    tracing::error!(%error, "cannot send a signal");
}

#[cfg(test)]
#[path = "tree_tests.rs"]
mod tests;
