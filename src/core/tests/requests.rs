//! Stories of requests: which wins, what is reported, scale, save and restore.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::simulator::{Os, P0, P1, Simulator, cluster, fork};
use crate::core::*;

const APP: AppId = AppId(1);

#[test]
fn the_newest_wish_wins() {
    let mut sim = Simulator::running(fork());
    let stop = sim.stop(&[P0]);
    let restart = sim.restart(&[P0]);
    assert_eq!(sim.failure(stop), "process 0: superseded by restart");
    sim.exits(WorkerId(1), Exit::Signal(2));
    sim.spawned(WorkerId(2));
    assert!(sim.is_done(restart));

    let delete = sim.delete(&[P0]);
    let stop = sim.stop(&[P0]);
    sim.exits(WorkerId(2), Exit::Signal(2));
    assert!(sim.is_done(delete) && sim.is_done(stop), "a stop does not contradict a deletion");
    assert_eq!(sim.fleet.processes().count(), 0);
}

#[test]
fn two_restarts_at_once_are_one() {
    let mut sim = Simulator::running(fork());
    let first = sim.restart(&[P0]);
    let second = sim.restart(&[P0]);
    sim.exits(WorkerId(1), Exit::Signal(2));
    sim.spawned(WorkerId(2));
    assert!(sim.is_done(first) && sim.is_done(second));
    assert_eq!(sim.fleet.process(P0).unwrap().restarts, 1);
}

#[test]
fn a_restart_with_a_new_spec_ends_the_old_worker_by_the_old_one() {
    let mut sim = Simulator::running(fork());
    let spec = Arc::new(AppSpec { kill_timeout: 9, args: vec!["new".to_owned()], ..fork() });
    let job = sim.next_job();
    let update = BTreeMap::from([(APP, spec.clone())]);
    sim.send(Event::RestartRequested { job, processes: vec![P0], update });
    assert_eq!(sim.armed(), [(Timer::Kill(WorkerId(1)), 1600)]);
    sim.exits(WorkerId(1), Exit::Signal(2));
    assert_eq!(sim.workers[&WorkerId(2)].spec, spec);
    assert_eq!(sim.fleet.app(APP).unwrap().spec(), &spec);
}

#[test]
fn a_cancelled_start_leaves_the_rest_stopped() {
    let mut sim = Simulator::default();
    let job = sim.start(cluster(3));
    sim.send(Event::JobCancelRequested { job });
    assert_eq!(sim.outcome(job), None, "what was begun is finished");
    sim.ready(WorkerId(1));
    assert_eq!(sim.outcome(job), Some(&JobOutcome::Cancelled));
    let desired: Vec<_> = sim.fleet.processes().map(|row| row.desired).collect();
    assert_eq!(desired, [Desired::Running, Desired::Stopped, Desired::Stopped]);
}

#[test]
fn progress_is_told() {
    let mut sim = Simulator::default();
    let job = sim.start(cluster(2));
    sim.ready(WorkerId(1));
    assert_eq!(sim.fleet.jobs().next().unwrap().progress(), (1, 2));
    sim.spawned(WorkerId(2));
    sim.send(Event::WorkerOnline { worker: WorkerId(2) });
    assert_eq!(sim.fleet.jobs().count(), 0);
    assert!(sim.is_done(job));
}

#[test]
fn scaling_up_fills_the_smallest_free_instance_numbers() {
    let mut sim = Simulator::running(cluster(3));
    sim.delete(&[P1]);
    sim.settle();
    let job = sim.scale(APP, 4);
    sim.all_ready();
    assert!(sim.is_done(job));
    let rows: Vec<_> = sim.fleet.processes().map(|row| (row.id.0, row.instance)).collect();
    assert_eq!(rows, [(0, 0), (2, 2), (3, 1), (4, 3)]);
}

