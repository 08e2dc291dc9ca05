//! Stories of reloads: the good way, each way of failing, going back, queueing, and who may interfere.

use super::simulator::{P0, P1, Simulator, cluster, fork};
use crate::core::*;

/// Two workers of a cluster app, number 1 and 2, and its new release.
fn two() -> (Simulator, AppSpec) {
    (Simulator::running(cluster(2)), AppSpec { args: vec!["new".to_owned()], ..cluster(2) })
}

fn w(id: u32) -> WorkerId {
    WorkerId(id)
}

/// Lets the worker that row's reload has on trial get ready and stay up.
fn passes_trial(sim: &mut Simulator, process: ProcessId) {
    let newcomer = sim.incoming(process).expect("a newcomer");
    sim.ready(newcomer);
    if sim.incoming(process).is_some() {
        sim.pass(1500);
    }
    assert_eq!(sim.current(process), newcomer);
}

/// Lets everybody who drains or was asked to end do so.
fn all_leave(sim: &mut Simulator) {
    let leaving: Vec<_> = sim.fleet.processes().flat_map(|row| row.outgoing.clone()).collect();
    for worker in leaving {
        sim.send(Event::WorkerDrained { worker });
        sim.exits(worker, Exit::Signal(2));
    }
}

#[test]
fn the_old_worker_goes_only_when_the_new_one_has_proved_itself() {
    let (mut sim, new) = two();
    let job = sim.reload_with(&[P0, P1], Some(new), None);
    assert_eq!((sim.spawns(), sim.incoming(P0), sim.incoming(P1)), (1, Some(w(3)), None));
    let ordered = sim.actions.iter().find_map(|action| match action {
        Action::SpawnWorker(order) => Some(order.restarts),
        _ => None,
    });
    assert_eq!(ordered, Some(1), "it is told what the list shows once it serves");
    sim.spawned(w(3));
    assert_eq!(sim.armed(), [(Timer::Listen(w(3)), 3000)]);
    sim.send(Event::WorkerOnline { worker: w(3) });
    assert_eq!(sim.current(P0), w(1), "online is not enough");
    sim.send(Event::WorkerListening { worker: w(3) });
    assert_eq!((sim.current(P0), sim.armed()), (w(1), vec![(Timer::MinUptime(w(3)), 1500)]), "the first stays up");
    sim.pass(1500);
    assert_eq!((sim.current(P0), sim.state(P0)), (w(3), State::Ready));
    assert!(sim.does(&Action::DrainWorker { worker: w(1), timeout: 10_000 }));
    assert_eq!(sim.armed(), [(Timer::Drain(w(1)), 10_000)]);
    assert_eq!(sim.incoming(P1), None, "one at a time");
    sim.send(Event::WorkerDrained { worker: w(1) });
    assert!(sim.does(&Action::TerminateWorker { worker: w(1) }));
    assert_eq!(sim.armed(), [(Timer::Kill(w(1)), 1600)]);
    sim.exits(w(1), Exit::Signal(2));
    sim.ready(w(4));
    assert_eq!(sim.current(P1), w(4), "the release has proved itself, readiness suffices");
    assert_eq!(sim.outcome(job), None);
    all_leave(&mut sim);
    assert!(sim.is_done(job));
    assert_eq!(sim.armed(), []);
    assert!(sim.fleet.processes().all(|row| row.restarts == 1 && row.release == 1));
    assert!(sim.announced.contains(&(P1, "reload", true)));
}

#[test]
fn a_batch_is_replaced_together() {
    let mut sim = Simulator::running(cluster(5));
    let all: Vec<_> = (0..5).map(ProcessId).collect();
    let job = sim.reload_with(&all, None, Some(2));
    assert_eq!(sim.spawns(), 2);
    sim.all_ready();
    sim.pass(1500);
    all_leave(&mut sim);
    assert_eq!(sim.workers.len(), 7);
    sim.settle();
    assert!(sim.is_done(job));
}

