//! A shell without a kernel: performs the core's actions on paper, keeps its clock, and checks after every step what
//! must hold always.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::core::*;

/// What the simulated kernel has of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Os {
    /// Ordered, start not answered.
    Ordered,
    /// Its main process lives.
    Alive,
    /// Its main process has ended, descendants live.
    Leftovers,
    /// Nothing is left.
    Gone,
}

#[derive(Debug, Clone)]
pub struct Paper {
    pub os: Os,
    pub spec: Arc<AppSpec>,
    pub terminated: bool,
    pub killed: bool,
    pub draining: bool,
    pub probing: bool,
}

#[derive(Debug, Default)]
pub struct Simulator {
    pub fleet: Fleet,
    pub now: u64,
    pub workers: BTreeMap<WorkerId, Paper>,
    pub timers: BTreeMap<Timer, Time>,
    pub opened: BTreeSet<JobId>,
    pub finished: BTreeMap<JobId, JobOutcome>,
    pub exited: bool,
    /// Of the last event.
    pub actions: Vec<Action>,
    /// Rows that restart jobs are about.
    pub restarts: BTreeMap<JobId, Vec<ProcessId>>,
    /// Of all events.
    pub announced: Vec<(ProcessId, &'static str, bool)>,
    pub logged: Vec<(LogTopic, String)>,
}

pub fn fork() -> AppSpec {
    AppSpec { name: "api".to_owned(), ..AppSpec::default() }
}

pub fn cluster(instances: i32) -> AppSpec {
    AppSpec { exec_mode: ExecMode::Cluster, instances: Instances(instances), ..fork() }
}

pub const P0: ProcessId = ProcessId(0);
pub const P1: ProcessId = ProcessId(1);

impl Simulator {
    /// Lets the core take an event in, performs what it says and checks what must always hold.
    pub fn send(&mut self, event: Event) {
        if let Some(job) = job_of(&event) {
            assert!(self.opened.insert(job), "the test opens {job} twice");
        }
        if let Event::RestartRequested { job, processes, .. } = &event {
            self.restarts.insert(*job, processes.clone());
        }
        let open = self.restarts.iter().filter(|(job, _)| !self.finished.contains_key(job));
        let restarting: BTreeSet<_> = open.flat_map(|(_, processes)| processes.iter().copied()).collect();
        let mut ready_before = self.ready_rows();
        let mut listening_before = self.listening_rows();
        // Restarts go on over many events, a few rows at a time.
        ready_before.retain(|process| !restarting.contains(process));
        listening_before.retain(|process| !restarting.contains(process));
        if let Event::WorkerExited { worker, .. } = &event {
            // It died by itself, or was asked to end.
            let row = self.fleet.worker(*worker).map(|worker| worker.process);
            ready_before.retain(|process| Some(*process) != row);
            listening_before.retain(|process| Some(*process) != row);
        }
        let now = Now { mono: Time(self.now), wall: 1_000_000 + self.now };
        self.actions = self.fleet.step(event.clone(), now);
        for action in self.actions.clone() {
            self.perform(action);
        }
        self.check();
        self.check_that_serving_rows_stay(&event, &ready_before, Simulator::ready_rows);
        self.check_that_serving_rows_stay(&event, &listening_before, Simulator::listening_rows);
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::SpawnWorker(order) => {
                let row = self.fleet.process(order.process).expect("a row is served");
                assert_eq!(row.desired, Desired::Running, "what is not to run is never started");
                assert!(!self.fleet.is_shutting_down(), "nothing starts in a shutdown");
                let paper = Paper {
                    os: Os::Ordered,
                    spec: order.spec.clone(),
                    terminated: false,
                    killed: false,
                    draining: false,
                    probing: false,
                };
                assert!(self.workers.insert(order.worker, paper).is_none(), "{} is used twice", order.worker);
            }
            Action::TerminateWorker { worker } => {
                let paper = self.alive(worker);
                assert!(!paper.terminated, "{worker} is asked twice");
                paper.terminated = true;
            }
            Action::KillWorker { worker } => self.alive(worker).killed = true,
            Action::DrainWorker { worker, .. } => self.alive(worker).draining = true,
            Action::AdmitWorker { worker } => {
                assert!(self.workers.get(&worker).is_some_and(|paper| !paper.terminated), "{worker} cannot serve");
            }
            Action::StartProbe { worker } => {
                let paper = self.alive(worker);
                assert!(!paper.probing && paper.spec.probe.is_some(), "{worker} is probed for no reason");
                paper.probing = true;
            }
            Action::ArmTimer { timer, at } => {
                assert!(at >= Time(self.now));
                self.timers.insert(timer, at);
            }
            Action::DisarmTimer { timer } => {
                assert!(self.timers.remove(&timer).is_some(), "{timer:?} was not armed");
            }
            Action::ReleaseWorker { worker } => {
                let paper = self.workers.remove(&worker).expect("released once");
                assert_eq!(paper.os, Os::Gone, "{worker} is released while it lives");
            }
            Action::JobFinished { job, outcome } => {
                assert!(self.opened.contains(&job), "{job} was never opened");
                assert!(self.finished.insert(job, outcome).is_none(), "{job} finishes twice");
            }
            Action::JobProgressed { job, done, total } => {
                assert!(self.opened.contains(&job) && done <= total);
            }
            Action::Announce { process, event, manually } => self.announced.push((process, event, manually)),
            Action::Log { message, topic, .. } => self.logged.push((topic, message)),
            Action::Exit => {
                assert!(self.workers.is_empty() || self.workers.values().all(|paper| paper.killed));
                self.exited = true;
            }
            Action::ProcessAdded { process } | Action::ProcessChanged { process } => {
                assert!(
                    self.fleet.process(process).is_some() || self.actions.contains(&Action::ProcessRemoved { process })
                );
            }
            Action::ProcessRemoved { process } => assert!(self.fleet.process(process).is_none()),
            Action::AppAdded { .. } | Action::AppChanged { .. } | Action::AppRemoved { .. } | Action::SaveState => {}
        }
    }

