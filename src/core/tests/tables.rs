//! Each line of the transition tables is reached by an event, and no other change is allowed.

use super::simulator::{P0, P1, Simulator, cluster, fork};
use crate::core::*;

const STATES: [State; 7] =
    [State::Starting, State::Ready, State::Draining, State::Stopping, State::Backoff, State::Errored, State::Stopped];

/// An app whose worker takes its time to get ready and which is restarted after a delay.
fn slow() -> AppSpec {
    AppSpec { wait_ready: true, restart_delay: 100, ..fork() }
}

fn starting(spec: AppSpec) -> Simulator {
    let mut sim = Simulator { now: 100_000, ..Simulator::default() };
    sim.start(spec);
    let worker = sim.current(P0);
    sim.spawned(worker);
    sim
}

fn exit(sim: &mut Simulator) {
    let worker = sim.current(P0);
    sim.exits(worker, Exit::Code(1));
}

/// Brings row 0 into a state.
fn bring(state: State) -> Simulator {
    match state {
        State::Starting => starting(slow()),
        State::Ready => Simulator::running(AppSpec { wait_ready: false, ..slow() }),
        State::Draining => {
            let mut sim = Simulator::running(cluster(2));
            sim.scale(AppId(1), 1);
            sim
        }
        State::Stopping => {
            let mut sim = Simulator::running(fork());
            sim.stop(&[P0]);
            sim
        }
        State::Backoff => {
            let mut sim = bring(State::Ready);
            exit(&mut sim);
            sim
        }
        State::Errored => {
            let mut sim = Simulator::running(AppSpec { max_restarts: 1, min_uptime: 100_000, ..fork() });
            exit(&mut sim);
            sim
        }
        State::Stopped => {
            let mut sim = bring(State::Stopping);
            exit(&mut sim);
            sim
        }
    }
}

/// Has the event happen that makes row 0 go from one state to another; where the usual way into `from` does not lead
/// there, takes another.
fn go(from: State, to: State) -> Simulator {
    let mut sim = bring(from);
    assert_eq!(sim.state(P0), from);
    match (from, to) {
        (State::Stopped | State::Errored, State::Starting) => {
            sim.restart(&[P0]);
        }
        (State::Starting | State::Ready, State::Stopping) | (State::Backoff | State::Errored, State::Stopped) => {
            sim.stop(&[P0]);
        }
        (State::Starting, State::Ready) => {
            let worker = sim.current(P0);
            sim.send(Event::ReadyReceived { worker });
        }
        (State::Starting | State::Ready, State::Backoff) | (State::Stopping | State::Draining, State::Stopped) => {
            exit(&mut sim);
        }
        (State::Starting, State::Errored) => {
            sim = bring(State::Stopped);
            sim.restart(&[P0]);
            let worker = sim.current(P0);
            sim.spawn_fails(worker, false);
        }
        (State::Starting, State::Stopped) => {
            sim = starting(AppSpec { autorestart: false, ..slow() });
            exit(&mut sim);
        }
        (State::Ready, State::Starting) => {
            sim = Simulator::running(fork());
            exit(&mut sim);
        }
        (State::Ready, State::Draining) => {
            sim = Simulator::running(cluster(2));
            sim.scale(AppId(1), 1);
        }
        (State::Ready, State::Errored) => sim = bring(State::Errored),
        (State::Ready, State::Stopped) => {
            sim = Simulator::running(AppSpec { stop_exit_codes: vec![1], ..fork() });
            exit(&mut sim);
        }
        (State::Draining, State::Stopping) => {
            let worker = sim.current(P0);
            sim.send(Event::WorkerDrained { worker });
        }
        (State::Stopping, State::Starting) => {
            sim = Simulator::running(fork());
            sim.restart(&[P0]);
            exit(&mut sim);
        }
        (State::Stopping, State::Ready) => {
            sim = Simulator::running(cluster(1));
            sim.reload(&[P0]);
            let (old, new) = (sim.current(P0), sim.incoming(P0).unwrap());
            sim.ready(new);
            sim.exits_with_leftovers(old, Exit::Code(1));
            assert_eq!(sim.state(P0), State::Stopping);
            sim.leftovers_gone(old);
        }
        (State::Stopping, State::Backoff) => {
            sim = bring(State::Ready);
            let worker = sim.current(P0);
            sim.exits_with_leftovers(worker, Exit::Code(1));
            assert_eq!(sim.state(P0), State::Stopping);
            sim.leftovers_gone(worker);
        }
        (State::Stopping, State::Errored) => sim.pass(60_000),
        (State::Backoff, State::Starting) => sim.pass(100),
        (from, to) => panic!("no way is known from {from:?} to {to:?}"),
    }
    sim
}

#[test]
fn each_transition_of_a_row_happens() {
    for (from, to) in TRANSITIONS {
        let sim = go(*from, *to);
        // A row that was to be removed is gone as soon as it is stopped.
        let state = sim.fleet.process(P0).map_or(State::Stopped, |row| row.state);
        assert_eq!(state, *to, "from {from:?}");
    }
}

#[test]
fn no_other_transition_of_a_row_is_allowed() {
    let allowed = STATES.iter().flat_map(|from| STATES.map(|to| (*from, to))).filter(|(from, to)| from.may_become(*to));
    assert_eq!(allowed.count(), TRANSITIONS.len());
    assert!(!State::Stopped.may_become(State::Ready));
    assert!(!State::Errored.may_become(State::Backoff));
}

#[test]
fn each_transition_of_a_worker_happens() {
    for (from, to) in WORKER_TRANSITIONS {
        let (mut sim, worker) = match from {
            WorkerState::Starting => (bring(State::Starting), WorkerId(1)),
            WorkerState::Ready => (Simulator::running(cluster(2)), WorkerId(1)),
            WorkerState::Draining => (bring(State::Draining), WorkerId(1)),
            WorkerState::Stopping => (bring(State::Stopping), WorkerId(1)),
            WorkerState::Exited => panic!("nothing follows"),
        };
        assert_eq!(sim.fleet.worker(worker).unwrap().state, *from);
        match to {
            WorkerState::Starting => panic!("nothing leads there"),
            WorkerState::Ready => sim.send(Event::ReadyReceived { worker }),
            WorkerState::Draining => drop(sim.scale(AppId(1), 1)),
            WorkerState::Stopping => drop(sim.stop(&[P0, P1])),
            WorkerState::Exited => sim.exits_with_leftovers(worker, Exit::Code(0)),
        }
        assert_eq!(sim.fleet.worker(worker).unwrap().state, *to, "from {from:?}");
    }
}

#[test]
fn pm2_has_six_words_for_our_seven_states() {
    let words = STATES.map(State::pm2_status);
    assert_eq!(words, ["launching", "online", "stopping", "stopping", "waiting restart", "errored", "stopped"]);
}
