//! One seed: what happens, in which order, and what must hold after each step and at rest.

use std::collections::BTreeMap;
use std::sync::Arc;

use pm2rs::core::{AppId, AppSpec, Event, ExecMode, Instances, JobOutcome, ProcessId, ReloadOptions, Uid};

use crate::asked::{Asked, Wish, rule};
use crate::kernel::{Kernel, Nature};
use crate::random::Random;
use crate::shell::{Flaw, From, Next, Shell};

const STEPS: usize = 150;
/// A world in which everybody behaves comes to rest within so many steps.
const CALM_STEPS: usize = 20_000;
const NAMES: [&str; 3] = ["api", "jobs", "web"];

pub struct Run {
    random: Random,
    kernel: Kernel,
    shell: Option<Shell>,
    asked: Asked,
    flaw: Option<Flaw>,
    /// Somebody keeps descriptors and state for the daemon.
    kept: bool,
    tell: bool,
    story: Vec<String>,
    deaths: u64,
    /// Workers that were gone on with by the file alone.
    pub regained: usize,
}

impl Run {
    pub fn new(seed: u64, flaw: Option<Flaw>, tell: bool) -> Run {
        let mut random = Random::new(seed);
        let kept = !random.once_in_1000(150);
        let (kernel, asked) = (Kernel::new(), Asked::default());
        Run { random, kernel, shell: None, asked, flaw, kept, tell, story: Vec::new(), deaths: 0, regained: 0 }
    }

    /// What happened, a line each.
    pub fn steps(&self) -> Vec<String> {
        self.story.clone()
    }

    /// Plays it to its end; returns how often the daemon died.
    pub fn play(&mut self) -> Result<u64, String> {
        for _ in 0..STEPS {
            self.step()?;
        }
        self.say("all behave from now on");
        self.kernel.calm = true;
        self.kernel.disk.full = false;
        if let Some(shell) = &mut self.shell {
            shell.fuse = None;
        }
        self.start_if_dead()?;
        for _ in 0..CALM_STEPS {
            if !self.settle()? {
                return self.check_rest().map(|()| self.deaths);
            }
        }
        Err("it does not come to rest".to_owned())
    }

    fn say(&mut self, what: impl Into<String>) {
        let what = what.into();
        if self.tell {
            println!("{:>4} {:>7} {what}", self.story.len(), self.kernel.now);
        }
        self.story.push(what);
    }

    fn step(&mut self) -> Result<(), String> {
        self.start_if_dead()?;
        let Some(shell) = &mut self.shell else { return Ok(()) };
        match self.random.below(1000) {
            0..640 => self.go_on()?,
            640..780 => {
                if let Some(what) = self.kernel.step(&mut self.random) {
                    self.say(what);
                }
            }
            780..900 => self.request()?,
            900..930 if !is_behind(&shell.possible(&self.kernel)) => {
                self.kernel.now += self.random.below(2_000) as u64;
                self.say("time passes");
            }
            930..965 => shell.fuse = Some(self.random.below(40)),
            965..971 => self.die("the daemon is killed"),
            971..975 => self.shut_down()?,
            975..980 => self.reexecute()?,
            980..987 => {
                self.kernel.disk.full = !self.kernel.disk.full;
                self.say(format!("the disk is full: {}", self.kernel.disk.full));
            }
            987..993 => {
                self.die("the daemon is killed, and who kept its descriptors");
                self.kernel.keeper_dies();
            }
            993..997 => {
                self.die("the daemon is killed, its memory is lost, its file damaged");
                self.kernel.keeper_dies();
                if let Some(file) = &mut self.kernel.disk.current {
                    file.whole = false;
                    self.kernel.disk.rotten = true;
                }
            }
            997.. => {
                self.die("the machine is rebooted");
                self.kernel.reboot();
            }
            _ => {}
        }
        self.check()
    }

    fn check(&mut self) -> Result<(), String> {
        let Some(shell) = &mut self.shell else { return Ok(()) };
        for (job, outcome) in std::mem::take(&mut shell.outcomes) {
            for wish in self.asked.0.values_mut().filter(|wish| wish.job == Some(job)) {
                wish.job = None;
                wish.loose |= !matches!(outcome, JobOutcome::Done { .. });
            }
        }
        shell.check(&self.kernel)?;
        self.asked.check(&shell.fleet)?;
        for (name, job) in self.asked.0.iter().filter_map(|(name, wish)| Some((name, wish.job?))) {
            rule!(shell.fleet.jobs().any(|open| open.id == job), "job {job} about `{name}` is lost");
        }
        Ok(())
    }