    fn alive(&mut self, worker: WorkerId) -> &mut Paper {
        let paper = self.workers.get_mut(&worker).expect("a worker is there");
        assert!(matches!(paper.os, Os::Alive | Os::Leftovers), "{worker} is not there");
        paper
    }

    /// What must hold between any two events.
    fn check(&self) {
        assert_eq!(self.timers, self.fleet.timers().collect(), "the core knows which timers are armed");
        assert!(
            self.workers.keys().eq(self.fleet.workers().map(|worker| &worker.id)),
            "each worker released once over"
        );
        for (timer, _) in self.fleet.timers() {
            assert!(self.is_wanted(timer), "{timer:?} is armed in a state that does not want it");
        }
        let mut served = BTreeSet::new();
        for row in self.fleet.processes() {
            let current = row.current.map(|id| self.fleet.worker(id).unwrap().state);
            let agrees = match row.state {
                State::Starting => current == Some(WorkerState::Starting),
                State::Ready => current == Some(WorkerState::Ready),
                State::Draining => current == Some(WorkerState::Draining),
                State::Stopping => matches!(current, Some(WorkerState::Stopping | WorkerState::Exited)),
                State::Backoff => current.is_none() && self.timers.contains_key(&Timer::Restart(row.id)),
                State::Errored | State::Stopped => current.is_none(),
            };
            assert!(agrees, "row {} is {:?}, its worker {current:?}", row.id, row.state);
            assert!(row.workers().all(|worker| served.insert(worker)), "a worker has one place");
            assert!(self.fleet.spec_of_process(row.id).is_some());
        }
        for worker in self.fleet.workers() {
            assert!(served.contains(&worker.id), "{} serves nobody", worker.id);
            assert_eq!(self.fleet.spec_of_worker(worker.id), Some(&self.workers[&worker.id].spec), "specs are kept");
            let has = |timer: fn(WorkerId) -> Timer| self.timers.contains_key(&timer(worker.id));
            let bounded = match worker.state {
                _ if worker.pid.is_none() => true,
                WorkerState::Starting => has(Timer::Listen),
                WorkerState::Ready => true,
                WorkerState::Draining => has(Timer::Drain),
                WorkerState::Stopping | WorkerState::Exited => {
                    has(Timer::Kill) || has(Timer::Unkillable) || worker.unkillable
                }
            };
            assert!(bounded, "nothing bounds {:?} of {}", worker.state, worker.id);
        }
        assert!(self.fleet.apps().all(|app| self.fleet.processes_of(app.id).next().is_some()), "an app has rows");
        let finished: BTreeSet<_> = self.finished.keys().copied().collect();
        let open: BTreeSet<_> = self.fleet.jobs().map(|job| job.id).collect();
        assert!(open.is_disjoint(&finished));
        assert_eq!(
            open.union(&finished).copied().collect::<BTreeSet<_>>(),
            self.opened,
            "every job is open or finished"
        );
    }

