//! What outlives the daemon: processes, the service manager's store, the disk, the clock.

use std::collections::BTreeMap;

use pm2rs::core::{AppSpec, ExecMode, Exit, Fleet, SpawnOrder, WorkerId};

use crate::asked::Asked;
use crate::random::Random;

/// What a worker says over its channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    Online,
    Listening,
    Ready,
    Drained,
}

/// How an app's workers behave until the world calms down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nature {
    Good,
    /// Ends by itself now and then.
    Crashes,
    /// Says nothing and never drains.
    Hangs,
    /// Ignores every signal but SIGKILL.
    Deaf,
    /// Leaves descendants behind.
    Forks,
    /// Says everything again and again.
    Floods,
}

impl Nature {
    /// It is written into the app's arguments.
    pub fn of(spec: &AppSpec) -> Nature {
        let all = [Nature::Crashes, Nature::Hangs, Nature::Deaf, Nature::Forks, Nature::Floods];
        all.into_iter().find(|nature| spec.args == [format!("{nature:?}")]).unwrap_or(Nature::Good)
    }
}

#[derive(Debug)]
pub struct Process {
    pub worker: WorkerId,
    pub app: String,
    pub instance: u32,
    pub nature: Nature,
    /// It waits before its exec(3); it ends when its parent does.
    pub held: bool,
    /// How its main process ended.
    pub exit: Option<Exit>,
    pub descendants: bool,
    pub asked_to_end: bool,
    pub killed: bool,
    pub draining: bool,
    /// What lies in its channel.
    pub words: Vec<Word>,
    /// Its channel is lost.
    pub mute: bool,
}

impl Process {
    pub fn is_alive(&self) -> bool {
        self.exit.is_none() || self.descendants
    }

    fn ends(&mut self, exit: Exit) {
        self.exit = Some(exit);
        self.descendants = self.nature == Nature::Forks && !self.killed && !self.held;
    }
}

/// The state as one daemon leaves it to the next.
#[derive(Debug, Clone)]
pub struct Kept {
    /// As JSON, made when it is read.
    pub fleet: Fleet,
    pub last_job: u32,
}

/// A file of state, by what was asked when it was written.
#[derive(Debug, Clone)]
pub struct File {
    pub number: u64,
    pub whole: bool,
    pub kept: Kept,
    pub asked: Asked,
}

#[derive(Debug, Default)]
pub struct Disk {
    pub current: Option<File>,
    pub last: Option<File>,
    /// Nothing can be written.
    pub full: bool,
    /// The newest file that was written completely, and the one before.
    pub written: u64,
    pub before: u64,
    /// It was damaged afterwards.
    pub rotten: bool,
}

#[derive(Debug, Default)]
pub struct Store {
    /// Descriptors of workers, as one.
    pub workers: BTreeMap<WorkerId, u32>,
    pub state: Option<Kept>,
}

#[derive(Debug)]
pub struct Kernel {
    pub now: u64,
    pub processes: BTreeMap<u32, Process>,
    pub store: Store,
    pub disk: Disk,
    /// Everybody behaves from now on.
    pub calm: bool,
    /// How often a state was read.
    pub reads: usize,
    next_pid: u32,
}

impl Kernel {
    pub fn new() -> Kernel {
        Kernel {
            now: 100_000,
            processes: BTreeMap::new(),
            store: Store::default(),
            disk: Disk::default(),
            calm: false,
            reads: 0,
            next_pid: 1000,
        }
    }

    pub fn fork(&mut self, order: &SpawnOrder) -> u32 {
        self.next_pid += 1;
        let name = &order.spec.name;
        let process = Process {
            worker: order.worker,
            app: name.clone(),
            instance: order.instance,
            nature: if self.calm { Nature::Good } else { Nature::of(&order.spec) },
            held: true,
            exit: None,
            descendants: false,
            asked_to_end: false,
            killed: false,
            draining: false,
            words: Vec::new(),
            mute: false,
        };
        self.processes.insert(self.next_pid, process);
        self.next_pid
    }

    /// A process that was held goes on.
    pub fn exec(&mut self, pid: u32, mode: ExecMode) {
        let process = self.processes.get_mut(&pid).unwrap();
        if process.exit.is_some() {
            return;
        }
        process.held = false;
        if process.nature != Nature::Hangs {
            if mode == ExecMode::Cluster {
                process.words = vec![Word::Online, Word::Listening];
            }
            process.words.push(Word::Ready);
        }
    }

    pub fn terminate(&mut self, pid: u32) {
        if let Some(process) = self.processes.get_mut(&pid) {
            process.asked_to_end = true;
        }
    }

    /// SIGKILL to all of it, at once.
    pub fn kill(&mut self, pid: u32) {
        if let Some(process) = self.processes.get_mut(&pid) {
            process.killed = true;
            process.descendants = false;
            if process.exit.is_none() {
                process.ends(Exit::Signal(9));
            }
        }
    }

    pub fn drain(&mut self, pid: u32) {
        if let Some(process) = self.processes.get_mut(&pid).filter(|process| process.exit.is_none())
            && !std::mem::replace(&mut process.draining, true)
            && process.nature != Nature::Hangs
        {
            process.words.push(Word::Drained);
        }
    }

    /// Something of its own happens to one process, if anything is to.
    pub fn step(&mut self, random: &mut Random) -> Option<String> {
        let calm = self.calm;
        let moves: Vec<u32> = self.processes.iter().filter(|(_, p)| p.may_move(calm)).map(|(pid, _)| *pid).collect();
        let pid = random.pick(&moves)?;
        let process = self.processes.get_mut(&pid)?;
        if process.exit.is_some() {
            process.descendants = false;
            return Some(format!("what pid {pid} left behind is gone"));
        }
        if process.asked_to_end {
            process.ends(Exit::Signal(2));
            return Some(format!("pid {pid} ends as asked"));
        }
        if process.nature == Nature::Floods {
            process.words = vec![Word::Listening, Word::Online, Word::Ready, Word::Listening];
            return Some(format!("pid {pid} says all again"));
        }
        process.ends(if random.once_in_1000(500) { Exit::Code(1) } else { Exit::Code(0) });
        Some(format!("pid {pid} ends by itself"))
    }

    /// All that waits for its exec, and is held by the daemon, ends with it.
    pub fn daemon_dies(&mut self) {
        for process in self.processes.values_mut().filter(|process| process.held && process.exit.is_none()) {
            process.killed = true;
            process.ends(Exit::Signal(9));
        }
        self.bury();
    }

    /// Whoever kept what the daemon had is gone as well, and with it the channels.
    pub fn keeper_dies(&mut self) {
        self.store = Store::default();
        for process in self.processes.values_mut() {
            process.mute = true;
            process.words.clear();
        }
        self.bury();
    }

    /// Forgets the dead whom nobody can ask about any more.
    pub fn bury(&mut self) {
        let kept: Vec<u32> = self.store.workers.values().copied().collect();
        self.processes.retain(|pid, process| process.is_alive() || kept.contains(pid));
    }

    pub fn reboot(&mut self) {
        self.processes.clear();
        self.store = Store::default();
    }
}

impl Process {
    fn may_move(&self, calm: bool) -> bool {
        match self.exit {
            Some(_) => self.descendants,
            None if self.held => false,
            None if self.asked_to_end => self.nature != Nature::Deaf,
            None if self.mute && self.nature == Nature::Floods => false,
            None => !calm && matches!(self.nature, Nature::Crashes | Nature::Floods),
        }
    }
}
