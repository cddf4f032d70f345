//! How far delivery has come: a few numbers in a file.

use std::fs;
use std::io;
use std::path::PathBuf;

/// The file.
#[derive(Debug, Clone)]
pub struct Mark(PathBuf);

impl Mark {
    /// A mark in this file, which need not be there yet.
    #[must_use]
    pub fn new(file: PathBuf) -> Self {
        Self(file)
    }

    /// The numbers that were noted last. Zeros where none were, or they cannot be understood:
    /// delivering again is the safe way to be wrong.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn read<const N: usize>(&self) -> io::Result<[u64; N]> {
        let text = match fs::read(&self.0) {
            Ok(bytes) => String::from_utf8(bytes).unwrap_or_default(),
            Err(fault) if fault.kind() == io::ErrorKind::NotFound => String::new(),
            Err(fault) => return Err(fault),
        };
        let numbers: Result<Vec<u64>, _> = text.split_whitespace().map(str::parse).collect();
        Ok(numbers.ok().and_then(|numbers| numbers.try_into().ok()).unwrap_or([0; N]))
    }

    /// Notes other numbers in their place. It need not outlive a power cut: what was delivered is then
    /// delivered again.
    ///
    /// # Errors
    /// When the disk refuses; what was noted before stays.
    pub fn note(&self, numbers: &[u64]) -> io::Result<()> {
        let numbers: Vec<String> = numbers.iter().map(u64::to_string).collect();
        let beside = self.0.with_extension("tmp");
        fs::write(&beside, format!("{}\n", numbers.join(" ")))?;
        fs::rename(&beside, &self.0)
    }
}