    fn is_wanted(&self, timer: Timer) -> bool {
        let worker = |id| self.fleet.worker(id).expect("the timer's worker is there");
        match timer {
            Timer::Listen(id) => worker(id).state == WorkerState::Starting && worker(id).pid.is_some(),
            Timer::MinUptime(id) => worker(id).state == WorkerState::Ready && worker(id).on_trial,
            Timer::Drain(id) => worker(id).state == WorkerState::Draining,
            Timer::Kill(id) => matches!(worker(id).state, WorkerState::Stopping | WorkerState::Exited),
            Timer::Unkillable(id) => worker(id).killed && !worker(id).unkillable,
            Timer::Restart(id) => self.fleet.process(id).is_some_and(|row| row.state == State::Backoff),
        }
    }

    /// Rows of cluster apps that serve.
    fn ready_rows(&self) -> BTreeSet<ProcessId> {
        let cluster = |row: &&Process| self.fleet.spec_of_process(row.id).unwrap().exec_mode == ExecMode::Cluster;
        let ready = self.fleet.processes().filter(|row| row.state == State::Ready);
        ready.filter(cluster).map(|row| row.id).collect()
    }

    /// Those of them that have been seen to listen.
    fn listening_rows(&self) -> BTreeSet<ProcessId> {
        let listens = |process: &ProcessId| self.fleet.worker(self.current(*process)).unwrap().listened;
        self.ready_rows().into_iter().filter(listens).collect()
    }

    /// A cluster row that serves goes on serving, unless its worker died by itself or a request says otherwise; a
    /// reload is no such request, and a scale down leaves as many as are wanted.
    fn check_that_serving_rows_stay(
        &self,
        event: &Event,
        before: &BTreeSet<ProcessId>,
        serving: fn(&Simulator) -> BTreeSet<ProcessId>,
    ) {
        let after = serving(self);
        let excused: Vec<ProcessId> = match event {
            Event::StopRequested { processes, .. } | Event::DeleteRequested { processes, .. } => processes.clone(),
            Event::RestartTriggered { process, graceful: false, .. } => vec![*process],
            Event::ScaleRequested { app, instances, .. } => {
                let of_app = |process: &&ProcessId| self.fleet.process(**process).is_none_or(|row| row.app == *app);
                let left = after.iter().filter(of_app).count();
                let wanted = usize::try_from(*instances).unwrap().max(1);
                assert!(left >= wanted.min(before.iter().filter(of_app).count()), "{left} serve after {event:?}");
                return;
            }
            Event::ShutdownRequested { .. } => return,
            _ => Vec::new(),
        };
        for process in before.iter().filter(|process| !excused.contains(process)) {
            let Some(row) = self.fleet.process(*process) else { continue };
            assert!(after.contains(process), "row {process} stopped serving at {event:?}: {row:?}");
        }
    }

    pub fn state(&self, process: ProcessId) -> State {
        self.fleet.process(process).unwrap().state
    }

    pub fn current(&self, process: ProcessId) -> WorkerId {
        self.fleet.process(process).unwrap().current.unwrap()
    }

    pub fn incoming(&self, process: ProcessId) -> Option<WorkerId> {
        self.fleet.process(process).unwrap().incoming
    }

    /// The timers armed, with the milliseconds until they are due.
    pub fn armed(&self) -> Vec<(Timer, u64)> {
        self.timers.iter().map(|(timer, at)| (*timer, at.0 - self.now)).collect()
    }

