#![allow(clippy::unwrap_used)]

use super::*;

fn info() -> ManagerInfo {
    ManagerInfo { version: "1.2.3".into(), mode: "private".into(), home: "/home/a".into(), pid: 1 }
}

fn app(id: u32, name: &str) -> AppView {
    AppView {
        id,
        name: name.into(),
        namespace: "default".into(),
        owner: 1000,
        mode: "fork_mode".into(),
        instances: 1,
        status: "online".into(),
        processes: vec![id],
    }
}

fn process(id: u32, status: &str) -> ProcessView {
    ProcessView {
        id,
        app: id,
        name: "api".into(),
        namespace: "default".into(),
        owner: 1000,
        instance: 0,
        status: status.into(),
        state: "ready".into(),
        pid: 0,
        restarts: 0,
        unstable_restarts: 0,
        started_at: 0,
        created_at: 0,
        exit_code: -1,
        exit_signal: String::new(),
        reason: String::new(),
    }
}

fn job(id: u32, state: JobState) -> JobView {
    JobView {
        id,
        kind: "start".into(),
        target: "/home/a/secret.js".into(),
        owner: 1000,
        state,
        done: 0,
        total: 1,
        message: "its last words".into(),
        warnings: Vec::new(),
    }
}

/// Member, path and body of each signal, as text.
fn told(signals: &[Message]) -> Vec<String> {
    let describe = |message: &Message| {
        let header = message.header();
        let body = message.body();
        let body: zbus::wire::Structure<'_> = body.deserialize().unwrap_or_else(|_| {
            let path: ObjectPath<'_> = message.body().deserialize::<ObjectPath<'_>>().unwrap().into_owned();
            zbus::wire::StructureBuilder::new().add_field(path).build().unwrap()
        });
        format!("{} {} {}", header.member().unwrap(), header.path().unwrap(), Variant::from(body))
    };
    signals.iter().map(describe).collect()
}

#[test]
fn an_object_that_changed_often_is_told_of_once() {
    let mut tree = Tree::new(info());
    tree.apply(Change::App(app(0, "api")));
    tree.apply(Change::Process(process(0, "launching")));
    tree.announce();
    for status in ["online", "stopping", "stopped"] {
        tree.apply(Change::Process(process(0, status)));
    }
    let told = told(&tree.announce());
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].starts_with("PropertiesChanged /org/pm2rs1/process/0"), "{told:?}");
    assert!(told[0].contains("stopped") && !told[0].contains("online") && !told[0].contains("Owner"), "{told:?}");
}

#[test]
fn what_is_as_it_was_is_not_told_of() {
    let mut tree = Tree::new(info());
    tree.apply(Change::Process(process(0, "online")));
    tree.announce();
    tree.apply(Change::Process(process(0, "stopped")));
    tree.apply(Change::Process(process(0, "online")));
    assert!(tree.announce().is_empty());
    tree.apply(Change::Process(process(1, "online")));
    tree.apply(Change::ProcessRemoved(1));
    assert!(tree.announce().is_empty());
}

#[test]
fn objects_come_and_go_with_the_manager_counting() {
    let mut tree = Tree::new(info());
    tree.apply(Change::App(app(0, "my api")));
    tree.apply(Change::Process(process(0, "online")));
    let come = told(&tree.announce());
    assert!(come[0].starts_with("InterfacesAdded /org/pm2rs1 ") && come[0].contains("/app/my_20api"), "{come:?}");
    assert!(come[1].contains("/process/0"), "{come:?}");
    assert!(come[2].starts_with("PropertiesChanged /org/pm2rs1 ") && come[2].contains("Online"), "{come:?}");
    tree.apply(Change::ProcessRemoved(0));
    tree.apply(Change::AppRemoved(0));
    let gone = told(&tree.announce());
    assert!(gone[0].starts_with("InterfacesRemoved") && gone[0].contains("/app/my_20api"), "{gone:?}");
    assert!(tree.find(&names::process_path(0)).is_none());
}

