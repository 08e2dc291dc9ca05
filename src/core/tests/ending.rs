//! Stories of ending: signals, SIGKILL, what a worker leaves behind, crashes, deletion, shutdown.

use super::simulator::{P0, P1, Simulator, cluster, fork};
use crate::core::*;

const W1: WorkerId = WorkerId(1);
const W2: WorkerId = WorkerId(2);

#[test]
fn a_stop_asks_waits_and_is_done_when_the_worker_is_over() {
    let mut sim = Simulator::running(fork());
    let job = sim.stop(&[P0]);
    assert!(sim.does(&Action::TerminateWorker { worker: W1 }));
    assert_eq!((sim.state(P0), sim.armed()), (State::Stopping, vec![(Timer::Kill(W1), 1600)]));
    sim.exits(W1, Exit::Code(0));
    assert_eq!((sim.state(P0), sim.armed()), (State::Stopped, vec![]));
    assert!(sim.is_done(job));
    assert!(sim.does(&Action::ReleaseWorker { worker: W1 }));
    assert!(sim.logged.contains(&(LogTopic::Ended, "App [api:0] exited with code [0] via signal [none]".to_owned())));
    assert_eq!(sim.announced[2..], [(P0, "exit", true), (P0, "stop", true)]);
    sim.pass(1_000_000);
    assert_eq!(sim.state(P0), State::Stopped);
}

#[test]
fn who_ignores_the_signal_gets_sigkill() {
    let mut sim = Simulator::running(fork());
    sim.stop(&[P0]);
    sim.pass(1600);
    assert!(sim.does(&Action::KillWorker { worker: W1 }));
    assert_eq!(sim.armed(), [(Timer::Unkillable(W1), 5000)]);
    sim.exits(W1, Exit::Signal(9));
    assert_eq!((sim.state(P0), sim.armed()), (State::Stopped, vec![]));
    assert_eq!(sim.fleet.process(P0).unwrap().last_exit.unwrap().signal_name().as_deref(), Some("SIGKILL"));
}

#[test]
fn descendants_have_until_the_kill_timeout_as_well() {
    let mut sim = Simulator::running(fork());
    let job = sim.stop(&[P0]);
    sim.exits_with_leftovers(W1, Exit::Code(0));
    assert_eq!((sim.state(P0), sim.armed()), (State::Stopping, vec![(Timer::Kill(W1), 1600)]));
    assert_eq!(sim.outcome(job), None);
    sim.pass(1600);
    assert!(sim.does(&Action::KillWorker { worker: W1 }));
    sim.leftovers_gone(W1);
    assert!(sim.is_done(job));
}

#[test]
fn what_a_crash_leaves_behind_is_gone_before_the_next_start() {
    let mut sim = Simulator::running(fork());
    sim.exits_with_leftovers(W1, Exit::Signal(11));
    assert!(sim.does(&Action::KillWorker { worker: W1 }));
    assert_eq!((sim.state(P0), sim.spawns()), (State::Stopping, 0));
    sim.leftovers_gone(W1);
    assert_eq!((sim.state(P0), sim.spawns(), sim.armed()), (State::Starting, 1, vec![]));
    assert_eq!(sim.fleet.process(P0).unwrap().restarts, 1);
}

#[test]
fn a_worker_that_outlives_sigkill_makes_its_row_errored_and_free() {
    let mut sim = Simulator::running(fork());
    let job = sim.stop(&[P0]);
    sim.pass(6600);
    assert_eq!((sim.state(P0), sim.armed()), (State::Errored, vec![]));
    assert_eq!(sim.failure(job), "cannot end `api` (process 0): pid 1001 does not even obey SIGKILL");
    assert!(sim.told(LogTopic::KillTimeout) && sim.told(LogTopic::Unkillable));
    let job = sim.restart(&[P0]);
    sim.spawned(W2);
    assert!(sim.is_done(job), "another one can be started beside it");
    sim.exits(W1, Exit::Signal(9));
    assert_eq!(sim.state(P0), State::Ready, "and its late end disturbs nobody");
}

#[test]
fn the_deletion_of_an_unkillable_one_fails_and_can_be_tried_again() {
    let mut sim = Simulator::running(fork());
    let job = sim.delete(&[P0]);
    sim.pass(6600);
    assert!(sim.failure(job).contains("SIGKILL"));
    assert_eq!(sim.fleet.process(P0).unwrap().desired, Desired::Stopped);
    let job = sim.delete(&[P0]);
    assert!(sim.does(&Action::KillWorker { worker: W1 }));
    sim.exits(W1, Exit::Signal(9));
    assert!(sim.is_done(job));
    assert_eq!(sim.fleet.processes().count(), 0);
}

#[test]
fn a_stop_before_the_start_is_answered_waits_for_the_answer() {
    let mut sim = Simulator::default();
    let start = sim.start(fork());
    let stop = sim.stop(&[P0]);
    assert_eq!(sim.failure(start), "process 0: superseded by stop");
    assert_eq!((sim.state(P0), sim.armed()), (State::Stopping, vec![]));
    sim.spawned(W1);
    assert!(sim.does(&Action::TerminateWorker { worker: W1 }));
    assert_eq!(sim.armed(), [(Timer::Kill(W1), 1600)]);
    sim.exits(W1, Exit::Signal(2));
    assert!(sim.is_done(stop));
}

