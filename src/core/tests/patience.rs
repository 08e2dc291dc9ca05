//! How long a newcomer may take to get ready.

use super::simulator::{P0, Simulator, cluster};
use crate::core::*;

fn w(id: u32) -> WorkerId {
    WorkerId(id)
}

/// A cluster of one whose worker took so long to listen (ms), and its newcomer, which is online.
fn slow(spec: AppSpec, ms: u64) -> (Simulator, JobId) {
    let mut sim = Simulator::default();
    sim.start(spec);
    sim.spawned(w(1));
    sim.send(Event::WorkerOnline { worker: w(1) });
    sim.pass(ms);
    sim.send(Event::WorkerListening { worker: w(1) });
    let job = sim.reload(&[P0]);
    sim.spawned(w(2));
    sim.send(Event::WorkerOnline { worker: w(2) });
    (sim, job)
}

#[test]
fn a_newcomer_has_three_times_what_its_predecessor_took() {
    let (mut sim, job) = slow(cluster(1), 7000);
    assert_eq!(sim.armed(), [(Timer::Listen(w(2)), 21_000)]);
    sim.pass(20_999);
    assert_eq!((sim.incoming(P0), sim.outcome(job)), (Some(w(2)), None));
    sim.pass(1);
    sim.exits(w(2), Exit::Signal(2));
    assert!(sim.failure(job).contains("was not ready within 21000 ms (listen_timeout)"), "{}", sim.failure(job));
    assert_eq!(sim.current(P0), w(1));
}

#[test]
fn the_time_that_a_newcomer_has_outlives_its_predecessor() {
    let (mut sim, job) = slow(AppSpec { autorestart: false, ..cluster(1) }, 7000);
    sim.exits(w(1), Exit::Code(1));
    sim.pass(21_000);
    sim.exits(w(2), Exit::Signal(2));
    assert!(sim.failure(job).contains("was not ready within 21000 ms (listen_timeout)"), "{}", sim.failure(job));
}

#[test]
fn a_word_that_came_late_tells_what_a_newcomer_needs() {
    let mut sim = Simulator::default();
    sim.start(AppSpec { wait_ready: true, ..cluster(1) });
    sim.spawned(w(1));
    sim.pass(3000);
    assert_eq!(sim.state(P0), State::Ready, "as in PM2");
    sim.pass(1000);
    sim.send(Event::ReadyReceived { worker: w(1) });
    sim.reload(&[P0]);
    sim.spawned(w(2));
    assert_eq!(sim.armed(), [(Timer::Listen(w(2)), 12_000)]);
}

#[test]
fn a_newcomer_has_no_more_time_than_was_set_and_a_minute_at_most() {
    let (sim, _) = slow(AppSpec { listen_timeout: 4000, ..cluster(1) }, 7000);
    assert_eq!(sim.armed(), [(Timer::Listen(w(2)), 4000)]);
    let (sim, _) = slow(cluster(1), 3_600_000);
    assert_eq!(sim.armed(), [(Timer::Listen(w(2)), 60_000)]);
    let (sim, _) = slow(cluster(1), 100);
    assert_eq!(sim.armed(), [(Timer::Listen(w(2)), 3000)]);
}

/// Its time to get ready elapses when it has waited for a CPU for so long (ms).
fn starved(sim: &mut Simulator, ms: u64) {
    let (timer, left) = sim.armed()[0];
    assert_eq!(timer, Timer::Listen(w(2)));
    sim.pass(left - 1);
    sim.send(Event::CpuAwaited { worker: w(2), ms });
    sim.pass(1);
}

#[test]
fn what_a_newcomer_waits_for_a_cpu_is_not_held_against_it() {
    let (mut sim, job) = slow(cluster(1), 100);
    starved(&mut sim, 2900);
    assert_eq!(sim.armed(), [(Timer::Listen(w(2)), 2000)]);
    starved(&mut sim, 3100);
    assert_eq!(sim.armed(), [(Timer::Listen(w(2)), 1000)]);
    sim.pass(999);
    assert_eq!((sim.incoming(P0), sim.outcome(job)), (Some(w(2)), None));
    sim.pass(1);
    sim.exits(w(2), Exit::Signal(2));
    let wanted = "was not ready within 6000 ms (listen_timeout), in 3000 ms of which there was no CPU for it";
    assert!(sim.failure(job).contains(wanted), "{}", sim.failure(job));
}

#[test]
fn a_newcomer_that_never_gets_a_cpu_has_a_minute() {
    let (mut sim, job) = slow(cluster(1), 100);
    for second in (3..=60).step_by(3) {
        assert_eq!((sim.incoming(P0), sim.outcome(job)), (Some(w(2)), None), "after {second} s");
        starved(&mut sim, second * 1000);
    }
    sim.exits(w(2), Exit::Signal(2));
    assert!(sim.failure(job).contains("was not ready within 60000 ms"), "{}", sim.failure(job));
}

#[test]
fn who_set_a_time_gets_that_time_and_a_first_worker_counts_as_ready_in_time() {
    let (mut sim, job) = slow(AppSpec { listen_timeout: 4000, ..cluster(1) }, 100);
    starved(&mut sim, 3900);
    sim.exits(w(2), Exit::Signal(2));
    assert!(sim.failure(job).contains("was not ready within 4000 ms (listen_timeout)"), "{}", sim.failure(job));

    let mut sim = Simulator::default();
    sim.start(cluster(1));
    sim.spawned(w(1));
    sim.send(Event::CpuAwaited { worker: w(1), ms: 2900 });
    sim.pass(3000);
    assert_eq!(sim.state(P0), State::Ready, "as in PM2");
}