#[test]
fn a_job_is_announced_and_its_result_but_not_its_secrets() {
    let mut tree = Tree::new(info());
    tree.apply(Change::Job(job(7, JobState::Running)));
    let begun = told(&tree.announce());
    assert!(begun[0].starts_with("JobNew") && begun[1].starts_with("InterfacesAdded"), "{begun:?}");
    tree.apply(Change::Job(job(7, JobState::Failed)));
    let ended = told(&tree.announce());
    assert!(ended[0].starts_with("JobRemoved") && ended[0].contains("failed"), "{ended:?}");
    assert!(!format!("{begun:?}{ended:?}").contains("secret"));
    assert!(!format!("{begun:?}{ended:?}").contains("last words"));
    let names = |audience| {
        let properties = tree.properties(Object::Job(7), audience).unwrap();
        properties.iter().map(|(name, _)| *name).collect::<Vec<_>>()
    };
    assert!(!names(Audience::Everybody).contains(&"Message"));
    assert!(names(Audience::Owner).contains(&"Message"));
    tree.apply(Change::JobRemoved(7));
    let removed = told(&tree.announce());
    assert_eq!(removed.len(), 1, "{removed:?}");
}

#[test]
fn a_job_that_ends_at_once_is_new_and_ended() {
    let mut tree = Tree::new(info());
    tree.apply(Change::Job(job(1, JobState::Running)));
    tree.apply(Change::Job(job(1, JobState::Done)));
    let told = told(&tree.announce());
    assert!(told[0].starts_with("JobNew") && told[1].starts_with("JobRemoved"), "{told:?}");
}

#[test]
fn two_apps_of_a_name_have_two_paths_that_stay() {
    let mut tree = Tree::new(info());
    tree.apply(Change::App(app(0, "api")));
    tree.apply(Change::App(app(1, "api")));
    assert_eq!(tree.path(Object::App(1)).unwrap().as_str(), "/org/pm2rs1/app/api__1");
    tree.apply(Change::AppRemoved(0));
    tree.apply(Change::App(app(1, "api")));
    assert_eq!(tree.path(Object::App(1)).unwrap().as_str(), "/org/pm2rs1/app/api__1");
    tree.apply(Change::App(app(2, "api")));
    assert_eq!(tree.path(Object::App(2)).unwrap().as_str(), "/org/pm2rs1/app/api");
}

#[test]
fn a_new_snapshot_tells_only_of_what_differs() {
    let mut tree = Tree::new(info());
    tree.replace(vec![app(0, "a"), app(1, "b")], vec![process(0, "online"), process(1, "online")], Vec::new());
    tree.announce();
    tree.replace(vec![app(0, "a"), app(2, "c")], vec![process(0, "online"), process(2, "stopped")], Vec::new());
    let told = told(&tree.announce());
    assert!(told.iter().all(|line| !line.contains("process/0")), "{told:?}");
    assert_eq!(told.iter().filter(|line| line.starts_with("InterfacesRemoved")).count(), 2, "{told:?}");
    assert_eq!(told.iter().filter(|line| line.starts_with("InterfacesAdded")).count(), 2, "{told:?}");
}

#[test]
fn what_cannot_be_an_object_is_none() {
    let tree = Tree::new(info());
    for path in ["/", "/org", "/org/pm2rs1/app", "/org/pm2rs1/app/x", "/org/pm2rs1/process/0", "/org/pm2rs1/job/1"] {
        assert_eq!(tree.find(&ObjectPath::try_from(path).unwrap()), None, "{path}");
    }
    assert_eq!(tree.children("/org/pm2rs1/process"), Some(Vec::new()));
    assert_eq!(tree.children("/com"), None);
}

/// What a listener knows who believes the signals: properties by path.
type Mirror = BTreeMap<String, BTreeMap<String, String>>;