#[test]
fn a_stop_during_back_off_disarms_it() {
    let mut sim = Simulator::running(AppSpec { restart_delay: 5000, ..fork() });
    sim.exits(W1, Exit::Code(1));
    assert_eq!(sim.armed(), [(Timer::Restart(P0), 5000)]);
    let job = sim.stop(&[P0]);
    assert!(sim.is_done(job));
    assert_eq!((sim.state(P0), sim.armed()), (State::Stopped, vec![]));
}

#[test]
fn a_restart_by_hand_counts_and_does_not_back_off() {
    let mut sim = Simulator::running(AppSpec { restart_delay: 5000, ..fork() });
    let job = sim.restart(&[P0]);
    sim.exits(W1, Exit::Signal(2));
    assert_eq!((sim.state(P0), sim.armed()), (State::Starting, vec![]));
    sim.spawned(W2);
    assert!(sim.is_done(job));
    assert_eq!(sim.fleet.process(P0).unwrap().restarts, 1);
    assert_eq!(sim.announced[2..], [(P0, "exit", true), (P0, "online", true), (P0, "restart", true)]);
}

#[test]
fn a_restart_leaves_half_of_the_workers_alone() {
    let mut sim = Simulator::running(cluster(6));
    let all: Vec<_> = (0..6).map(ProcessId).collect();
    let job = sim.restart(&all);
    let stopping = sim.fleet.processes().filter(|row| row.state == State::Stopping).count();
    assert_eq!(stopping, 3);
    sim.settle();
    assert!(sim.is_done(job));
    assert!(sim.fleet.processes().all(|row| row.restarts == 1 && row.state == State::Ready));
}

#[test]
fn what_ended_by_itself_stays_ended_but_for_a_trigger() {
    let mut sim = Simulator::running(AppSpec { autorestart: false, ..fork() });
    sim.exits(W1, Exit::Code(0));
    assert_eq!((sim.state(P0), sim.armed()), (State::Stopped, vec![]));
    sim.send(Event::RestartTriggered {
        process: P0,
        cause: RestartCause::Schedule,
        reason: "cron".to_owned(),
        graceful: false,
    });
    assert_eq!(sim.state(P0), State::Starting, "the next run of a planned job");
    sim.stop(&[P0]);
    sim.spawned(W2);
    sim.exits(W2, Exit::Signal(2));
    sim.send(Event::RestartTriggered {
        process: P0,
        cause: RestartCause::FileChange,
        reason: "changed".to_owned(),
        graceful: false,
    });
    assert_eq!(sim.state(P0), State::Stopped, "a person has stopped it");
    sim.send(Event::RestartTriggered {
        process: P0,
        cause: RestartCause::Schedule,
        reason: "cron".to_owned(),
        graceful: false,
    });
    assert_eq!(sim.state(P0), State::Starting, "its plan stays in force, as in PM2");
}

#[test]
fn a_shutdown_ends_all_at_once_and_keeps_what_was_wanted() {
    let mut sim = Simulator::running(cluster(2));
    sim.start(AppSpec { name: "b".to_owned(), restart_delay: 9000, ..fork() });
    sim.all_ready();
    sim.exits(WorkerId(3), Exit::Code(1));
    let reload = sim.reload(&[P0, P1]);
    let down = sim.shutdown();
    assert_eq!(sim.failure(reload), "process 0: superseded by shutdown (and one more failed)");
    assert!(sim.does(&Action::TerminateWorker { worker: W1 }) && sim.does(&Action::TerminateWorker { worker: W2 }));
    let refused = sim.start(fork());
    assert_eq!(sim.failure(refused), "the daemon is shutting down");
    sim.exits(W1, Exit::Signal(2));
    sim.exits(W2, Exit::Signal(2));
    assert!(!sim.exited, "the newcomer is not over");
    sim.settle();
    assert!(sim.exited && sim.is_done(down));
    assert_eq!(sim.actions.last(), Some(&Action::Exit));
    assert!(sim.fleet.processes().all(|row| row.desired == Desired::Running && row.state == State::Stopped));
}

#[test]
fn a_shutdown_of_nothing_is_immediate() {
    let mut sim = Simulator::default();
    let job = sim.shutdown();
    assert!(sim.is_done(job) && sim.exited);
}

#[test]
fn a_worker_lost_while_the_daemon_was_away_is_replaced() {
    let mut sim = Simulator::running(cluster(1));
    sim.fleet = serde_json::from_str(&serde_json::to_string(&sim.fleet).unwrap()).unwrap();
    assert_eq!(sim.fleet.rearm(Now::default()), []);
    sim.exits(W1, Exit::Unknown);
    assert_eq!(sim.spawns(), 1);
    assert_eq!(sim.fleet.process(P0).unwrap().last_exit, Some(Exit::Unknown));
}