#[test]
fn a_newcomer_that_dies_ends_the_reload_and_nobody_noticed() {
    let (mut sim, new) = two();
    let job = sim.reload_with(&[P0, P1], Some(new), None);
    sim.spawned(w(3));
    sim.exits(w(3), Exit::Code(1));
    assert_eq!(
        sim.failure(job),
        "cannot reload `api`: process 0: exited with code 1 before it was ready; what served before serves on"
    );
    assert!(sim.told(LogTopic::ReloadFailed) && !sim.told(LogTopic::ReloadRolledBack));
    assert_eq!((sim.current(P0), sim.current(P1), sim.armed()), (w(1), w(2), vec![]));
    assert_eq!(sim.fleet.app(AppId(1)).unwrap().spec().args.len(), 0, "the app is what it was");
    assert_eq!(sim.fleet.process(P0).unwrap().restarts, 0);
}

#[test]
fn a_newcomer_that_cannot_be_executed_ends_the_reload() {
    let (mut sim, new) = two();
    let job = sim.reload_with(&[P0, P1], Some(new), None);
    sim.spawn_fails(w(3), false);
    assert!(sim.failure(job).contains("no such file"));
    assert_eq!((sim.state(P0), sim.current(P0)), (State::Ready, w(1)));
}

#[test]
fn a_newcomer_that_never_listens_is_given_its_time_and_then_ended() {
    let (mut sim, new) = two();
    let job = sim.reload_with(&[P0, P1], Some(new), None);
    sim.spawned(w(3));
    sim.send(Event::WorkerOnline { worker: w(3) });
    sim.pass(3000);
    assert!(sim.does(&Action::TerminateWorker { worker: w(3) }));
    assert_eq!(sim.outcome(job), None, "nothing is left half replaced");
    sim.exits(w(3), Exit::Signal(2));
    assert!(sim.failure(job).contains("process 0: was not ready within 3000 ms"));
    assert_eq!(sim.current(P0), w(1));
}

/// A cluster of one, whose worker is online and has yet to listen, and its newcomer, which has stayed up.
fn reloaded_too_early() -> (Simulator, JobId) {
    let mut sim = Simulator::default();
    sim.start(cluster(1));
    sim.spawned(w(1));
    sim.send(Event::WorkerOnline { worker: w(1) });
    let job = sim.reload(&[P0]);
    sim.spawned(w(2));
    sim.send(Event::WorkerOnline { worker: w(2) });
    sim.send(Event::WorkerListening { worker: w(1) });
    sim.pass(1500);
    assert_eq!(sim.current(P0), w(1), "nobody would listen");
    (sim, job)
}

#[test]
fn a_newcomer_takes_over_when_it_listens_as_its_predecessor_does_by_now() {
    let (mut sim, job) = reloaded_too_early();
    sim.send(Event::WorkerListening { worker: w(2) });
    assert_eq!(sim.current(P0), w(2));
    all_leave(&mut sim);
    assert!(sim.is_done(job));
}

#[test]
fn a_newcomer_that_does_not_listen_as_its_predecessor_does_by_now_is_ended() {
    let (mut sim, job) = reloaded_too_early();
    sim.pass(1500);
    assert!(sim.does(&Action::TerminateWorker { worker: w(2) }));
    sim.exits(w(2), Exit::Signal(2));
    assert!(
        sim.failure(job).contains("did not listen within 3000 ms, as its predecessor does"),
        "{}",
        sim.failure(job)
    );
    assert_eq!(sim.current(P0), w(1));
}

#[test]
fn nor_is_it_held_against_one_that_has_to_listen_that_there_was_no_cpu_for_it() {
    let (mut sim, job) = reloaded_too_early();
    sim.send(Event::CpuAwaited { worker: w(2), ms: 5000 });
    sim.pass(1500);
    sim.pass(4999);
    assert_eq!((sim.incoming(P0), sim.outcome(job)), (Some(w(2)), None));
    sim.pass(1);
    sim.exits(w(2), Exit::Signal(2));
    assert!(sim.failure(job).contains("did not listen within 8000 ms"), "{}", sim.failure(job));
}

#[test]
fn silence_is_no_readiness_in_a_reload() {
    let mut sim = Simulator::running(AppSpec { wait_ready: true, ..cluster(1) });
    let job = sim.reload(&[P0]);
    sim.spawned(w(2));
    sim.send(Event::WorkerListening { worker: w(2) });
    sim.pass(3000);
    sim.exits(w(2), Exit::Signal(2));
    assert!(sim.failure(job).contains("was not ready within 3000 ms"));
    assert_eq!(sim.current(P0), w(1));
}

