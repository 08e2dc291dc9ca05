//! What the log thread tells those who ask: the lines of a process, where older ones are, and how its output fares.
//!
//! Takes nothing out of a pipe and writes to no file.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;

use jiff::Timestamp;

use super::collector::{Collector, Row};
use super::follow::{Follower, Wanted};
use super::format::{Form, Origin};
use super::history::{Archive, Shelf};
use super::mailbox::FollowRequest;
use super::sinks::FileId;
use super::syslog;
use super::tail::Beginning;
use super::{Counters, Whose, last_lines};
use crate::core::ProcessId;
use crate::sys::epoll::Interest;

/// Stands between the last lines and what follows.
const LIVE: &[u8] = b"{\"live\":true}\n";

impl Collector {
    pub(super) fn follow(&mut self, request: &FollowRequest) -> io::Result<OwnedFd> {
        Follower::admit(request.reader, request.lines > 0, self.sinks.followers.values())?;
        let mut wanted = Wanted { out: request.out, err: request.err, ..Wanted::default() };
        match &request.whose {
            Whose::All(of) => wanted.all = Some(*of),
            Whose::Processes(ids) => {
                wanted.processes = ids.iter().copied().collect();
                // An app of which every process is followed is followed itself: what joins it is followed, too.
                let ids = &wanted.processes;
                let partly = self.rows.iter().filter(|(id, _)| !ids.contains(id)).map(|(_, row)| row.known.app);
                let partly: BTreeSet<_> = partly.collect();
                let some = ids.iter().filter_map(|id| self.rows.get(id)).map(|row| row.known.app);
                wanted.apps = some.filter(|app| !partly.contains(app)).collect();
            }
        }
        let mut waiting = Vec::new();
        if request.lines > 0 {
            let rows = self.rows_of(&request.whose);
            self.last_lines(&rows, request, &mut waiting);
            waiting.extend_from_slice(LIVE);
        }
        let (mut follower, reader) = Follower::new(request.reader, wanted, waiting)?;
        if follower.pump() {
            let token = self.next_follower;
            self.next_follower += 1;
            self.poller.add(follower.pipe(), token, Interest::MoreReadableOrWritable)?;
            self.sinks.followers.insert(token, follower);
        }
        Ok(reader)
    }

    fn rows_of(&self, whose: &Whose) -> Vec<ProcessId> {
        let wanted = |(id, row): &(&ProcessId, &Row)| match whose {
            Whose::Processes(ids) => ids.contains(id),
            Whose::All(of) => of.is_none_or(|of| of == row.known.app_owner),
        };
        self.rows.iter().filter(wanted).map(|(id, _)| *id).collect()
    }

    /// Where the lines of these processes are, for those who search them.
    pub(super) fn archives(&mut self, whose: &Whose) -> Vec<Archive> {
        let mut seen = BTreeSet::new();
        let mut archives = Vec::new();
        for id in self.rows_of(whose) {
            let Some(row) = self.rows.get(&id) else { continue };
            let known = &row.known;
            let files: Vec<(bool, FileId)> =
                [(false, row.out), (true, row.err)].into_iter().filter_map(|(err, file)| Some((err, file?))).collect();
            let mut archive = Archive {
                process: id,
                app_name: known.app_name.clone(),
                uid: known.identity.uid,
                form: Form::of(&known.spec),
                shelves: Vec::new(),
                shared: files.iter().any(|(_, file)| seen.contains(file)),
                journal: self.to_journal(&known.spec),
                memory: Vec::new(),
            };
            for (err, file) in files.into_iter().filter(|(_, file)| seen.insert(*file)) {
                let Some(file) = self.sinks.file(file) else { continue };
                let names = file.kept().map(|(names, _)| names.clone());
                archive.shelves.push(Shelf { err, place: file.place().clone(), names });
            }
            archive.memory = self.sinks.tally(id).memory.last(usize::MAX, true, true).into_iter().cloned().collect();
            archives.push(archive);
        }
        archives
    }