    fn die(&mut self, why: &str) {
        self.say(why);
        self.shell = None;
        self.deaths += 1;
        self.kernel.daemon_dies();
        if !self.kept {
            self.kernel.keeper_dies();
        }
    }

    /// The daemon comes back, or dies again before it is there.
    fn start_if_dead(&mut self) -> Result<(), String> {
        while self.shell.is_none() {
            if self.random.once_in_1000(500)
                && let Some(what) = self.kernel.step(&mut self.random)
            {
                self.say(what);
            }
            let again = !self.kernel.calm && self.random.once_in_1000(200);
            let fuse = again.then(|| self.random.below(30));
            self.say("the daemon starts");
            match Shell::start(&mut self.kernel, self.flaw, self.kept, fuse) {
                Ok((shell, from)) => {
                    if let From::File(file, regained) = from {
                        let disk = &self.kernel.disk;
                        let expected = if disk.rotten { disk.before } else { disk.written };
                        let file = *file;
                        let number = file.as_ref().map_or(0, |file| file.number);
                        rule!(number >= expected, "file {number} is taken up, file {expected} was written");
                        self.asked = file.map(|file| file.asked).unwrap_or_default();
                        if regained == 0 {
                            self.asked.forget_jobs();
                        }
                        self.regained += regained;
                    }
                    self.shell = Some(shell);
                }
                Err(_) => self.die("the daemon dies again"),
            }
        }
        self.check()
    }

    fn go_on(&mut self) -> Result<(), String> {
        let Some(shell) = &self.shell else { return Ok(()) };
        let mut possible = shell.possible(&self.kernel);
        let timer = shell.next_timer().filter(|timer| timer.is_due(self.kernel.now) || !is_behind(&possible));
        possible.extend(timer);
        if let Some(next) = self.random.pick(&possible) {
            self.perform(next);
        }
        self.end_if_over()
    }

    fn perform(&mut self, next: Next) {
        self.say(format!("{next:?}"));
        let Some(shell) = &mut self.shell else { return };
        if shell.go_on(&mut self.kernel, next, &self.asked, &mut self.random).is_err() {
            self.die("the daemon dies at it");
        }
    }

    /// The daemon is told to end everything and then itself, whatever is under way.
    fn shut_down(&mut self) -> Result<(), String> {
        let Some(shell) = self.shell.as_mut().filter(|shell| !shell.fleet.is_shutting_down()) else { return Ok(()) };
        let job = shell.next_job();
        let taken = shell.turn(&mut self.kernel, Event::ShutdownRequested { job });
        self.say("the daemon is to end");
        if taken.is_err() {
            self.die("the daemon dies at it");
        }
        self.end_if_over()
    }

    fn end_if_over(&mut self) -> Result<(), String> {
        let Some(shell) = self.shell.take_if(|shell| shell.over) else { return Ok(()) };
        let left = self.kernel.processes.iter().find(|(_, process)| process.is_alive());
        rule!(left.is_none(), "the daemon ends and leaves {left:?}");
        if shell.end(&mut self.kernel, &self.asked, &mut self.random).is_err() {
            self.die("the daemon dies while it ends");
            return Ok(());
        }
        self.say("the daemon ends");
        self.kernel.daemon_dies();
        // A service manager lets go of what it kept when the service is stopped, not when it starts it again.
        if !self.kept || self.random.once_in_1000(500) {
            self.kernel.keeper_dies();
        }
        Ok(())
    }

    /// A step of a world in which everybody behaves; false when nothing is left to happen.
    fn settle(&mut self) -> Result<bool, String> {
        self.start_if_dead()?;
        if let Some(what) = self.kernel.step(&mut self.random) {
            self.say(what);
            return self.check().map(|()| true);
        }
        let Some(shell) = &self.shell else { return Ok(false) };
        let next = self.random.pick(&shell.possible(&self.kernel)).or_else(|| shell.next_timer());
        let Some(next) = next else { return Ok(false) };
        self.perform(next);
        self.end_if_over()?;
        self.check().map(|()| true)
    }

    fn check_rest(&self) -> Result<(), String> {
        let Some(shell) = &self.shell else { return Err("there is no daemon".to_owned()) };
        self.asked.check_rest(&shell.fleet, &self.kernel)?;
        let on_disk = self.kernel.disk.current.as_ref().map(|file| file.kept.fleet.saved()).unwrap_or_default();
        rule!(on_disk == shell.fleet.saved(), "what is on disk is not what there is");
        Ok(())
    }