    pub fn does(&self, action: &Action) -> bool {
        self.actions.contains(action)
    }

    pub fn spawns(&self) -> usize {
        self.actions.iter().filter(|action| matches!(action, Action::SpawnWorker(_))).count()
    }

    pub fn next_job(&self) -> JobId {
        JobId(u32::try_from(self.opened.len()).unwrap() + 1)
    }

    pub fn outcome(&self, job: JobId) -> Option<&JobOutcome> {
        self.finished.get(&job)
    }

    pub fn is_done(&self, job: JobId) -> bool {
        self.outcome(job) == Some(&JobOutcome::Done { warnings: Vec::new() })
    }

    /// Whether a line of this topic was logged.
    pub fn told(&self, topic: LogTopic) -> bool {
        self.logged.iter().any(|(told, _)| *told == topic)
    }

    /// The message of a job that failed.
    pub fn failure(&self, job: JobId) -> &str {
        match self.outcome(job) {
            Some(JobOutcome::Failed { message, .. }) => message,
            other => panic!("job {job} did not fail: {other:?}"),
        }
    }

    pub fn start(&mut self, spec: AppSpec) -> JobId {
        let job = self.next_job();
        self.send(Event::AppStartRequested { job, spec: Arc::new(spec), owner: Uid(1000) });
        job
    }

    /// Starts an app and has all of its workers become ready and, in cluster mode, listen.
    pub fn running(spec: AppSpec) -> Simulator {
        let mut sim = Simulator { now: 100_000, ..Simulator::default() };
        let job = sim.start(spec);
        sim.all_ready();
        assert!(sim.is_done(job));
        sim.now += 60_000;
        sim
    }

    /// Lets every worker that is ordered or starting get ready.
    pub fn all_ready(&mut self) {
        loop {
            let ordered = self.workers.iter().find(|(_, paper)| paper.os == Os::Ordered).map(|(id, _)| *id);
            let Some(worker) = ordered else { break };
            self.ready(worker);
        }
    }

    /// Lets one ordered worker get ready in its app's way.
    pub fn ready(&mut self, worker: WorkerId) {
        self.spawned(worker);
        if !self.workers.contains_key(&worker) {
            return;
        }
        if self.workers[&worker].spec.exec_mode == ExecMode::Cluster {
            self.send(Event::WorkerOnline { worker });
            self.send(Event::WorkerListening { worker });
        }
        if self.workers[&worker].spec.wait_ready {
            self.send(Event::ReadyReceived { worker });
        }
        if self.workers[&worker].probing {
            self.send(Event::ProbeSucceeded { worker });
        }
    }

    pub fn spawned(&mut self, worker: WorkerId) {
        let paper = self.workers.get_mut(&worker).unwrap();
        assert_eq!(paper.os, Os::Ordered);
        paper.os = Os::Alive;
        self.send(Event::WorkerSpawned { worker, pid: 1000 + worker.0 });
    }

    pub fn spawn_fails(&mut self, worker: WorkerId, transient: bool) {
        let paper = self.workers.get_mut(&worker).unwrap();
        assert_eq!(paper.os, Os::Ordered);
        paper.os = Os::Gone;
        let message = "cannot execute `/srv/api`: no such file".to_owned();
        self.send(Event::SpawnFailed { worker, failure: SpawnFailure { message, transient } });
    }

    pub fn exits(&mut self, worker: WorkerId, exit: Exit) {
        self.workers.get_mut(&worker).unwrap().os = Os::Gone;
        self.send(Event::WorkerExited { worker, exit, leftovers: false });
    }

    pub fn exits_with_leftovers(&mut self, worker: WorkerId, exit: Exit) {
        self.workers.get_mut(&worker).unwrap().os = Os::Leftovers;
        self.send(Event::WorkerExited { worker, exit, leftovers: true });
    }

    pub fn leftovers_gone(&mut self, worker: WorkerId) {
        self.workers.get_mut(&worker).unwrap().os = Os::Gone;
        self.send(Event::LeftoversGone { worker });
    }

