//! Stories of starting: order, readiness, failures, ids and instance numbers.

use super::simulator::{P0, P1, Simulator, cluster, fork};
use crate::core::*;

fn tcp_probe() -> Probe {
    Probe { kind: ProbeKind::Tcp("127.0.0.1:3000".to_owned()), interval: 200, timeout: 1000, count: 1 }
}

#[test]
fn a_fork_app_is_online_as_soon_as_it_is_executed() {
    let mut sim = Simulator::default();
    let job = sim.start(fork());
    assert_eq!((sim.state(P0), sim.armed()), (State::Starting, vec![]));
    assert_eq!(sim.outcome(job), None);
    sim.spawned(WorkerId(1));
    assert_eq!((sim.state(P0), sim.armed()), (State::Ready, vec![]), "and no timer waits for anything");
    assert!(sim.is_done(job));
    assert_eq!(sim.announced, [(P0, "online", true), (P0, "start", true)]);
    assert!(sim.logged.contains(&(LogTopic::Online, "App [api:0] online".to_owned())));
}

#[test]
fn a_cluster_worker_is_online_when_node_runs_in_it() {
    let mut sim = Simulator::default();
    sim.start(cluster(1));
    sim.spawned(WorkerId(1));
    assert_eq!((sim.state(P0), sim.armed()), (State::Starting, vec![(Timer::Listen(WorkerId(1)), 3000)]));
    sim.send(Event::WorkerOnline { worker: WorkerId(1) });
    assert_eq!((sim.state(P0), sim.armed()), (State::Ready, vec![]));
}

#[test]
fn wait_ready_waits_for_the_word_and_not_for_a_socket() {
    let mut sim = Simulator::default();
    let job = sim.start(AppSpec { wait_ready: true, ..cluster(1) });
    sim.spawned(WorkerId(1));
    sim.send(Event::WorkerOnline { worker: WorkerId(1) });
    sim.send(Event::WorkerListening { worker: WorkerId(1) });
    assert_eq!(sim.state(P0), State::Starting);
    sim.send(Event::ReadyReceived { worker: WorkerId(1) });
    assert_eq!(sim.state(P0), State::Ready);
    assert!(sim.is_done(job));
}

#[test]
fn a_start_takes_silence_for_readiness_as_pm2_does_and_warns() {
    let mut sim = Simulator::default();
    let job = sim.start(AppSpec { wait_ready: true, listen_timeout: 500, ..fork() });
    sim.spawned(WorkerId(1));
    sim.pass(499);
    assert_eq!(sim.state(P0), State::Starting);
    sim.pass(1);
    assert_eq!(sim.state(P0), State::Ready);
    let warnings = vec!["`api` (process 0) was not ready within 500 ms; it counts as ready from now on".to_owned()];
    assert_eq!(sim.outcome(job), Some(&JobOutcome::Done { warnings }));
}

#[test]
fn a_probe_begins_when_its_answer_can_be_about_this_worker() {
    let probed = |spec: AppSpec| AppSpec { probe: Some(tcp_probe()), ..spec };
    let begins = Action::StartProbe { worker: WorkerId(1) };
    let mut sim = Simulator::default();
    sim.start(probed(fork()));
    sim.spawned(WorkerId(1));
    assert!(sim.does(&begins), "fork mode: nothing else is known of it");
    sim.send(Event::ReadyReceived { worker: WorkerId(1) });
    assert_eq!(sim.state(P0), State::Starting, "its own word is not what was asked for");
    sim.send(Event::ProbeSucceeded { worker: WorkerId(1) });
    assert_eq!(sim.state(P0), State::Ready);

    let mut sim = Simulator::default();
    sim.start(probed(cluster(1)));
    sim.spawned(WorkerId(1));
    sim.send(Event::WorkerOnline { worker: WorkerId(1) });
    assert!(!sim.does(&begins), "another worker would answer");
    sim.send(Event::WorkerListening { worker: WorkerId(1) });
    assert!(sim.does(&begins));
    assert_eq!(sim.state(P0), State::Starting);

    let mut sim = Simulator::default();
    sim.start(probed(AppSpec { wait_ready: true, ..fork() }));
    sim.spawned(WorkerId(1));
    assert!(!sim.does(&begins), "the app's word comes first");
    sim.send(Event::ReadyReceived { worker: WorkerId(1) });
    assert!(sim.does(&begins));
    sim.send(Event::ReadyReceived { worker: WorkerId(1) });
    assert_eq!(sim.state(P0), State::Starting);
    sim.send(Event::ProbeSucceeded { worker: WorkerId(1) });
    assert_eq!(sim.state(P0), State::Ready);
}

#[test]
fn the_first_instance_starts_alone_and_four_at_a_time_follow() {
    let mut sim = Simulator::default();
    let job = sim.start(cluster(7));
    assert_eq!(sim.spawns(), 1);
    sim.ready(WorkerId(1));
    assert_eq!(sim.workers.len(), 5);
    sim.spawned(WorkerId(3));
    sim.send(Event::WorkerOnline { worker: WorkerId(3) });
    assert_eq!(sim.spawns(), 1, "one ready, one more");
    sim.all_ready();
    assert!(sim.is_done(job));
    let instances: Vec<_> = sim.fleet.processes().map(|row| (row.id.0, row.instance)).collect();
    assert_eq!(instances, (0..7).map(|n| (n, n)).collect::<Vec<_>>());
}

