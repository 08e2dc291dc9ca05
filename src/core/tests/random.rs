//! Random requests, a kernel and a clock that do what they like, and what must hold whatever they do.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::simulator::{Os, Simulator};
use crate::core::*;

#[derive(Debug, Clone)]
enum Op {
    Start(Box<AppSpec>),
    Restart(u8, bool),
    Reload(u8, bool, Option<u32>),
    Stop(u8),
    Delete(u8),
    Scale(u8, u32),
    Reset(u8),
    Cancel(u8),
    Trigger(u8, bool),
    /// What was saved is wanted once more.
    Restore,
    Shutdown,
    Spawned(u8),
    SpawnFails(u8, bool),
    Online(u8),
    Listening(u8),
    Told(u8),
    Probed(u8),
    Starved(u8, u64),
    Drained(u8),
    Exits(u8, i32, bool),
    LeftoversGone(u8),
    /// Everybody who was asked to end does.
    Obey,
    /// Everybody who is starting gets ready.
    AllReady,
    Pass(u64),
    /// The daemon is replaced by another that takes the serialised fleet over.
    TakeOver,
    /// Something about a worker that may not be there.
    Stray(u32, u8),
}

fn spec() -> impl Strategy<Value = AppSpec> {
    let mode = prop_oneof![1 => Just(ExecMode::Fork), 3 => Just(ExecMode::Cluster)];
    let probe = prop_oneof![
        4 => Just(None),
        1 => Just(Some(Probe { kind: ProbeKind::Tcp("127.0.0.1:80".into()), interval: 1, timeout: 1, count: 1 })),
        1 => Just(Some(Probe { kind: ProbeKind::Exec(vec!["true".into()]), interval: 1, timeout: 1, count: 1 })),
    ];
    let numbers = (1..5i32, 1..4u32, 0..2u64, prop_oneof![Just(0u64), Just(500), Just(10_000)], 0..3u32);
    let flags = (any::<bool>(), prop::bool::weighted(0.9), prop::bool::weighted(0.9), any::<bool>());
    (mode, probe, numbers, flags, "[ab]").prop_map(|(exec_mode, probe, numbers, flags, name)| {
        let (instances, reload_batch, uptime, drain_timeout, restarts) = numbers;
        let (wait_ready, autorestart, autostart, keep) = flags;
        AppSpec {
            name,
            exec_mode,
            probe,
            instances: Instances(instances),
            reload_batch,
            min_uptime: uptime * 1000,
            max_restarts: restarts * 4,
            drain_timeout,
            wait_ready,
            autorestart,
            autostart,
            stop_exit_codes: vec![7],
            on_reload_failure: if keep { OnReloadFailure::Keep } else { OnReloadFailure::Rollback },
            ..AppSpec::default()
        }
    })
}

fn op() -> impl Strategy<Value = Op> {
    let who = any::<u8>;
    prop_oneof![
        3 => spec().prop_map(|spec| Op::Start(Box::new(spec))),
        2 => (who(), any::<bool>()).prop_map(|(who, update)| Op::Restart(who, update)),
        6 => (who(), any::<bool>(), prop::option::of(1..4u32)).prop_map(|(who, update, batch)| Op::Reload(who, update, batch)),
        2 => who().prop_map(Op::Stop),
        2 => who().prop_map(Op::Delete),
        2 => (who(), 1..6u32).prop_map(|(who, count)| Op::Scale(who, count)),
        1 => who().prop_map(Op::Reset),
        2 => who().prop_map(Op::Cancel),
        2 => (who(), any::<bool>()).prop_map(|(who, graceful)| Op::Trigger(who, graceful)),
        1 => Just(Op::Restore),
        10 => who().prop_map(Op::Spawned),
        2 => (who(), any::<bool>()).prop_map(|(who, transient)| Op::SpawnFails(who, transient)),
        5 => who().prop_map(Op::Online),
        5 => who().prop_map(Op::Listening),
        5 => who().prop_map(Op::Told),
        3 => who().prop_map(Op::Probed),
        2 => (who(), 0..100_000u64).prop_map(|(worker, ms)| Op::Starved(worker, ms)),
        5 => who().prop_map(Op::Drained),
        8 => (who(), prop_oneof![Just(0), Just(1), Just(7)], any::<bool>()).prop_map(|(who, code, left)| Op::Exits(who, code, left)),
        4 => who().prop_map(Op::LeftoversGone),
        4 => Just(Op::Obey),
        6 => Just(Op::AllReady),
        8 => prop_oneof![Just(1u64), Just(100), Just(1600), Just(3000), Just(20_000)].prop_map(Op::Pass),
        1 => Just(Op::TakeOver),
        2 => (0..30u32, 0..8u8).prop_map(|(worker, what)| Op::Stray(worker, what)),
    ]
}

/// The rows an operation is about: one, all of an app, or all.
fn rows(sim: &Simulator, who: u8) -> Vec<ProcessId> {
    let all: Vec<_> = sim.fleet.processes().collect();
    let Some(one) = pick(&all, who / 4) else { return Vec::new() };
    match who % 4 {
        0 | 1 => all.iter().filter(|row| row.app == one.app).map(|row| row.id).collect(),
        2 => vec![one.id],
        _ => all.iter().map(|row| row.id).collect(),
    }
}

