//! What must not be found, and the search for it: on a disk, in logs, in a process's memory.

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

use crate::{Outcome, Trouble};

/// By so many bytes a secret is looked up; shorter ones cannot be looked for.
const HEAD: usize = 8;
/// Memory is read in pieces of so many bytes.
const PIECE: usize = 1 << 20;

/// Secrets with their names, in every form in which one might be written.
#[derive(Debug)]
pub struct Canaries {
    forms: Vec<(String, Vec<u8>)>,
    /// By their first bytes.
    heads: HashMap<[u8; HEAD], Vec<usize>>,
    /// Whether any begins with these two: most places are passed over by this alone.
    begun: Vec<bool>,
}

impl Default for Canaries {
    fn default() -> Self {
        Self { forms: Vec::new(), heads: HashMap::new(), begun: vec![false; 1 << 16] }
    }
}

fn begins(bytes: &[u8; HEAD]) -> usize {
    usize::from(u16::from_le_bytes([bytes[0], bytes[1]]))
}

impl Canaries {
    /// Adds a secret: as it is, in hex, and as a list of numbers.
    ///
    /// # Errors
    /// When it is too short to be told from anything else.
    pub fn add(&mut self, name: &str, secret: &[u8]) -> Outcome<()> {
        let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
        let list: Vec<String> = secret.iter().map(u8::to_string).collect();
        for (form, bytes) in [
            (name.to_owned(), secret.to_vec()),
            (format!("{name}, in hex"), hex.into_bytes()),
            (format!("{name}, as a list"), list.join(", ").into_bytes()),
        ] {
            let head = bytes.first_chunk::<HEAD>().filter(|_| secret.len() >= 2 * HEAD);
            let head = *head.ok_or_else(|| Trouble::new(format!("{name} is too short")))?;
            if let Some(begun) = self.begun.get_mut(begins(&head)) {
                *begun = true;
            }
            self.heads.entry(head).or_default().push(self.forms.len());
            self.forms.push((form, bytes));
        }
        Ok(())
    }

    /// Forms that are looked for.
    #[must_use]
    pub fn len(&self) -> usize {
        self.forms.len()
    }

    /// Whether there is nothing to look for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.forms.is_empty()
    }

    /// Those that are in these bytes, by number.
    fn within(&self, bytes: &[u8], found: &mut BTreeSet<usize>) {
        for (at, head) in bytes.array_windows::<HEAD>().enumerate() {
            if !self.begun.get(begins(head)).is_some_and(|begun| *begun) {
                continue;
            }
            for number in self.heads.get(head).into_iter().flatten() {
                let wanted = self.forms.get(*number).map(|(_, bytes)| bytes.as_slice());
                let there = bytes.get(at..).unwrap_or_default();
                if wanted.is_some_and(|wanted| there.starts_with(wanted)) {
                    found.insert(*number);
                }
            }
        }
    }

    fn names(&self, found: &BTreeSet<usize>, place: &str) -> Vec<String> {
        let names = found.iter().filter_map(|number| self.forms.get(*number));
        names.map(|(name, _)| format!("{name}, in {place}")).collect()
    }

    /// Those that are in a file below this folder, and in which.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn on_disk(&self, folder: &Path) -> Outcome<Vec<String>> {
        let mut all = Vec::new();
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                all.extend(self.on_disk(&path)?);
                continue;
            }
            // A file may be gone by now: staged uploads are.
            let Ok(bytes) = fs::read(&path) else { continue };
            let mut found = BTreeSet::new();
            self.within(&bytes, &mut found);
            all.extend(self.names(&found, &path.display().to_string()));
        }
        Ok(all)
    }

    /// Those that are in what a process of ours has in its writable memory: every buffer and
    /// everything that was freed and not yet written over.
    ///
    /// # Errors
    /// When the memory cannot be read.
    pub fn in_memory(&self, pid: u32) -> Outcome<Vec<String>> {
        let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
        let mut memory = File::open(format!("/proc/{pid}/mem"))?;
        let longest = self.forms.iter().map(|(_, bytes)| bytes.len()).max().unwrap_or(HEAD);
        let (mut found, mut searched) = (BTreeSet::new(), 0);
        let mut buffer = vec![0; PIECE];
        for (from, to) in maps.lines().filter_map(writable) {
            let mut at = from;
            while at < to {
                let length = usize::try_from(to - at).unwrap_or(PIECE).min(PIECE);
                let piece = buffer.get_mut(..length).unwrap_or_default();
                // What is unmapped while we look is gone.
                if memory.seek(SeekFrom::Start(at)).is_err() || memory.read_exact(piece).is_err() {
                    break;
                }
                self.within(piece, &mut found);
                searched += length;
                // A secret may lie across two pieces.
                let next = if length < PIECE { length } else { PIECE - longest };
                at += u64::try_from(next)?;
            }
        }
        if searched < PIECE {
            return Err(Trouble::new(format!("expected the memory of {pid}, found next to none")));
        }
        Ok(self.names(&found, "its memory"))
    }
}

/// From where to where a line of `/proc/PID/maps` is about memory that can be written.
fn writable(line: &str) -> Option<(u64, u64)> {
    let mut fields = line.split_whitespace();
    let (from, to) = fields.next()?.split_once('-')?;
    fields.next().filter(|may| may.starts_with("rw"))?;
    Some((u64::from_str_radix(from, 16).ok()?, u64::from_str_radix(to, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made at run time and never as a whole but where it is looked for.
    fn secret(number: u8) -> Vec<u8> {
        (0..32_u8).map(|at| at.wrapping_mul(77) ^ number).collect()
    }

    #[test]
    fn what_is_there_is_found_in_each_form_and_nothing_else() {
        let mut canaries = Canaries::default();
        for number in 0..3 {
            canaries.add(&number.to_string(), &secret(number)).expect("long enough");
        }
        assert!(canaries.add("short", b"short").is_err());
        let folder = tempfile::tempdir().expect("a scratch folder");
        assert_eq!(canaries.on_disk(folder.path()).expect("readable"), Vec::<String>::new());
        let below = folder.path().join("below");
        fs::create_dir(&below).expect("made");
        let list: Vec<String> = secret(1).iter().map(u8::to_string).collect();
        fs::write(below.join("log"), format!("found: [{}]", list.join(", "))).expect("written");
        fs::write(folder.path().join("raw"), [vec![1; 99], secret(2)].concat()).expect("written");
        let mut found = canaries.on_disk(folder.path()).expect("readable");
        found.sort();
        let named = |name: &str, place: &Path| format!("{name}, in {}", place.display());
        let expected =
            [named("1, as a list", &below.join("log")), named("2", &folder.path().join("raw"))];
        assert_eq!(found, expected);
    }

    #[test]
    fn the_memory_of_a_process_is_searched() {
        let mut canaries = Canaries::default();
        canaries.add("kept", &secret(9)).expect("long enough");
        // Its own forms are in this process's memory, and more than a piece of other things.
        let _ballast = vec![1_u8; 2 * PIECE];
        let found = canaries.in_memory(std::process::id()).expect("our own memory");
        assert!(found.contains(&"kept, in its memory".to_owned()), "{found:?}");
        assert!(canaries.in_memory(u32::MAX).is_err());
    }
}
