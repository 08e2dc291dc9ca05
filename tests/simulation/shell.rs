//! A shell as the daemon's: performs what the core says, keeps what the next one needs, takes over what the one before
//! left. It follows `src/daemon` step by step, with a place to die between any two of them, and can be given flaws.

use std::collections::{BTreeMap, VecDeque};

use pm2rs::core::{
    Action, Event, Exit, Fleet, JobId, JobOutcome, Now, SpawnFailure, SpawnOrder, Time, Timer, Worker, WorkerId,
    WorkerState,
};

use crate::asked::Asked;
use crate::kernel::{File, Kept, Kernel, Word};
use crate::random::Random;

/// A mistake that is made on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    ForgetsToAdopt,
    ArmsNoTimers,
    ReleasesEarly,
    StartsTwice,
    LosesExits,
    KeepsLate,
    WritesInPlace,
    SparesSurvivors,
    ForgetsAtShutdown,
}

/// The daemon is dead.
#[derive(Debug)]
pub struct Died;

type Step<T = ()> = Result<T, Died>;

/// Where a daemon has what it goes on with.
#[derive(Debug)]
pub enum From {
    Memory,
    /// The state file, if there was any, and so many workers that were found by it.
    File(Box<Option<File>>, usize),
}

/// A start under way.
#[derive(Debug)]
pub struct Spawning {
    order: SpawnOrder,
    pub at: Stage,
    wish: Wish,
}

#[derive(Debug, Clone, Copy)]
pub enum Stage {
    Ordered,
    Forked(u32),
    Kept(u32),
    Runs(u32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    Run,
    Terminate,
    Kill,
}

/// A worker whose end is waited for.
#[derive(Debug)]
pub struct Watched {
    pub pid: u32,
    exit_told: bool,
    leftovers: bool,
}

/// Something that may happen to the daemon next.
#[derive(Debug, Clone, Copy)]
pub enum Next {
    Spawn(WorkerId),
    Exit(WorkerId),
    Gone(WorkerId),
    Word(WorkerId, Word),
    Timer(Timer, Time),
    Write,
}

impl Next {
    pub fn is_due(&self, now: u64) -> bool {
        matches!(self, Next::Timer(_, at) if at.0 <= now)
    }
}

#[derive(Debug)]
pub struct Shell {
    pub fleet: Fleet,
    flaw: Option<Flaw>,
    /// So many steps until it dies.
    pub fuse: Option<usize>,
    /// Whether somebody keeps descriptors and state for the next one.
    kept: bool,
    pub timers: BTreeMap<Timer, Time>,
    pub spawning: BTreeMap<WorkerId, Spawning>,
    pub watched: BTreeMap<WorkerId, Watched>,
    changed: bool,
    dirty: bool,
    writing: Option<(File, usize)>,
    writes: u64,
    last_job: u32,
    pub checks: std::cell::Cell<usize>,
    /// What callers are told once the turn is over.
    pub outcomes: Vec<(JobId, JobOutcome)>,
    /// Everything has ended, and it is to end as well.
    pub over: bool,
}

impl Shell {
    fn new(flaw: Option<Flaw>, kept: bool, fuse: Option<usize>, writes: u64) -> Shell {
        Shell {
            fleet: Fleet::default(),
            flaw,
            fuse,
            kept,
            timers: BTreeMap::new(),
            spawning: BTreeMap::new(),
            watched: BTreeMap::new(),
            changed: false,
            dirty: false,
            writing: None,
            writes,
            last_job: 0,
            checks: std::cell::Cell::new(0),
            outcomes: Vec::new(),
            over: false,
        }
    }

    fn has(&self, flaw: Flaw) -> bool {
        self.flaw == Some(flaw)
    }

    /// A place to die.
    fn point(&mut self) -> Step {
        match self.fuse.as_mut() {
            Some(0) => return Err(Died),
            Some(left) => *left -= 1,
            None => {}
        }
        Ok(())
    }