    pub fn restart(&mut self, processes: &[ProcessId]) -> JobId {
        let job = self.next_job();
        self.send(Event::RestartRequested { job, processes: processes.to_vec(), update: BTreeMap::new() });
        job
    }

    pub fn stop(&mut self, processes: &[ProcessId]) -> JobId {
        let job = self.next_job();
        self.send(Event::StopRequested { job, processes: processes.to_vec() });
        job
    }

    pub fn delete(&mut self, processes: &[ProcessId]) -> JobId {
        let job = self.next_job();
        self.send(Event::DeleteRequested { job, processes: processes.to_vec() });
        job
    }

    pub fn scale(&mut self, app: AppId, instances: u32) -> JobId {
        let job = self.next_job();
        self.send(Event::ScaleRequested { job, app, instances });
        job
    }

    pub fn reload(&mut self, processes: &[ProcessId]) -> JobId {
        self.reload_with(processes, None, None)
    }

    pub fn reload_with(&mut self, processes: &[ProcessId], spec: Option<AppSpec>, batch: Option<u32>) -> JobId {
        let job = self.next_job();
        let app = self.fleet.process(processes[0]).unwrap().app;
        let update = spec.map(|spec| (app, Arc::new(spec))).into_iter().collect();
        let options = ReloadOptions { batch };
        self.send(Event::ReloadRequested { job, processes: processes.to_vec(), update, options });
        job
    }

    pub fn shutdown(&mut self) -> JobId {
        let job = self.next_job();
        self.send(Event::ShutdownRequested { job });
        job
    }

    /// Lets time pass, with every timer that becomes due meanwhile.
    pub fn pass(&mut self, ms: u64) {
        let end = self.now + ms;
        while let Some((timer, at)) = self.next_due().filter(|(_, at)| at.0 <= end) {
            self.now = self.now.max(at.0);
            self.timers.remove(&timer);
            self.send(Event::TimerElapsed { timer });
        }
        self.now = end;
    }

    pub fn next_due(&self) -> Option<(Timer, Time)> {
        self.timers.iter().min_by_key(|(_, at)| **at).map(|(timer, at)| (*timer, *at))
    }

    /// Lets everybody behave from now on until nothing is left to happen: starts succeed and get ready, who is to end
    /// ends, who is to drain drains, leftovers vanish, timers elapse.
    pub fn settle(&mut self) {
        for _ in 0..10_000 {
            let next = self.workers.iter().find_map(|(id, paper)| {
                let act = match paper.os {
                    Os::Ordered => Some(0),
                    Os::Leftovers => Some(1),
                    Os::Alive if paper.terminated || paper.killed => Some(2),
                    Os::Alive if paper.draining => Some(3),
                    Os::Alive if self.fleet.worker(*id).unwrap().state == WorkerState::Starting => Some(4),
                    Os::Alive | Os::Gone => None,
                };
                act.map(|act| (*id, act))
            });
            match next {
                Some((worker, 0)) => self.ready(worker),
                Some((worker, 1)) => self.leftovers_gone(worker),
                Some((worker, 2)) => self.exits(worker, Exit::Signal(2)),
                Some((worker, 3)) => {
                    self.send(Event::WorkerDrained { worker });
                }
                Some((worker, _)) => {
                    self.send(Event::WorkerOnline { worker });
                    self.send(Event::WorkerListening { worker });
                    self.send(Event::ReadyReceived { worker });
                    self.send(Event::ProbeSucceeded { worker });
                }
                None => match self.next_due() {
                    Some((_, at)) => self.pass(at.0.saturating_sub(self.now)),
                    None => return,
                },
            }
        }
        panic!("it does not come to rest: {:#?}", self.fleet);
    }
}

fn job_of(event: &Event) -> Option<JobId> {
    match event {
        Event::AppStartRequested { job, .. }
        | Event::RestoreRequested { job, .. }
        | Event::RestartRequested { job, .. }
        | Event::ReloadRequested { job, .. }
        | Event::StopRequested { job, .. }
        | Event::DeleteRequested { job, .. }
        | Event::ScaleRequested { job, .. }
        | Event::ShutdownRequested { job } => Some(*job),
        _ => None,
    }
}