fn pick<T>(among: &[T], who: u8) -> Option<&T> {
    among.get(usize::from(who) % among.len().max(1))
}

fn worker(sim: &Simulator, who: u8, os: &[Os]) -> Option<WorkerId> {
    let among: Vec<_> = sim.workers.iter().filter(|(_, paper)| os.contains(&paper.os)).map(|(id, _)| *id).collect();
    pick(&among, who).copied()
}

fn update(sim: &Simulator, rows: &[ProcessId], wanted: bool) -> BTreeMap<AppId, Arc<AppSpec>> {
    let apps = rows.iter().filter(|_| wanted).map(|row| sim.fleet.app(sim.fleet.process(*row).unwrap().app).unwrap());
    let next = |app: &App| {
        let mut spec = AppSpec::clone(app.spec());
        spec.args = vec![format!("release made at {}", sim.opened.len())];
        (app.id, Arc::new(spec))
    };
    apps.map(next).collect()
}

fn run(sim: &mut Simulator, op: Op) {
    let job = sim.next_job();
    match op {
        Op::Start(spec) => {
            if sim.fleet.apps().count() < 4 {
                sim.send(Event::AppStartRequested { job, spec: Arc::new(*spec), owner: Uid(0) });
            }
        }
        Op::Restart(who, new) => {
            let processes = rows(sim, who);
            let update = update(sim, &processes, new);
            sim.send(Event::RestartRequested { job, processes, update });
        }
        Op::Reload(who, new, batch) => {
            let processes = rows(sim, who);
            let update = update(sim, &processes, new);
            sim.send(Event::ReloadRequested { job, processes, update, options: ReloadOptions { batch } });
        }
        Op::Stop(who) => {
            let processes = rows(sim, who);
            sim.send(Event::StopRequested { job, processes });
        }
        Op::Delete(who) => {
            let processes = rows(sim, who);
            sim.send(Event::DeleteRequested { job, processes });
        }
        Op::Scale(who, instances) => {
            let apps: Vec<_> = sim.fleet.apps().map(|app| app.id).collect();
            if let Some(app) = pick(&apps, who) {
                sim.send(Event::ScaleRequested { job, app: *app, instances });
            }
        }
        Op::Reset(who) => {
            let processes = rows(sim, who);
            sim.send(Event::ResetRequested { processes });
        }
        Op::Cancel(who) => {
            let jobs: Vec<_> = sim.fleet.jobs().map(|job| job.id).collect();
            if let Some(job) = pick(&jobs, who) {
                sim.send(Event::JobCancelRequested { job: *job });
            }
        }
        Op::Trigger(who, graceful) => {
            if let Some(process) = rows(sim, who).first() {
                sim.send(Event::RestartTriggered {
                    process: *process,
                    cause: RestartCause::Schedule,
                    reason: "cron".into(),
                    graceful,
                });
            }
        }
        Op::Restore => {
            if sim.fleet.apps().count() < 4 {
                sim.send(Event::RestoreRequested { job, apps: sim.fleet.saved() });
            }
        }
        Op::Shutdown => sim.send(Event::ShutdownRequested { job }),
        Op::Spawned(who) => {
            if let Some(worker) = worker(sim, who, &[Os::Ordered]) {
                sim.spawned(worker);
            }
        }
        Op::SpawnFails(who, transient) => {
            if let Some(worker) = worker(sim, who, &[Os::Ordered]) {
                sim.spawn_fails(worker, transient);
            }
        }
        Op::Online(who) => {
            if let Some(worker) = worker(sim, who, &[Os::Alive]) {
                sim.send(Event::WorkerOnline { worker });
            }
        }
        Op::Listening(who) => {
            if let Some(worker) = worker(sim, who, &[Os::Alive]) {
                sim.send(Event::WorkerListening { worker });
            }
        }
        Op::Told(who) => {
            if let Some(worker) = worker(sim, who, &[Os::Alive]) {
                sim.send(Event::ReadyReceived { worker });
            }
        }
        Op::Probed(who) => {
            if let Some(worker) = worker(sim, who, &[Os::Alive]) {
                sim.send(Event::ProbeSucceeded { worker });
            }
        }
        Op::Starved(who, ms) => {
            if let Some(worker) = worker(sim, who, &[Os::Alive, Os::Leftovers, Os::Gone]) {
                sim.send(Event::CpuAwaited { worker, ms });
            }
        }
        Op::Drained(who) => {
            if let Some(worker) = worker(sim, who, &[Os::Alive]) {
                sim.send(Event::WorkerDrained { worker });
            }
        }
        Op::Exits(who, code, left) => {
            if let Some(worker) = worker(sim, who, &[Os::Alive]) {
                if left {
                    sim.exits_with_leftovers(worker, Exit::Code(code));
                } else {
                    sim.exits(worker, Exit::Code(code));
                }
            }
        }
        Op::LeftoversGone(who) => {
            if let Some(worker) = worker(sim, who, &[Os::Leftovers]) {
                sim.leftovers_gone(worker);
            }
        }
        Op::Obey => {
            let asked = |paper: &super::simulator::Paper| paper.os == Os::Alive && (paper.terminated || paper.killed);
            let asked: Vec<_> = sim.workers.iter().filter(|(_, paper)| asked(paper)).map(|(id, _)| *id).collect();
            for worker in asked {
                sim.exits(worker, Exit::Signal(2));
            }
        }
        Op::AllReady => {
            let ordered = sim.workers.iter().filter(|(_, paper)| paper.os == Os::Ordered);
            let ordered: Vec<_> = ordered.map(|(id, _)| *id).collect();
            for worker in ordered {
                sim.ready(worker);
            }
        }
        Op::Pass(ms) => sim.pass(ms),
        Op::TakeOver => take_over(sim),
        Op::Stray(worker, what) => {
            let worker = WorkerId(worker);
            if sim.workers.contains_key(&worker) {
                return;
            }
            sim.send(match what {
                0 => Event::WorkerSpawned { worker, pid: 1 },
                1 => Event::WorkerOnline { worker },
                2 => Event::WorkerListening { worker },
                3 => Event::ReadyReceived { worker },
                4 => Event::WorkerDrained { worker },
                5 => Event::WorkerExited { worker, exit: Exit::Unknown, leftovers: true },
                6 => Event::LeftoversGone { worker },
                _ => Event::TimerElapsed { timer: Timer::Kill(worker) },
            });
        }
    }
}