    /// Takes up what is there. What was asked for is as of the file then, if it came from a file.
    pub fn start(kernel: &mut Kernel, flaw: Option<Flaw>, kept: bool, fuse: Option<usize>) -> Step<(Shell, From)> {
        let mut shell = Shell::new(flaw, kept, fuse, kernel.disk.written);
        // What is left of a daemon that was about to end is not gone on with.
        kernel.store.state.take_if(|kept| kept.fleet.is_shutting_down());
        if let Some(state) = kernel.store.state.clone() {
            let found = kernel.store.workers.clone();
            shell.take_over(kernel, &state, &found)?;
            return Ok((shell, From::Memory));
        }
        let nothing_kept = kernel.store.workers.is_empty();
        for worker in kernel.store.workers.keys().copied().collect::<Vec<_>>() {
            shell.point()?;
            end(kernel, worker);
        }
        let disk = &mut kernel.disk;
        // What is damaged is set aside.
        disk.current = disk.current.take().filter(|file| file.whole);
        let file = disk.current.clone().or_else(|| disk.last.clone().filter(|file| file.whole));
        let regained = file
            .as_ref()
            .filter(|file| nothing_kept && !file.kept.fleet.is_shutting_down())
            .map(|file| shell.salvage(kernel, file))
            .unwrap_or_default();
        shell.end_all_but(kernel, &regained)?;
        match &file {
            Some(file) if !regained.is_empty() => shell.take_over(kernel, &file.kept, &regained)?,
            file => shell.restore(kernel, file.as_ref())?,
        }
        Ok((shell, From::File(Box::new(file), regained.len())))
    }

    /// The workers that the file knows to have been ready and that still live, by pid and start time.
    fn salvage(&self, kernel: &mut Kernel, file: &File) -> BTreeMap<WorkerId, u32> {
        let was_ready = |worker: &&Worker| !matches!(worker.state, WorkerState::Starting | WorkerState::Exited);
        let is_it = |worker: &Worker, pid: u32| {
            let process = kernel.processes.get(&pid);
            process.is_some_and(|process| process.exit.is_none() && process.worker == worker.id)
        };
        let workers = file.kept.fleet.workers().filter(was_ready);
        let found = workers.filter_map(|worker| Some((worker.id, worker.pid.filter(|pid| is_it(worker, *pid))?)));
        let found: BTreeMap<_, _> = found.collect();
        if self.kept {
            kernel.store.workers = found.clone();
        }
        found
    }

    fn end_all_but(&mut self, kernel: &mut Kernel, regained: &BTreeMap<WorkerId, u32>) -> Step {
        let survivors: Vec<u32> = kernel.processes.keys().copied().collect();
        for pid in survivors {
            self.point()?;
            if !self.has(Flaw::SparesSurvivors) && !regained.values().any(|own| *own == pid) {
                kernel.kill(pid);
            }
        }
        kernel.bury();
        Ok(())
    }

    fn take_over(&mut self, kernel: &mut Kernel, kept: &Kept, found: &BTreeMap<WorkerId, u32>) -> Step {
        self.fleet = read(kernel, &kept.fleet);
        self.last_job = kept.last_job;
        let workers: Vec<WorkerId> = self.fleet.workers().map(|worker| worker.id).collect();
        let mut events = VecDeque::new();
        for worker in &workers {
            self.point()?;
            events.extend(self.adopt(kernel, *worker, found));
        }
        for unknown in kernel.store.workers.keys().copied().collect::<Vec<_>>() {
            if !workers.contains(&unknown) {
                self.point()?;
                end(kernel, unknown);
            }
        }
        for action in self.fleet.rearm(now(kernel)) {
            if self.has(Flaw::ArmsNoTimers) && matches!(action, Action::ArmTimer { .. }) {
                continue;
            }
            self.perform(kernel, action, &mut events)?;
        }
        for event in events {
            self.feed(kernel, event)?;
        }
        if self.has(Flaw::StartsTwice) {
            let (job, apps) = (self.next_job(), self.fleet.saved());
            self.feed(kernel, Event::RestoreRequested { job, apps })?;
        }
        (self.changed, self.dirty) = (true, true);
        self.after_turn(kernel)
    }