#[test]
fn a_release_that_crashes_after_a_second_does_not_get_through() {
    let (mut sim, new) = two();
    let job = sim.reload_with(&[P0, P1], Some(new), None);
    sim.ready(w(3));
    sim.pass(1000);
    sim.exits(w(3), Exit::Code(1));
    assert!(sim.failure(job).contains("process 0: exited with code 1;"));
    assert_eq!((sim.current(P0), sim.current(P1)), (w(1), w(2)));
}

#[test]
fn what_was_replaced_already_goes_back_the_same_way() {
    let (mut sim, new) = two();
    let job = sim.reload_with(&[P0, P1], Some(new), None);
    passes_trial(&mut sim, P0);
    all_leave(&mut sim);
    let newcomer = sim.incoming(P1).unwrap();
    sim.spawned(newcomer);
    sim.exits(newcomer, Exit::Code(1));
    assert_eq!(sim.outcome(job), None);
    assert_eq!((sim.current(P0), sim.state(P0)), (w(3), State::Ready), "it serves until its successor is ready");
    let back = sim.incoming(P0).unwrap();
    assert!(sim.workers[&back].spec.args.is_empty(), "the release before");
    sim.ready(back);
    assert_eq!(sim.current(P0), back);
    all_leave(&mut sim);
    assert!(
        sim.failure(job).ends_with("process 1: exited with code 1 before it was ready; what served before serves on")
    );
    assert!(sim.fleet.processes().all(|row| row.release == 0));
    assert_eq!(sim.fleet.app(AppId(1)).unwrap().release, 0);
    assert!(sim.told(LogTopic::ReloadRolledBack) && !sim.told(LogTopic::ReloadFailed));
}

#[test]
fn keep_leaves_what_was_replaced() {
    let (mut sim, new) = two();
    let new = AppSpec { on_reload_failure: OnReloadFailure::Keep, ..new };
    let job = sim.reload_with(&[P0, P1], Some(new), None);
    passes_trial(&mut sim, P0);
    all_leave(&mut sim);
    let newcomer = sim.incoming(P1).unwrap();
    sim.spawned(newcomer);
    sim.exits(newcomer, Exit::Code(1));
    assert!(sim.failure(job).ends_with("1 process stays on the new release"));
    assert!(sim.told(LogTopic::ReloadFailed) && !sim.told(LogTopic::ReloadRolledBack));
    assert_eq!((sim.current(P0), sim.current(P1)), (w(3), w(2)));
    sim.now += 60_000;
    sim.exits(w(2), Exit::Code(1));
    assert!(sim.workers[&w(5)].spec.args.is_empty(), "the other row goes on with what it had");
}

#[test]
fn without_a_new_spec_there_is_nothing_to_go_back_to() {
    let (mut sim, _) = two();
    let job = sim.reload(&[P0, P1]);
    passes_trial(&mut sim, P0);
    all_leave(&mut sim);
    let newcomer = sim.incoming(P1).unwrap();
    sim.spawn_fails(newcomer, false);
    assert!(sim.failure(job).contains("no such file"));
    assert_eq!((sim.current(P0), sim.current(P1)), (w(3), w(2)));
}

#[test]
fn a_replaced_worker_that_dies_while_the_reload_goes_on_ends_it() {
    let (mut sim, new) = two();
    let job = sim.reload_with(&[P0, P1], Some(new), None);
    passes_trial(&mut sim, P0);
    all_leave(&mut sim);
    sim.exits(w(3), Exit::Code(1));
    assert_eq!(sim.workers[&sim.current(P0)].spec.args.len(), 0, "the release before is started at once");
    sim.settle();
    assert!(sim.failure(job).starts_with("cannot reload `api`: process 0: exited with code 1;"));
    assert!(sim.fleet.processes().all(|row| row.release == 0 && row.state == State::Ready));
}

