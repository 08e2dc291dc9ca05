//! The daemon's life on paper: the real core, a shell like the daemon's, and a kernel, a service manager and a disk that
//! do what a seed says, with the daemon dying between any two steps.
//!
//! A seed that fails is printed. `PM2RS_SIMULATION_SEED=N` plays it again, telling each step; `PM2RS_SIMULATION_COUNT=N`
//! tries so many.
#![allow(clippy::unwrap_used)]

#[path = "simulation/asked.rs"]
mod asked;
#[path = "simulation/kernel.rs"]
mod kernel;
#[path = "simulation/random.rs"]
mod random;
#[path = "simulation/rules.rs"]
mod rules;
#[path = "simulation/run.rs"]
mod run;
#[path = "simulation/shell.rs"]
mod shell;

use std::sync::atomic::{AtomicU64, Ordering};

use run::Run;
use shell::Flaw;

const COUNT: u64 = 2_000;
/// A flaw must be found among so many seeds.
const ENOUGH: u64 = 1_000;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// What went wrong with a seed, if anything did. A panic of the core is as good as a broken rule.
fn play(seed: u64, flaw: Option<Flaw>, tell: bool) -> Result<u64, String> {
    std::panic::catch_unwind(|| Run::new(seed, flaw, tell).play()).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        Err(text.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned())).unwrap_or_default())
    })
}

#[test]
fn whenever_the_daemon_dies_nothing_is_lost_and_nothing_runs_twice() {
    if let Some(seed) = number("PM2RS_SIMULATION_SEED") {
        play(seed, None, true).unwrap();
        return;
    }
    let count = number("PM2RS_SIMULATION_COUNT").unwrap_or(COUNT);
    let (next, deaths) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let work = || {
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= count {
                    break;
                }
                match play(seed, None, false) {
                    Ok(died) => drop(deaths.fetch_add(died, Ordering::Relaxed)),
                    Err(why) => panic!("{why}\nto see it again: PM2RS_SIMULATION_SEED={seed}"),
                }
            }
        };
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            if let Err(panic) = worker.join() {
                std::panic::resume_unwind(panic);
            }
        }
    });
    let deaths = deaths.into_inner();
    println!("{count} seeds, the daemon died {deaths} times");
    assert!(deaths >= count, "the simulation spares the daemon");
}

#[test]
fn workers_are_found_again_by_the_file_alone() {
    let regained = |seed| {
        let mut run = Run::new(seed, None, false);
        run.play().unwrap();
        run.regained
    };
    let regained: usize = (0..100).map(regained).sum();
    println!("{regained} workers were found");
    assert!(regained > 20, "the simulation spares whoever keeps what the daemon has");
}

#[test]
fn a_seed_always_tells_the_same_story() {
    let story = |seed| {
        let mut run = Run::new(seed, None, false);
        (run.play(), run.steps())
    };
    for seed in 0..20 {
        assert_eq!(story(seed), story(seed));
    }
}

#[track_caller]
fn is_found(flaw: Flaw) {
    let found = (0..ENOUGH).find_map(|seed| play(seed, Some(flaw), false).err().map(|why| (seed, why)));
    let (seed, why) = found.unwrap_or_else(|| panic!("{flaw:?} is not noticed"));
    println!("{flaw:?} is noticed with seed {seed}: {why}");
}

#[test]
fn a_worker_that_is_not_adopted_is_noticed() {
    is_found(Flaw::ForgetsToAdopt);
}

#[test]
fn timers_that_are_not_armed_again_are_noticed() {
    is_found(Flaw::ArmsNoTimers);
}

#[test]
fn a_descriptor_that_is_released_too_early_is_noticed() {
    is_found(Flaw::ReleasesEarly);
}

#[test]
fn a_second_start_at_a_restore_is_noticed() {
    is_found(Flaw::StartsTwice);
}

#[test]
fn an_exit_that_is_lost_while_the_daemon_is_down_is_noticed() {
    is_found(Flaw::LosesExits);
}

#[test]
fn a_worker_that_runs_before_it_is_kept_is_noticed() {
    is_found(Flaw::KeepsLate);
}

#[test]
fn a_file_that_is_replaced_before_its_successor_is_whole_is_noticed() {
    is_found(Flaw::WritesInPlace);
}

#[test]
fn a_list_that_is_forgotten_by_a_shutdown_is_noticed() {
    is_found(Flaw::ForgetsAtShutdown);
}

#[test]
fn survivors_that_are_not_ended_before_their_apps_start_anew_are_noticed() {
    is_found(Flaw::SparesSurvivors);
}