#[test]
fn scaling_down_drains_the_lowest_ids() {
    let mut sim = Simulator::running(cluster(3));
    let job = sim.scale(APP, 1);
    assert_eq!(
        (sim.state(P0), sim.state(P1), sim.state(ProcessId(2))),
        (State::Draining, State::Draining, State::Ready)
    );
    assert!(sim.does(&Action::DrainWorker { worker: WorkerId(1), timeout: 10_000 }));
    assert_eq!(sim.armed(), [(Timer::Drain(WorkerId(1)), 10_000), (Timer::Drain(WorkerId(2)), 10_000)]);
    sim.send(Event::WorkerDrained { worker: WorkerId(1) });
    assert_eq!(sim.state(P0), State::Stopping);
    sim.exits(WorkerId(1), Exit::Signal(2));
    sim.pass(10_000);
    assert_eq!(sim.state(P1), State::Stopping, "drained or not");
    sim.settle();
    assert!(sim.is_done(job));
    assert_eq!(sim.fleet.processes().map(|row| row.id.0).collect::<Vec<_>>(), [2]);
}

#[test]
fn scaling_down_ends_those_first_that_do_not_serve() {
    let mut sim = Simulator::running(cluster(2));
    sim.scale(APP, 5);
    let (online, starting, gone) = (WorkerId(3), WorkerId(4), WorkerId(5));
    sim.spawned(online);
    sim.send(Event::WorkerOnline { worker: online });
    sim.spawned(starting);
    sim.spawn_fails(gone, false);
    assert_eq!((sim.state(ProcessId(2)), sim.state(ProcessId(4))), (State::Ready, State::Errored));
    sim.scale(APP, 2);
    assert_eq!((sim.state(P0), sim.state(P1)), (State::Ready, State::Ready));
    sim.settle();
    assert_eq!(sim.fleet.processes().map(|row| row.id.0).collect::<Vec<_>>(), [0, 1]);
}

#[test]
fn one_of_several_drains_before_it_is_stopped_or_deleted() {
    let mut sim = Simulator::running(cluster(3));
    let stop = sim.stop(&[P0]);
    assert!(sim.does(&Action::DrainWorker { worker: WorkerId(1), timeout: 10_000 }));
    let delete = sim.delete(&[P1]);
    assert!(sim.does(&Action::DrainWorker { worker: WorkerId(2), timeout: 10_000 }));
    assert_eq!((sim.state(P0), sim.state(P1)), (State::Draining, State::Draining));
    let last = sim.stop(&[ProcessId(2)]);
    assert_eq!(sim.state(ProcessId(2)), State::Stopping, "nobody is left to serve in its stead");
    sim.settle();
    assert!([stop, delete, last].into_iter().all(|job| sim.is_done(job)));
    assert_eq!(sim.state(P0), State::Stopped);
    assert!(sim.fleet.process(P1).is_none());
}

#[test]
fn who_leaves_with_all_others_or_is_asked_again_ends_at_once() {
    let mut sim = Simulator::running(cluster(3));
    sim.stop(&[P0, P1, ProcessId(2)]);
    assert_eq!(sim.state(P0), State::Stopping);

    for again in [Simulator::stop, Simulator::delete] {
        let mut sim = Simulator::running(cluster(2));
        let first = sim.stop(&[P0]);
        let second = again(&mut sim, &[P0]);
        assert_eq!(sim.state(P0), State::Stopping, "a person insists");
        sim.settle();
        assert!(sim.is_done(first) && sim.is_done(second));
    }

    // Each of these has an address of its own.
    let mut sim = Simulator::running(AppSpec { instances: Instances(2), ..fork() });
    sim.stop(&[P0]);
    assert_eq!(sim.state(P0), State::Stopping);
}

#[test]
fn a_worker_that_drains_for_a_stop_can_be_started_again() {
    let mut sim = Simulator::running(cluster(2));
    let stop = sim.stop(&[P0]);
    let restart = sim.restart(&[P0]);
    assert_eq!(sim.failure(stop), "process 0: superseded by restart");
    sim.settle();
    assert!(sim.is_done(restart));
    assert_eq!(sim.state(P0), State::Ready);
}

#[test]
fn a_worker_that_dies_while_it_drains_is_not_replaced() {
    let mut sim = Simulator::running(cluster(2));
    let job = sim.scale(APP, 1);
    sim.exits(WorkerId(1), Exit::Code(1));
    assert!(sim.is_done(job));
    assert_eq!(sim.spawns(), 0);
}