fn take_over(sim: &mut Simulator) {
    let text = serde_json::to_string(&sim.fleet).unwrap();
    sim.fleet = serde_json::from_str(&text).unwrap();
    let actions = sim.fleet.rearm(Now { mono: Time(sim.now), wall: 1_000_000 + sim.now });
    let mut timers = BTreeMap::new();
    for action in actions {
        match action {
            Action::ArmTimer { timer, at } => assert!(timers.insert(timer, at).is_none()),
            Action::DrainWorker { worker, .. } => assert!(sim.workers[&worker].draining),
            Action::StartProbe { worker } => assert!(sim.workers[&worker].probing),
            other => panic!("{other:?} is no matter of taking over"),
        }
    }
    assert_eq!(timers, sim.timers, "the timers can be had again");
}

/// What was asked for is what there is, once nothing happens any more.
fn check_rest(sim: &Simulator) {
    let open: Vec<_> = sim.fleet.jobs().collect();
    assert!(open.is_empty(), "every job has ended: {open:?} of {:?}", sim.fleet.processes().collect::<Vec<_>>());
    assert!(sim.timers.is_empty());
    for row in sim.fleet.processes() {
        assert!(row.incoming.is_none() && row.outgoing.is_empty(), "{row:?}");
        let spec = sim.fleet.spec_of_process(row.id).unwrap();
        let may_have_ended = !spec.autorestart || row.last_exit == Some(Exit::Code(7));
        let fits = match row.desired {
            Desired::Running => match row.state {
                State::Ready => true,
                State::Stopped => may_have_ended,
                State::Errored => !row.reason.is_empty(),
                _ => false,
            },
            Desired::Stopped => row.state == State::Stopped || row.state == State::Errored,
            Desired::Removed => false,
        };
        assert!(fits, "{row:?}");
    }
    for app in sim.fleet.apps() {
        let release = app.release;
        assert!(sim.fleet.processes_of(app.id).all(|row| row.release <= release || row.state != State::Starting));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, max_shrink_iters: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_what_was_asked_for_is_what_comes_of_it(ops in prop::collection::vec(op(), 1..150)) {
        let mut sim = Simulator { now: 100_000, ..Simulator::default() };
        for op in ops {
            run(&mut sim, op);
        }
        sim.settle();
        check_rest(&sim);
    }

    #[test]
    fn a_shutdown_ends_everything_and_forgets_no_wish(ops in prop::collection::vec(op(), 1..60), after in prop::collection::vec(op(), 0..20)) {
        let mut sim = Simulator { now: 100_000, ..Simulator::default() };
        for op in ops {
            run(&mut sim, op);
        }
        let wishes = |sim: &Simulator| -> Vec<_> {
            sim.fleet.processes().filter(|row| row.desired != Desired::Removed).map(|row| (row.id, row.desired)).collect()
        };
        let before = wishes(&sim);
        run(&mut sim, Op::Shutdown);
        let asks = |op: &Op| matches!(op, Op::Delete(_) | Op::Stop(_) | Op::Cancel(_));
        for op in after.into_iter().filter(|op| !asks(op)) {
            run(&mut sim, op);
        }
        sim.settle();
        prop_assert!(sim.exited && sim.workers.is_empty());
        // A row whose deletion failed, its worker being unkillable, is back among them.
        let after: Vec<_> = wishes(&sim).into_iter().filter(|(id, _)| before.iter().any(|(known, _)| known == id)).collect();
        prop_assert_eq!(after, before);
    }
}