    fn adopt(&mut self, kernel: &mut Kernel, worker: WorkerId, found: &BTreeMap<WorkerId, u32>) -> Option<Event> {
        let known = self.fleet.worker(worker)?;
        let exited = known.state == WorkerState::Exited;
        let Some(pid) = known.pid else {
            end(kernel, worker);
            let failure = SpawnFailure { message: "the daemon ended".to_owned(), transient: true };
            return Some(Event::SpawnFailed { worker, failure });
        };
        if found.get(&worker) != Some(&pid) {
            end(kernel, worker);
            return Some(match exited {
                true => Event::LeftoversGone { worker },
                false => Event::WorkerExited { worker, exit: Exit::Unknown, leftovers: false },
            });
        }
        let is_over = kernel.processes.get(&pid).is_none_or(|process| process.exit.is_some());
        let forgotten = self.has(Flaw::ForgetsToAdopt) && self.watched.is_empty();
        let lost = self.has(Flaw::LosesExits) && is_over && !exited;
        if !(forgotten || lost) {
            self.watched.insert(worker, Watched { pid, exit_told: exited, leftovers: exited });
        }
        None
    }

    fn restore(&mut self, kernel: &mut Kernel, file: Option<&File>) -> Step {
        if let Some(file) = file {
            self.last_job = file.kept.last_job;
            let (job, apps) = (self.next_job(), read(kernel, &file.kept.fleet).saved());
            self.feed(kernel, Event::RestoreRequested { job, apps })?;
        }
        self.after_turn(kernel)
    }

    pub fn next_job(&mut self) -> JobId {
        self.last_job += 1;
        JobId(self.last_job)
    }

    /// One turn of the loop. Once it is over, what was asked is taken.
    pub fn turn(&mut self, kernel: &mut Kernel, event: Event) -> Step {
        self.feed(kernel, event)?;
        self.after_turn(kernel)
    }

    fn feed(&mut self, kernel: &mut Kernel, event: Event) -> Step {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            for action in self.fleet.step(event, now(kernel)) {
                self.point()?;
                self.perform(kernel, action, &mut events)?;
            }
        }
        Ok(())
    }

    fn after_turn(&mut self, kernel: &mut Kernel) -> Step {
        self.point()?;
        if std::mem::take(&mut self.changed) && self.kept {
            kernel.store.state = Some(Kept { fleet: self.fleet.clone(), last_job: self.last_job });
        }
        Ok(())
    }

    fn perform(&mut self, kernel: &mut Kernel, action: Action, events: &mut VecDeque<Event>) -> Step {
        match action {
            Action::SpawnWorker(order) => {
                let spawning = Spawning { order: *order, at: Stage::Ordered, wish: Wish::Run };
                self.spawning.insert(spawning.order.worker, spawning);
            }
            Action::TerminateWorker { worker } => {
                self.wish(kernel, worker, Wish::Terminate);
                if self.has(Flaw::ReleasesEarly) {
                    kernel.store.workers.remove(&worker);
                }
            }
            Action::KillWorker { worker } => self.wish(kernel, worker, Wish::Kill),
            Action::DrainWorker { worker, .. } => match self.watched.get(&worker).filter(|watched| {
                // One that has no channel cannot be told.
                kernel.processes.get(&watched.pid).is_none_or(|process| !process.mute)
            }) {
                Some(watched) => kernel.drain(watched.pid),
                None => events.push_back(Event::WorkerDrained { worker }),
            },
            Action::ArmTimer { timer, at } => drop(self.timers.insert(timer, at)),
            Action::DisarmTimer { timer } => drop(self.timers.remove(&timer)),
            Action::ReleaseWorker { worker } => {
                self.watched.remove(&worker);
                self.point()?;
                kernel.store.workers.remove(&worker);
                kernel.bury();
            }
            Action::JobFinished { job, outcome } => self.outcomes.push((job, outcome)),
            Action::SaveState => (self.changed, self.dirty) = (true, true),
            Action::Exit => self.over = true,
            _ => {}
        }
        Ok(())
    }