#[test]
fn what_cannot_be_executed_changes_nothing() {
    let mut sim = Simulator::default();
    let job = sim.start(cluster(3));
    sim.spawn_fails(WorkerId(1), false);
    assert_eq!(sim.failure(job), "cannot start `api` (process 0): cannot execute `/srv/api`: no such file");
    assert_eq!((sim.fleet.apps().count(), sim.fleet.processes().count()), (0, 0));
    assert!(sim.does(&Action::AppRemoved { app: AppId(1), name: "api".to_owned() }));
    sim.start(fork());
    assert_eq!(sim.fleet.processes().next().unwrap().id, P0, "the list was empty: ids begin anew");
}

#[test]
fn what_ran_once_and_cannot_be_executed_now_is_errored_and_stays() {
    let mut sim = Simulator::running(fork());
    let job = sim.restart(&[P0]);
    sim.exits(WorkerId(1), Exit::Signal(2));
    sim.spawn_fails(WorkerId(2), false);
    assert_eq!((sim.state(P0), sim.armed()), (State::Errored, vec![]));
    assert!(sim.failure(job).contains("no such file"));
    assert_eq!(sim.fleet.process(P0).unwrap().reason, "cannot execute `/srv/api`: no such file");
}

#[test]
fn a_lack_of_memory_is_tried_again() {
    let mut sim = Simulator::default();
    let job = sim.start(fork());
    sim.spawn_fails(WorkerId(1), true);
    assert_eq!((sim.state(P0), sim.spawns()), (State::Starting, 1));
    sim.spawned(WorkerId(2));
    assert!(sim.is_done(job));
}

#[test]
fn an_instance_that_dies_before_it_is_ready_fails_the_job_and_goes_on_trying() {
    let mut sim = Simulator::default();
    let job = sim.start(AppSpec { wait_ready: true, ..fork() });
    sim.spawned(WorkerId(1));
    sim.exits(WorkerId(1), Exit::Code(3));
    assert_eq!(sim.state(P0), State::Starting, "a second attempt at once");
    sim.spawned(WorkerId(2));
    sim.exits(WorkerId(2), Exit::Code(3));
    assert_eq!((sim.state(P0), sim.armed()), (State::Backoff, vec![(Timer::Restart(P0), 20)]));
    assert_eq!(sim.failure(job), "cannot start `api` (process 0): exited with code 3 before it was ready");
    sim.pass(20);
    assert_eq!(sim.state(P0), State::Starting);
}

#[test]
fn autostart_false_waits_until_it_is_asked_for() {
    let mut sim = Simulator::default();
    let job = sim.start(AppSpec { autostart: false, ..cluster(2) });
    assert!(sim.is_done(job));
    assert_eq!((sim.state(P0), sim.state(P1), sim.spawns()), (State::Stopped, State::Stopped, 0));
    sim.send(Event::RestartTriggered {
        process: P0,
        cause: RestartCause::FileChange,
        reason: "changed".to_owned(),
        graceful: false,
    });
    assert_eq!(sim.spawns(), 0, "a trigger is no request");
    let job = sim.restart(&[P0, P1]);
    sim.all_ready();
    assert!(sim.is_done(job));
    assert_eq!(sim.fleet.process(P0).unwrap().restarts, 0, "it did not run, so that was no restart");
}

#[test]
fn a_crash_loop_ends_in_errored_after_sixteen_runs() {
    let mut sim = Simulator::default();
    sim.start(fork());
    let mut runs = 0;
    while sim.state(P0) != State::Errored {
        if sim.state(P0) == State::Backoff {
            let (_, delay) = sim.armed()[0];
            sim.pass(delay);
        }
        let worker = sim.current(P0);
        sim.spawned(worker);
        sim.now += 5;
        sim.exits(worker, Exit::Code(1));
        runs += 1;
    }
    assert_eq!((runs, sim.fleet.process(P0).unwrap().restarts), (16, 15));
    assert_eq!(sim.armed(), []);
    assert!(sim.announced.contains(&(P0, "restart overlimit", false)));
    assert!(sim.told(LogTopic::CrashLoop));
    sim.pass(1_000_000);
    assert_eq!(sim.state(P0), State::Errored);
}

#[test]
fn ids_are_not_reused_while_anything_exists() {
    let mut sim = Simulator::running(fork());
    sim.start(AppSpec { name: "b".to_owned(), ..fork() });
    sim.delete(&[P1]);
    sim.settle();
    sim.start(AppSpec { name: "c".to_owned(), ..fork() });
    let ids: Vec<_> = sim.fleet.processes().map(|row| row.id.0).collect();
    assert_eq!(ids, [0, 2]);
    let all: Vec<_> = sim.fleet.processes().map(|row| row.id).collect();
    sim.delete(&all);
    sim.settle();
    sim.start(fork());
    assert_eq!(sim.fleet.processes().next().unwrap().id, P0);
}

#[test]
fn instance_numbers_are_shared_by_name_and_owner() {
    let mut sim = Simulator::running(cluster(2));
    sim.start(fork());
    sim.start(AppSpec { name: "other".to_owned(), ..fork() });
    let instances: Vec<_> = sim.fleet.processes().map(|row| row.instance).collect();
    assert_eq!(instances, [0, 1, 2, 0]);
}
