//! Files that tell whether they are whole, and of which the copy before is kept.
//!
//! Owns the seal: a last line with the length and the CRC-32 of what comes before it. It is there against torn writes,
//! garbage and bits that flipped, not against malice. A file of JSON stays lines of JSON. Must never put a file in the
//! place of the last good copy before its own successor is whole on disk.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::durable;

/// The last line.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Seal {
    /// Bytes before it, their line break included.
    length: usize,
    /// Of these bytes, as 8 hexadecimal digits.
    crc32: String,
}

impl Seal {
    fn of(sealed: &[u8]) -> Seal {
        let mut crc = flate2::Crc::new();
        crc.update(sealed);
        Seal { length: sealed.len(), crc32: format!("{:08x}", crc.sum()) }
    }
}

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum Damage {
    /// It could not be read.
    #[error("it cannot be read: {0}")]
    Unreadable(#[from] io::Error),
    /// Its last line is no seal.
    #[error("its end is missing")]
    Unsealed,
    /// What is sealed is not what was sealed.
    #[error("its content is not what was written")]
    Changed,
    /// It is no file of ours.
    #[error("{0} bytes are more than it can have")]
    TooLarge(u64),
}

/// Content with its seal; a line break that it does not end with is added.
#[must_use]
pub fn seal(mut content: Vec<u8>) -> Vec<u8> {
    if content.last() != Some(&b'\n') {
        content.push(b'\n');
    }
    let seal = Seal::of(&content);
    content.extend(format!("{{\"length\":{},\"crc32\":\"{}\"}}\n", seal.length, seal.crc32).bytes());
    content
}

/// What was sealed.
///
/// # Errors
/// When any byte of it is another one now, or is missing.
pub fn unseal(file: &[u8]) -> Result<&[u8], Damage> {
    let lines = file.strip_suffix(b"\n").ok_or(Damage::Unsealed)?;
    let end = lines.iter().rposition(|&byte| byte == b'\n').ok_or(Damage::Unsealed)?;
    let (content, last) = lines.split_at(end + 1);
    let seal: Seal = serde_json::from_slice(last).map_err(|_| Damage::Unsealed)?;
    if seal == Seal::of(content) { Ok(content) } else { Err(Damage::Changed) }
}

/// Replaces a file by this content with its seal, mode 0600. The file that was there becomes the last good copy; when
/// all power goes in between, that copy is all there is. Blocks for as long as the disk takes.
///
/// # Errors
/// As [`durable::write`]; both files are as they were then.
pub fn write(path: &Path, content: Vec<u8>) -> io::Result<()> {
    durable::replace(path, &seal(content), 0o600, Some(&last_copy(path)))
}

/// Reads what was sealed.
///
/// # Errors
/// `None` when there is no such file; what is wrong with one that is no good.
pub fn read(path: &Path, max: u64) -> Result<Vec<u8>, Option<Damage>> {
    let read = || -> Result<Vec<u8>, Damage> {
        let size = fs::metadata(path)?.len();
        if size > max {
            return Err(Damage::TooLarge(size));
        }
        let mut file = fs::read(path)?;
        let length = unseal(&file)?.len();
        file.truncate(length);
        Ok(file)
    };
    read().map_err(|damage| match damage {
        Damage::Unreadable(error) if error.kind() == io::ErrorKind::NotFound => None,
        damage => Some(damage),
    })
}

/// Where the file before the last one is.
#[must_use]
pub fn last_copy(path: &Path) -> PathBuf {
    with(path, ".last")
}

/// Puts a file that is no good where somebody may look at it, in place of the one that was put there before.
///
/// # Errors
/// As rename(2).
pub fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let aside = with(path, ".broken");
    fs::rename(path, &aside)?;
    Ok(aside)
}

/// Removes a file and its last good copy, for which a full disk is no obstacle.
///
/// # Errors
/// As unlink(2), but not for what is not there.
pub fn remove(path: &Path) -> io::Result<()> {
    for path in [last_copy(path), path.to_owned()] {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn with(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn no_cut_and_no_bit_goes_unnoticed() {
        for content in ["", "{}", "{\"format\":1,\"fleet\":{\"apps\":[]}}", "two\nlines\n"] {
            let file = seal(content.into());
            assert_eq!(unseal(&file).unwrap().strip_suffix(b"\n").unwrap(), content.trim_end().as_bytes());
            for length in 0..file.len() {
                assert!(unseal(&file[..length]).is_err(), "{content:?} cut to {length} bytes is taken for whole");
            }
            for bit in 0..file.len() * 8 {
                let mut flipped = file.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert!(unseal(&flipped).is_err(), "{content:?} with bit {bit} flipped is taken for whole");
            }
        }
    }

    #[test]
    fn the_file_before_stays_until_the_next_one_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        assert!(matches!(read(&path, 100), Err(None)));
        for content in ["one\n", "two\n", "three\n"] {
            write(&path, content.into()).unwrap();
            assert_eq!(read(&path, 100).unwrap(), content.as_bytes());
        }
        assert_eq!(read(&last_copy(&path), 100).unwrap(), b"two\n");
        assert!(matches!(read(&path, 10), Err(Some(Damage::TooLarge(_)))));
        // What could not be written changes neither.
        let name = path.file_name().unwrap().to_str().unwrap();
        fs::create_dir(dir.path().join(format!(".{name}.{}.tmp", std::process::id()))).unwrap();
        write(&path, b"four\n".into()).unwrap_err();
        assert_eq!(read(&path, 100).unwrap(), b"three\n");
        assert_eq!(read(&last_copy(&path), 100).unwrap(), b"two\n");
        let aside = set_aside(&path).unwrap();
        assert!(matches!(read(&path, 100), Err(None)) && aside.exists());
        remove(&path).unwrap();
        assert!(!last_copy(&path).exists());
    }
}