#[test]
fn scaling_to_the_present_count_is_done_at_once() {
    let mut sim = Simulator::running(cluster(2));
    let job = sim.scale(APP, 2);
    assert!(sim.is_done(job));
}

#[test]
fn what_is_gone_needs_no_stop() {
    let mut sim = Simulator::default();
    let job = sim.stop(&[P0]);
    assert!(sim.is_done(job));
}

#[test]
fn a_reset_zeroes_the_counters() {
    let mut sim = Simulator::running(fork());
    sim.exits(WorkerId(1), Exit::Code(1));
    sim.spawned(WorkerId(2));
    sim.send(Event::ResetRequested { processes: vec![P0] });
    let row = sim.fleet.process(P0).unwrap();
    assert_eq!((row.restarts, row.unstable_restarts(), row.created_at), (0, 0, 1_000_000 + sim.now));
}

#[test]
fn what_was_saved_comes_back_as_it_was() {
    let mut sim = Simulator::running(cluster(3));
    sim.start(AppSpec { name: "b".to_owned(), ..fork() });
    sim.all_ready();
    sim.delete(&[P0]);
    sim.stop(&[P1]);
    sim.settle();
    sim.exits(WorkerId(3), Exit::Code(1));
    let saved = sim.fleet.saved();

    let mut boot = Simulator::default();
    let job = boot.next_job();
    boot.send(Event::RestoreRequested { job, apps: saved.clone() });
    boot.all_ready();
    assert!(boot.is_done(job));
    let rows: Vec<_> = boot.fleet.processes().map(|row| (row.id.0, row.instance, row.state, row.restarts)).collect();
    assert_eq!(rows, [(1, 1, State::Stopped, 0), (2, 2, State::Ready, 1), (3, 0, State::Ready, 0)]);
    assert_eq!(boot.fleet.saved(), saved);
}

#[test]
fn a_saved_app_that_cannot_start_stays_in_the_list() {
    let mut sim = Simulator::running(fork());
    let apps = sim.fleet.saved();
    sim = Simulator::default();
    let job = sim.next_job();
    sim.send(Event::RestoreRequested { job, apps });
    sim.spawn_fails(WorkerId(1), false);
    assert!(sim.failure(job).contains("no such file"));
    assert_eq!(sim.state(P0), State::Errored);
    assert!(sim.told(LogTopic::StartFailed));
}

#[test]
fn a_trigger_restarts_gracefully_where_that_can_be() {
    let trigger = |process, graceful| Event::RestartTriggered {
        process,
        cause: RestartCause::Schedule,
        reason: "memory".to_owned(),
        graceful,
    };
    let mut sim = Simulator::running(cluster(1));
    sim.send(trigger(P0, true));
    assert_eq!((sim.state(P0), sim.incoming(P0)), (State::Ready, Some(WorkerId(2))));
    sim.send(trigger(P0, true));
    assert_eq!(sim.workers.len(), 2, "it is being replaced already");
    sim.settle();
    assert_eq!((sim.current(P0), sim.fleet.jobs().count()), (WorkerId(2), 0));
    assert!(sim.announced.contains(&(P0, "reload", false)));

    let mut sim = Simulator::running(fork());
    sim.send(trigger(P0, true));
    assert_eq!(sim.state(P0), State::Stopping);
    sim.exits(WorkerId(1), Exit::Signal(2));
    sim.spawned(WorkerId(2));
    assert_eq!(sim.fleet.process(P0).unwrap().restarts, 1);
    assert!(sim.announced.contains(&(P0, "restart", false)));
}

#[test]
fn only_what_must_survive_is_saved() {
    let mut sim = Simulator::default();
    sim.start(AppSpec { wait_ready: true, ..cluster(1) });
    assert!(sim.does(&Action::SaveState));
    sim.spawned(WorkerId(1));
    assert!(sim.does(&Action::SaveState), "a daemon that takes over needs the pid");
    assert_eq!(sim.workers[&WorkerId(1)].os, Os::Alive);
    sim.send(Event::WorkerOnline { worker: WorkerId(1) });
    sim.send(Event::WorkerOnline { worker: WorkerId(77) });
    assert!(sim.actions.is_empty());
}