    /// The last lines of each of these processes' files, the file that was written to longest ago first.
    fn last_lines(&mut self, rows: &[ProcessId], request: &FollowRequest, waiting: &mut Vec<u8>) {
        let mut files = Vec::new();
        let mut seen = BTreeSet::new();
        for id in rows {
            let Some(row) = self.rows.get(id) else { continue };
            let streams = [(false, row.out, request.out), (true, row.err, request.err)];
            for (err, file, _) in streams.into_iter().filter(|(.., wanted)| *wanted) {
                let place = file.filter(|id| seen.insert(*id)).and_then(|id| self.sinks.file(id));
                if let Some(place) = place.map(|file| file.place().clone()) {
                    files.push((place.modified(), row.known.process, err, place));
                }
            }
        }
        // Those that are cut off when it is too much are not even read.
        files.sort_by_key(|(modified, ..)| Reverse(*modified));
        let mut last = last_lines::LastLines::new(request.lines);
        for (_, process, err, place) in files {
            if last.is_full() {
                break;
            }
            let Some(row) = self.rows.get(&process) else { continue };
            let origin = Origin { process, app_name: &row.known.app_name, err };
            last.add_file(&place, origin, &Form::of(&row.known.spec));
        }
        for id in rows {
            let Some(row) = self.rows.get(id) else { continue };
            let origin = Origin { process: *id, app_name: &row.known.app_name, err: false };
            let (out, err) = (request.out && row.out.is_none(), request.err && row.err.is_none());
            last.add_memory(&self.sinks.tally(*id).memory, origin, out, err);
        }
        last.append_to(waiting);
    }

    /// A worker of this row begins to write.
    pub(super) fn note_beginning(&mut self, process: ProcessId) {
        let Some(row) = self.rows.get(&process) else { return };
        let mut size =
            |file: Option<FileId>| file.and_then(|id| self.sinks.file(id)).map_or(0, |file| file.place().size());
        let (out, err) = (size(row.out.or(row.combined)), size(row.err.or(row.combined)));
        let began = Beginning { out, err, ms: Timestamp::now().as_millisecond() };
        self.rows.entry(process).and_modify(|row| row.began = began);
    }

    /// The last lines of a row's newest worker.
    pub(super) fn tail(&mut self, process: ProcessId, err: bool, lines: u32) -> Vec<String> {
        let Some(row) = self.rows.get(&process) else { return Vec::new() };
        let file = if err { row.err } else { row.out }.or(row.combined);
        let (form, began) = (Form::of(&row.known.spec), row.began);
        let place = file.and_then(|id| self.sinks.file(id)).map(|file| file.place().clone());
        match place {
            Some(place) => last_lines::texts(&place, &form, lines, if err { began.err } else { began.out }),
            None => {
                let memory = &self.sinks.tally(process).memory;
                let last = memory.last(usize::try_from(lines).unwrap_or(usize::MAX), !err, err);
                last.into_iter()
                    .filter(|line| line.timestamp > began.ms)
                    .map(|line| String::from_utf8_lossy(&line.text).into_owned())
                    .collect()
            }
        }
    }

    pub(super) fn counters(&mut self, process: ProcessId) -> Counters {
        let files: Vec<FileId> = self.rows.get(&process).into_iter().flat_map(Row::files).collect();
        let file_error = files.into_iter().find_map(|id| self.sinks.file(id)?.error());
        let receiver = self.rows.get(&process).and_then(|row| {
            let address = self.config.syslog_of(&row.known.spec)?;
            Some(syslog::Receiver { address, uid: row.known.identity.uid })
        });
        let syslog_error = || receiver.and_then(|receiver| self.sinks.syslog.error(&receiver));
        let last_error = file_error.or_else(|| self.sinks.journal.error().map(str::to_owned)).or_else(syslog_error);
        let bytes = self.sinks.tally(process).bytes;
        Counters { bytes, dropped: self.sinks.losses.of(process).lines, last_error }
    }
}