#[test]
fn an_old_worker_that_dies_is_stood_in_for_by_its_successor() {
    let (mut sim, new) = two();
    let job = sim.reload_with(&[P0, P1], Some(new), None);
    sim.ready(w(3));
    sim.exits(w(1), Exit::Signal(11));
    assert_eq!((sim.current(P0), sim.state(P0)), (w(3), State::Ready));
    sim.settle();
    assert!(sim.is_done(job));
}

#[test]
fn if_old_and_new_worker_die_the_old_release_is_started() {
    let (mut sim, new) = two();
    let job = sim.reload_with(&[P0, P1], Some(new), None);
    sim.spawned(w(3));
    sim.exits(w(1), Exit::Signal(11));
    assert_eq!((sim.current(P0), sim.state(P0)), (w(3), State::Starting));
    sim.exits(w(3), Exit::Code(1));
    assert!(sim.workers[&sim.current(P0)].spec.args.is_empty());
    sim.settle();
    assert!(sim.failure(job).contains("exited with code 1 before it was ready"));
    assert_eq!(sim.state(P0), State::Ready);
}

#[test]
fn a_queue_worker_never_listens_and_needs_to_stay_up_instead() {
    let mut sim = Simulator { now: 100_000, ..Simulator::default() };
    sim.start(cluster(2));
    for worker in [w(1), w(2)] {
        sim.spawned(worker);
        sim.send(Event::WorkerOnline { worker });
    }
    let job = sim.reload(&[P0, P1]);
    for (process, worker) in [(P0, w(3)), (P1, w(4))] {
        sim.spawned(worker);
        sim.send(Event::WorkerOnline { worker });
        assert_eq!(sim.armed(), [(Timer::MinUptime(worker), 1500)], "each of them");
        sim.pass(1500);
        assert_eq!(sim.current(process), worker);
        all_leave(&mut sim);
    }
    assert!(sim.is_done(job));
}

#[test]
fn who_is_slow_to_get_ready_has_to_stay_up_for_longer() {
    for (took, longer) in [(400, 500), (2000, 2000), (20_000, 3000)] {
        let (mut sim, new) = two();
        sim.reload_with(&[P0, P1], Some(AppSpec { listen_timeout: 60_000, ..new }), None);
        sim.spawned(w(3));
        sim.pass(took);
        sim.send(Event::WorkerListening { worker: w(3) });
        assert_eq!(sim.armed(), [(Timer::MinUptime(w(3)), 1000 + longer)]);
    }
}

#[test]
fn a_fork_app_with_the_supervisors_sockets_is_replaced_too() {
    let spec = AppSpec { listen: vec!["8080".to_owned()], ..fork() };
    let mut sim = Simulator::running(spec);
    let job = sim.reload(&[P0]);
    sim.spawned(w(2));
    assert_eq!((sim.current(P0), sim.armed()), (w(1), vec![(Timer::MinUptime(w(2)), 1500)]));
    sim.pass(1500);
    assert_eq!(sim.current(P0), w(2));
    all_leave(&mut sim);
    assert!(sim.is_done(job));
}

#[test]
fn a_fork_app_without_them_is_restarted() {
    let mut sim = Simulator::running(fork());
    let job = sim.reload(&[P0]);
    assert_eq!((sim.state(P0), sim.spawns()), (State::Stopping, 0));
    sim.exits(w(1), Exit::Signal(2));
    sim.spawned(w(2));
    assert!(sim.is_done(job));
}

#[test]
fn a_stopped_row_is_started_by_a_reload() {
    let (mut sim, _) = two();
    sim.stop(&[P0]);
    sim.settle();
    let job = sim.reload(&[P0, P1]);
    sim.settle();
    assert!(sim.is_done(job));
    assert_eq!((sim.state(P0), sim.state(P1)), (State::Ready, State::Ready));
}

#[test]
fn reloads_of_one_app_queue_and_of_two_apps_do_not() {
    let (mut sim, _) = two();
    sim.start(AppSpec { name: "b".to_owned(), ..cluster(1) });
    sim.all_ready();
    let first = sim.reload(&[P0]);
    let second = sim.reload(&[P0]);
    assert_eq!(sim.spawns(), 0);
    let other = sim.reload(&[ProcessId(2)]);
    assert_eq!(sim.spawns(), 1);
    passes_trial(&mut sim, P0);
    all_leave(&mut sim);
    assert!(sim.is_done(first));
    assert_eq!((sim.outcome(second), sim.spawns()), (None, 1), "now it is its turn");
    sim.settle();
    assert!(sim.is_done(second) && sim.is_done(other));
}

