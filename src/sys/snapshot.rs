//! State in memory that outlives its process, whole at every moment.
//!
//! Two files in memory are written in turn, each with a number and a checksum; whoever reads them takes the newest that
//! is whole. So a process that is killed in the middle of a write leaves the state before it.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use super::memfd;
use super::store::Store;

/// Number, length and checksum, little endian.
const HEADER: usize = 24;
/// What is larger is none of ours.
const MAX_BYTES: usize = 256 << 20;

/// The writer.
#[derive(Debug)]
pub struct Snapshot {
    slots: [File; 2],
    /// Number of the last write.
    number: u64,
}

impl Snapshot {
    /// The snapshot of this name in the store, with what was written last, if anything whole was; a new one where there
    /// is none.
    ///
    /// # Errors
    /// When there are no descriptors or no memory left.
    pub fn open(store: &Store, name: &str) -> io::Result<(Snapshot, Option<Vec<u8>>)> {
        let names = [format!("{name}-a"), format!("{name}-b")];
        if let [Some(first), Some(second)] = names.clone().map(|name| store.get(&name)) {
            let slots = [first, second].map(|fd: OwnedFd| File::from(fd));
            // A release before this one left them open to everybody.
            slots.iter().try_for_each(memfd::keep_private)?;
            let newest = slots.iter().filter_map(read).max_by_key(|(number, _)| *number);
            let number = newest.as_ref().map_or(0, |(number, _)| *number);
            return Ok((Snapshot { slots, number }, newest.map(|(_, content)| content)));
        }
        let slots = [memfd::rewritable(&names[0])?, memfd::rewritable(&names[1])?];
        for (name, slot) in names.iter().zip(&slots) {
            store.keep(name, slot);
        }
        Ok((Snapshot { slots, number: 0 }, None))
    }

    /// Replaces the content.
    ///
    /// # Errors
    /// When there is no memory left; the content before stays.
    pub fn write(&mut self, content: &[u8]) -> io::Result<()> {
        let number = self.number + 1;
        let slot = &self.slots[usize::from(number % 2 == 1)];
        slot.write_all_at(content, HEADER as u64)?;
        let mut header = [0; HEADER];
        header[..8].copy_from_slice(&number.to_le_bytes());
        header[8..16].copy_from_slice(&(content.len() as u64).to_le_bytes());
        header[16..].copy_from_slice(&checksum(number, content).to_le_bytes());
        slot.write_all_at(&header, 0)?;
        self.number = number;
        Ok(())
    }
}

fn read(slot: &File) -> Option<(u64, Vec<u8>)> {
    let all = memfd::read_all(slot, MAX_BYTES).ok()?;
    let word = |at: usize| Some(u64::from_le_bytes(all.get(at..at + 8)?.try_into().ok()?));
    let (number, length, sum) = (word(0)?, usize::try_from(word(8)?).ok()?, word(16)?);
    let content = all.get(HEADER..HEADER.checked_add(length)?)?;
    (checksum(number, content) == sum).then(|| (number, content.to_vec()))
}

/// FNV-1a over words; against torn writes, not against malice.
fn checksum(number: u64, content: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325 ^ number;
    for chunk in content.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        hash = (hash ^ u64::from_le_bytes(word)).wrapping_mul(0x0100_0000_01b3);
        hash ^= hash >> 32;
    }
    hash
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_next_reader_finds_the_last_whole_write() {
        let (store, _) = Store::new(None, Vec::new());
        let (mut first, nothing) = Snapshot::open(&store, "state").unwrap();
        assert!(nothing.is_none());
        assert!(Snapshot::open(&store, "state").unwrap().1.is_none());
        for content in ["one", "the second, which is longer", ""] {
            first.write(content.as_bytes()).unwrap();
            assert_eq!(Snapshot::open(&store, "state").unwrap().1.unwrap(), content.as_bytes());
        }
        let (mut second, _) = Snapshot::open(&store, "state").unwrap();
        second.write(b"four").unwrap();
        second.write(b"five").unwrap();
        // A write that was cut off anywhere leaves the one before.
        let slot = &second.slots[usize::from(second.number % 2 == 1)];
        slot.write_all_at(b"F", HEADER as u64).unwrap();
        assert_eq!(Snapshot::open(&store, "state").unwrap().1.unwrap(), b"four");
        slot.set_len(7).unwrap();
        assert_eq!(Snapshot::open(&store, "state").unwrap().1.unwrap(), b"four");
    }
}
