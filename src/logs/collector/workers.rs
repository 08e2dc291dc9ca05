//! Workers that come and go: their pipes are read from the first byte to the last, and no longer than that.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::{Collector, has_work};
use crate::core::{SyslogAddress, WorkerId};
use crate::logs::file::Writer;
use crate::logs::format::Form;
use crate::logs::journal::Sender;
use crate::logs::sinks::{FileId, Outlet};
use crate::logs::stream::{self, Stream};
use crate::logs::{Known, Source, syslog};
use crate::sys::epoll::Interest;
use crate::sys::identity::Identity;

/// A worker that ended is given up when its pipes do not come to an end within this time of being found empty.
const GRACE: Duration = Duration::from_millis(100);
/// And within this time when they are never found empty.
const PATIENCE: Duration = Duration::from_secs(3);

/// What the journal is told of a worker.
#[derive(Debug)]
struct Origins {
    instance: u32,
    namespace: String,
    identity: Identity,
    pid: u32,
    unit: Option<String>,
}

impl Origins {
    fn syslog(&self, outlet: &Outlet, address: SyslogAddress) -> Arc<syslog::Sender> {
        let (process, err) = (outlet.process, outlet.writer.err);
        Arc::new(syslog::Sender::new(address, &self.identity, process, &outlet.app_name, err, self.pid))
    }

    fn head(&self, outlet: &Outlet) -> Arc<[u8]> {
        let sender = Sender {
            app_name: &outlet.app_name,
            process: outlet.process,
            instance: self.instance,
            namespace: &self.namespace,
            uid: self.identity.uid,
            err: outlet.writer.err,
            worker: outlet.writer.worker.0,
            pid: self.pid,
            unit: self.unit.as_deref(),
        };
        sender.head()
    }
}

#[derive(Debug)]
struct Departure {
    patience: Instant,
    empty_since: Option<Instant>,
    replies: Vec<oneshot::Sender<()>>,
}

/// A worker whose output is read.
#[derive(Debug)]
pub(super) struct Worker {
    origins: Origins,
    pub(super) streams: [(Outlet, Stream); 2],
    departure: Option<Departure>,
}

impl Worker {
    /// When it is given up, if it has ended.
    pub(super) fn given_up_at(&self) -> Option<Instant> {
        let departure = self.departure.as_ref()?;
        Some(departure.empty_since.map_or(departure.patience, |since| departure.patience.min(since + GRACE)))
    }
}

impl Collector {
    pub(super) fn attach(&mut self, source: Source) {
        let Source { worker, process, app, app_name, app_owner, identity, spec, stdout, stderr, .. } = source;
        let origins = Origins {
            instance: source.instance,
            namespace: source.namespace,
            identity: identity.clone(),
            pid: source.pid,
            unit: source.unit,
        };
        let known = Known { process, app, app_name: app_name.clone(), app_owner, identity, spec: spec.clone() };
        self.know(known);
        self.note_beginning(process);
        let Some(row) = self.rows.get(&process) else { return };
        let journal = self.to_journal(&spec);
        let (out, err, combined) = (row.out, row.err, row.combined);
        let outlet = |err: bool, file: Option<FileId>| Outlet {
            writer: Writer { worker, err },
            app,
            owner: app_owner,
            app_name: app_name.clone(),
            process,
            form: Form::of(&spec),
            file,
            combined,
            journal: None,
            syslog: None,
            remember: journal && file.is_none() && combined.is_none(),
        };
        let now = Instant::now();
        let mut streams = [(outlet(false, out), Stream::new(stdout)), (outlet(true, err), Stream::new(stderr))];
        for (outlet, stream) in &mut streams {
            outlet.journal = journal.then(|| origins.head(outlet));
            outlet.syslog = self.config.syslog_of(&spec).map(|address| origins.syslog(outlet, address));
            for id in [outlet.file, outlet.combined].into_iter().flatten() {
                if let Some(file) = self.sinks.file(id) {
                    file.expect_writer(now);
                }
            }
            // A pipe that epoll does not take is none; its first turn finds that out.
            drop(self.poller.add(stream.pipe(), stream::token(outlet.writer), Interest::MoreReadable));
        }
        let writers = streams.each_ref().map(|(outlet, _)| outlet.writer);
        self.workers.insert(worker, Worker { origins, streams, departure: None });
        for writer in writers {
            self.queue(Some(writer));
        }
    }

    pub(super) fn set_pid(&mut self, worker: WorkerId, pid: u32) {
        let Some(worker) = self.workers.get_mut(&worker) else { return };
        worker.origins.pid = pid;
        for (outlet, _) in &mut worker.streams {
            if outlet.journal.is_some() {
                outlet.journal = Some(worker.origins.head(outlet));
            }
            if let Some(sender) = &outlet.syslog {
                outlet.syslog = Some(Arc::new(sender.with_pid(pid)));
            }
        }
    }

    pub(super) fn detach(&mut self, id: WorkerId, reply: oneshot::Sender<()>, now: Instant) {
        let Some(worker) = self.workers.get_mut(&id) else {
            let _ = reply.send(());
            return;
        };
        match &mut worker.departure {
            Some(departure) => departure.replies.push(reply),
            None => {
                worker.departure =
                    Some(Departure { patience: now + PATIENCE, empty_since: None, replies: vec![reply] });
            }
        }
        let writers = worker.streams.each_ref().map(|(outlet, _)| outlet.writer);
        for writer in writers {
            self.queue(Some(writer));
        }
    }

    fn release(&mut self, id: WorkerId, now: Instant) {
        let Some(mut worker) = self.workers.remove(&id) else { return };
        for (outlet, stream) in &mut worker.streams {
            if !stream.ended {
                drop(self.poller.delete(stream.pipe()));
                stream.abandon(outlet, &mut self.sinks, now);
            }
            for id in [outlet.file, outlet.combined].into_iter().flatten() {
                if let Some(file) = self.sinks.file(id) {
                    file.writers = file.writers.saturating_sub(1);
                    if file.writers == 0 && file.is_well() {
                        file.close();
                    }
                }
            }
        }
        let outlets = self.workers.values().flat_map(|worker| &worker.streams).map(|(outlet, _)| outlet);
        let used: BTreeSet<_> =
            outlets.filter_map(|outlet| outlet.syslog.as_ref()).map(|sender| sender.receiver().clone()).collect();
        self.sinks.syslog.keep(|receiver| used.contains(receiver));
        let files: BTreeSet<_> =
            worker.streams.iter().flat_map(|(outlet, _)| [outlet.file, outlet.combined]).flatten().collect();
        self.let_go_of(files.into_iter(), has_work);
        self.pump_all();
        // Whoever hears that it is over may count on the pipes being closed.
        drop(worker.streams);
        for reply in worker.departure.into_iter().flat_map(|departure| departure.replies) {
            let _ = reply.send(());
        }
    }

    /// Lets go of workers that have ended and have nothing more to say, or say it for too long.
    pub(super) fn see_off(&mut self, now: Instant) {
        let mut over = Vec::new();
        for (id, worker) in &mut self.workers {
            let Some(departure) = &mut worker.departure else { continue };
            let done = worker.streams.iter().all(|(_, stream)| stream.ended || (stream.empty && !stream.queued));
            let since = if done { Some(*departure.empty_since.get_or_insert(now)) } else { None };
            let ended = worker.streams.iter().all(|(_, stream)| stream.ended);
            if ended || departure.patience <= now || since.is_some_and(|since| since + GRACE <= now) {
                over.push(*id);
            }
        }
        for worker in over {
            self.release(worker, now);
        }
    }
}