    fn wish(&mut self, kernel: &mut Kernel, worker: WorkerId, wish: Wish) {
        if let Some(spawning) = self.spawning.get_mut(&worker) {
            spawning.wish = wish;
        } else if let Some(watched) = self.watched.get(&worker) {
            match wish {
                Wish::Run => {}
                Wish::Terminate => kernel.terminate(watched.pid),
                Wish::Kill => kernel.kill(watched.pid),
            }
        }
    }

    /// All that may happen next, the clock aside.
    pub fn possible(&self, kernel: &Kernel) -> Vec<Next> {
        let mut possible: Vec<Next> = self.spawning.keys().map(|worker| Next::Spawn(*worker)).collect();
        for (worker, watched) in &self.watched {
            match kernel.processes.get(&watched.pid) {
                Some(process) => {
                    if !watched.exit_told && process.exit.is_some() {
                        possible.push(Next::Exit(*worker));
                    } else if let (false, Some(word)) = (watched.exit_told, process.words.first()) {
                        possible.push(Next::Word(*worker, *word));
                    }
                    if watched.leftovers && !process.descendants {
                        possible.push(Next::Gone(*worker));
                    }
                }
                None if !watched.exit_told => possible.push(Next::Exit(*worker)),
                None if watched.leftovers => possible.push(Next::Gone(*worker)),
                None => {}
            }
        }
        if self.dirty || self.writing.is_some() {
            possible.push(Next::Write);
        }
        possible
    }

    /// The timer that elapses first.
    pub fn next_timer(&self) -> Option<Next> {
        self.timers.iter().min_by_key(|(timer, at)| (**at, **timer)).map(|(timer, at)| Next::Timer(*timer, *at))
    }

    pub fn is_starting_any(&self) -> bool {
        !self.spawning.is_empty()
    }

    /// Hands everything to a successor that executes in its place.
    pub fn state(&self) -> Kept {
        Kept { fleet: self.fleet.clone(), last_job: self.last_job }
    }

    pub fn go_on(&mut self, kernel: &mut Kernel, next: Next, asked: &Asked, random: &mut Random) -> Step {
        match next {
            Next::Spawn(worker) => self.spawn(kernel, worker, random),
            Next::Exit(worker) => {
                let Some(watched) = self.watched.get_mut(&worker) else { return Ok(()) };
                let process = kernel.processes.get(&watched.pid);
                let exit = process.and_then(|process| process.exit).unwrap_or(Exit::Unknown);
                let leftovers = process.is_some_and(|process| process.descendants);
                (watched.exit_told, watched.leftovers) = (true, leftovers);
                self.turn(kernel, Event::WorkerExited { worker, exit, leftovers })
            }
            Next::Gone(worker) => {
                self.watched.entry(worker).and_modify(|watched| watched.leftovers = false);
                self.turn(kernel, Event::LeftoversGone { worker })
            }
            Next::Word(worker, word) => {
                let pid = self.watched.get(&worker).map(|watched| watched.pid);
                self.turn(
                    kernel,
                    match word {
                        Word::Online => Event::WorkerOnline { worker },
                        Word::Listening => Event::WorkerListening { worker },
                        Word::Ready => Event::ReadyReceived { worker },
                        Word::Drained => Event::WorkerDrained { worker },
                    },
                )?;
                // It is taken out of the channel once what it means is kept.
                if let Some(process) = pid.and_then(|pid| kernel.processes.get_mut(&pid)) {
                    process.words.remove(0);
                }
                Ok(())
            }
            Next::Timer(timer, at) => {
                kernel.now = kernel.now.max(at.0);
                self.timers.remove(&timer);
                self.turn(kernel, Event::TimerElapsed { timer })
            }
            Next::Write => self.write(kernel, asked),
        }
    }