fn believe(mirror: &mut Mirror, signal: &Message) {
    let text = |properties: &HashMap<&str, Variant<'_>>| {
        properties.iter().map(|(name, value)| ((*name).to_owned(), value.to_string())).collect::<BTreeMap<_, _>>()
    };
    let header = signal.header();
    let body = signal.body();
    match header.member().unwrap().as_str() {
        "InterfacesAdded" => {
            let (path, interfaces): (ObjectPath<'_>, HashMap<&str, HashMap<&str, Variant<'_>>>) =
                body.deserialize().unwrap();
            assert_eq!(interfaces.len(), 1);
            let known = mirror.insert(path.to_string(), text(interfaces.values().next().unwrap()));
            assert!(known.is_none(), "{path} came twice");
        }
        "InterfacesRemoved" => {
            let (path, _): (ObjectPath<'_>, Vec<&str>) = body.deserialize().unwrap();
            assert!(mirror.remove(path.as_str()).is_some(), "{path} went though it was not there");
        }
        "PropertiesChanged" => {
            let (_, changed, _): (&str, HashMap<&str, Variant<'_>>, Vec<&str>) = body.deserialize().unwrap();
            let path = header.path().unwrap().to_string();
            if path == MANAGER_PATH {
                mirror.entry(path).or_default().extend(text(&changed));
            } else {
                mirror.get_mut(&path).unwrap_or_else(|| panic!("{path} changed before it came")).extend(text(&changed));
            }
        }
        _ => {}
    }
}

/// What the tree says of all objects.
fn told_by_tree(tree: &Tree) -> Mirror {
    let text =
        |properties: Properties| properties.into_iter().map(|(name, value)| (name.to_owned(), value.to_string()));
    tree.objects()
        .map(|object| {
            let properties = tree.properties(object, Audience::Everybody).unwrap();
            (tree.path(object).unwrap().to_string(), text(properties).collect())
        })
        .collect()
}

fn any_change() -> impl proptest::strategy::Strategy<Value = Change> {
    use proptest::prelude::*;
    let name = prop_oneof![Just("a"), Just("b"), Just("a b")];
    let status = prop_oneof![Just("online"), Just("stopped"), Just("errored")];
    let state = prop_oneof![Just(JobState::Running), Just(JobState::Done), Just(JobState::Failed)];
    prop_oneof![
        (0_u32..5, name).prop_map(|(id, name)| Change::App(app(id, name))),
        (0_u32..5).prop_map(Change::AppRemoved),
        (0_u32..5, status).prop_map(|(id, status)| Change::Process(process(id, status))),
        (0_u32..5).prop_map(Change::ProcessRemoved),
        (0_u32..3, state).prop_map(|(id, state)| Change::Job(job(id, state))),
        (0_u32..3).prop_map(Change::JobRemoved),
    ]
}

proptest::proptest! {
    #[test]
    fn who_believes_the_signals_knows_the_tree(
        batches in proptest::collection::vec(proptest::collection::vec(any_change(), 0..8), 0..20),
        fresh in proptest::collection::vec(0_u32..5, 0..4),
    ) {
        let mut tree = Tree::new(info());
        let mut mirror = Mirror::new();
        let settle = |tree: &mut Tree, mirror: &mut Mirror| {
            tree.announce().iter().for_each(|signal| believe(mirror, signal));
            let mut known = mirror.clone();
            let counts = known.remove(MANAGER_PATH);
            assert_eq!(known, told_by_tree(tree));
            if let Some(processes) = counts.as_ref().and_then(|counts| counts.get("Processes")) {
                assert_eq!(*processes, Variant::from(u32::try_from(tree.processes.len()).unwrap()).to_string());
            }
        };
        for batch in batches {
            batch.into_iter().for_each(|change| tree.apply(change));
            settle(&mut tree, &mut mirror);
        }
        let apps: BTreeSet<u32> = fresh.into_iter().collect();
        let apps = apps.into_iter().map(|id| app(id, "a")).collect();
        tree.replace(apps, vec![process(4, "online")], Vec::new());
        settle(&mut tree, &mut mirror);
    }
}

#[test]
fn a_path_that_changes_hands_goes_before_it_comes() {
    let mut tree = Tree::new(info());
    tree.apply(Change::App(app(1, "api")));
    tree.announce();
    tree.apply(Change::AppRemoved(1));
    tree.apply(Change::App(app(0, "api")));
    let told = told(&tree.announce());
    assert!(told[0].starts_with("InterfacesRemoved") && told[1].starts_with("InterfacesAdded"), "{told:?}");
}