#[test]
fn a_stop_supersedes_a_reload() {
    let (mut sim, _) = two();
    let reload = sim.reload(&[P0, P1]);
    sim.spawned(w(3));
    let stop = sim.stop(&[P0, P1]);
    assert!(sim.failure(reload).contains("superseded by stop"));
    assert!(sim.does(&Action::TerminateWorker { worker: w(3) }) && sim.does(&Action::TerminateWorker { worker: w(1) }));
    sim.settle();
    assert!(sim.is_done(stop));
    assert!(sim.workers.is_empty());
}

#[test]
fn a_restart_that_waits_for_its_turn_ends_the_newcomer_at_once() {
    let mut sim = Simulator::running(cluster(6));
    let last = ProcessId(5);
    let reload = sim.reload(&[last]);
    sim.ready(w(7));
    let all: Vec<_> = (0..6).map(ProcessId).collect();
    let restart = sim.restart(&all);
    assert_eq!(sim.failure(reload), "process 5: superseded by restart");
    assert_eq!((sim.incoming(last), sim.current(last), sim.state(last)), (None, w(6), State::Ready));
    sim.settle();
    assert!(sim.is_done(restart));
}

#[test]
fn one_of_a_batch_that_stands_in_for_a_dead_one_goes_on_serving_when_another_fails() {
    let (mut sim, new) = two();
    let job = sim.reload_with(&[P0, P1], Some(new), Some(2));
    sim.ready(w(3));
    sim.exits(w(1), Exit::Signal(11));
    sim.spawned(w(4));
    sim.exits(w(4), Exit::Code(1));
    assert_eq!((sim.current(P0), sim.state(P0)), (w(3), State::Ready), "nobody else serves this row");
    sim.settle();
    assert!(sim.failure(job).contains("process 1: exited with code 1"));
    assert!(sim.fleet.processes().all(|row| row.release == 0 && row.state == State::Ready));
}

#[test]
fn a_cancelled_reload_goes_back() {
    let (mut sim, new) = two();
    let job = sim.reload_with(&[P0, P1], Some(new), None);
    passes_trial(&mut sim, P0);
    all_leave(&mut sim);
    sim.send(Event::JobCancelRequested { job });
    sim.settle();
    assert_eq!(sim.outcome(job), Some(&JobOutcome::Cancelled));
    assert!(sim.fleet.processes().all(|row| row.release == 0 && row.state == State::Ready));
    assert_eq!(sim.current(P1), w(2), "it was not touched");
}

#[test]
fn a_rollback_that_fails_says_so_and_leaves_what_serves() {
    let (mut sim, new) = two();
    let job = sim.reload_with(&[P0, P1], Some(new), None);
    passes_trial(&mut sim, P0);
    all_leave(&mut sim);
    let newcomer = sim.incoming(P1).unwrap();
    sim.spawn_fails(newcomer, false);
    let back = sim.incoming(P0).unwrap();
    sim.spawn_fails(back, false);
    assert!(sim.failure(job).ends_with("and going back failed for process 0"));
    assert_eq!((sim.current(P0), sim.current(P1)), (w(3), w(2)), "both serve");
}

#[test]
fn rows_added_during_a_reload_go_back_with_the_others() {
    let (mut sim, new) = two();
    let reload = sim.reload_with(&[P0, P1], Some(new), None);
    let scale = sim.scale(AppId(1), 3);
    let added = sim.current(ProcessId(2));
    sim.ready(added);
    assert!(sim.is_done(scale));
    assert_eq!(sim.workers[&added].spec.args, ["new"]);
    sim.spawn_fails(w(3), false);
    sim.settle();
    assert!(sim.failure(reload).contains("no such file"));
    assert!(sim.fleet.processes().all(|row| row.release == 0 && row.state == State::Ready));
}