    fn spawn(&mut self, kernel: &mut Kernel, worker: WorkerId, random: &mut Random) -> Step {
        self.point()?;
        let late = self.has(Flaw::KeepsLate);
        let Some(spawning) = self.spawning.get_mut(&worker) else { return Ok(()) };
        let mode = spawning.order.spec.exec_mode;
        match spawning.at {
            Stage::Ordered if !kernel.calm && random.once_in_1000(30) => {
                self.spawning.remove(&worker);
                let failure = SpawnFailure { message: "no memory".to_owned(), transient: true };
                return self.turn(kernel, Event::SpawnFailed { worker, failure });
            }
            Stage::Ordered => {
                let pid = kernel.fork(&spawning.order);
                if late {
                    kernel.exec(pid, mode);
                }
                spawning.at = Stage::Forked(pid);
            }
            Stage::Forked(pid) => {
                if self.kept {
                    kernel.store.workers.insert(worker, pid);
                }
                spawning.at = Stage::Kept(pid);
            }
            Stage::Kept(pid) => {
                if !late {
                    kernel.exec(pid, mode);
                }
                spawning.at = Stage::Runs(pid);
            }
            Stage::Runs(pid) => {
                let wish = spawning.wish;
                self.spawning.remove(&worker);
                self.watched.insert(worker, Watched { pid, exit_told: false, leftovers: false });
                self.feed(kernel, Event::WorkerSpawned { worker, pid })?;
                self.wish(kernel, worker, wish);
                return self.after_turn(kernel);
            }
        }
        Ok(())
    }

    /// The last write, which is waited for, once everything has ended.
    pub fn end(mut self, kernel: &mut Kernel, asked: &Asked, random: &mut Random) -> Step {
        (self.dirty, self.changed) = (true, false);
        if self.has(Flaw::ForgetsAtShutdown) {
            self.fleet = Fleet::default();
        }
        while self.dirty || self.writing.is_some() {
            if kernel.disk.full && self.writing.is_some() {
                break;
            }
            self.go_on(kernel, Next::Write, asked, random)?;
        }
        Ok(())
    }

    /// The next step of a write: the new file, the old one out of its way, the new one into its place.
    fn write(&mut self, kernel: &mut Kernel, asked: &Asked) -> Step {
        self.point()?;
        let disk = &mut kernel.disk;
        match self.writing.take() {
            None => {
                self.dirty = false;
                self.writes += 1;
                let (number, kept, asked) = (self.writes, self.state(), asked.clone());
                self.writing = Some((File { number, whole: true, kept, asked }, 0));
            }
            Some(_) if disk.full => self.dirty = true,
            Some((file, 0)) => {
                if self.has(Flaw::WritesInPlace)
                    && let Some(current) = &mut disk.current
                {
                    current.whole = false;
                }
                self.writing = Some((file, 1));
            }
            Some((file, 1)) => {
                if !self.has(Flaw::WritesInPlace)
                    && let Some(before) = disk.current.take()
                {
                    disk.last = Some(before);
                }
                self.writing = Some((file, 2));
            }
            Some((file, _)) => {
                disk.before = disk.last.as_ref().map_or(0, |last| last.number);
                (disk.written, disk.rotten) = (file.number, false);
                disk.current = Some(file);
            }
        }
        Ok(())
    }
}

fn now(kernel: &Kernel) -> Now {
    Now { mono: Time(kernel.now), wall: 1_000_000 + kernel.now }
}

/// The way through a file or the next daemon's memory; not always the whole way, which takes long.
fn read(kernel: &mut Kernel, fleet: &Fleet) -> Fleet {
    kernel.reads += 1;
    if !kernel.reads.is_multiple_of(8) {
        return fleet.clone();
    }
    serde_json::from_slice(&serde_json::to_vec(fleet).unwrap()).unwrap()
}

/// Ends a worker that cannot be taken over, and lets go of it.
fn end(kernel: &mut Kernel, worker: WorkerId) {
    if let Some(pid) = kernel.store.workers.remove(&worker) {
        kernel.kill(pid);
    }
    kernel.bury();
}