    /// Another release takes over in the daemon's place, between two turns.
    fn reexecute(&mut self) -> Result<(), String> {
        let ready = self.kept
            && self.shell.as_ref().is_some_and(|shell| !shell.is_starting_any() && !shell.fleet.is_shutting_down());
        if let Some(shell) = self.shell.take_if(|_| ready) {
            self.say("the daemon executes itself anew");
            self.kernel.store.state = Some(shell.state());
            self.start_if_dead()?;
        }
        Ok(())
    }

    /// A user asks for something about an app that nothing is being done about.
    fn request(&mut self) -> Result<(), String> {
        let (Some(shell), Some(name)) = (&mut self.shell, self.random.pick(&NAMES)) else { return Ok(()) };
        if shell.fleet.is_shutting_down() {
            // It is refused.
            return Ok(());
        }
        let app = shell.fleet.apps().find(|app| app.name() == name).map(|app| app.id);
        let (event, wish) = match (self.asked.0.get(name), app) {
            (None, None) => {
                let job = shell.next_job();
                let spec = spec(&mut self.random, name);
                let rows = usize::try_from(spec.instances.0).unwrap_or(1);
                let wish = Wish { rows, running: true, job: Some(job), loose: false };
                (Event::AppStartRequested { job, spec: Arc::new(spec), owner: Uid(1000) }, Some(wish))
            }
            (Some(wish), Some(app)) if wish.job.is_none() => {
                let processes: Vec<_> = shell.fleet.processes_of(app).map(|row| row.id).collect();
                change(&mut self.random, shell, wish.clone(), app, processes)
            }
            _ => return Ok(()),
        };
        self.say(format!("`{name}`: {event:?}"));
        let Some(shell) = &mut self.shell else { return Ok(()) };
        if shell.turn(&mut self.kernel, event).is_err() {
            // Nobody was told that it had been taken.
            self.die("the daemon dies at it");
            return Ok(());
        }
        match wish {
            Some(wish) => drop(self.asked.0.insert(name.to_owned(), wish)),
            None => drop(self.asked.0.remove(name)),
        }
        Ok(())
    }
}

/// Whether the daemon has yet to hear of an end: it hears of that sooner than a timer could elapse.
fn is_behind(possible: &[Next]) -> bool {
    possible.iter().any(|next| matches!(next, Next::Exit(_) | Next::Gone(_)))
}

fn spec(random: &mut Random, name: &str) -> AppSpec {
    let natures = [Nature::Crashes, Nature::Hangs, Nature::Deaf, Nature::Forks, Nature::Floods];
    let nature = if random.once_in_1000(600) { Nature::Good } else { random.pick(&natures).unwrap_or(Nature::Good) };
    let cluster = random.once_in_1000(600);
    AppSpec {
        name: name.to_owned(),
        args: vec![format!("{nature:?}")],
        exec_mode: if cluster { ExecMode::Cluster } else { ExecMode::Fork },
        instances: Instances(1 + i32::try_from(random.below(3)).unwrap_or(0)),
        wait_ready: random.once_in_1000(200),
        // The daemon's deaths are no fault of the app's.
        max_restarts: 1_000,
        ..AppSpec::default()
    }
}

fn change(
    random: &mut Random,
    shell: &mut Shell,
    mut wish: Wish,
    app: AppId,
    processes: Vec<ProcessId>,
) -> (Event, Option<Wish>) {
    let job = shell.next_job();
    wish.job = Some(job);
    let what = random.below(10);
    let event = match what {
        0..2 => return (Event::DeleteRequested { job, processes }, None),
        2..4 if wish.running => {
            wish.running = false;
            Event::StopRequested { job, processes }
        }
        4..7 if wish.running && !wish.loose => {
            let options = ReloadOptions::default();
            Event::ReloadRequested { job, processes, update: BTreeMap::new(), options }
        }
        7..9 if wish.running && !wish.loose => {
            wish.rows = 1 + random.below(4);
            Event::ScaleRequested { job, app, instances: u32::try_from(wish.rows).unwrap_or(1) }
        }
        _ => {
            wish.running = true;
            Event::RestartRequested { job, processes, update: BTreeMap::new() }
        }
    };
    (event, Some(wish))
}
