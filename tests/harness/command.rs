//! One command from start to end: what it was given, what it said, how it ended.

use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::patience::{STEP, wait_for};
use crate::{Outcome, Trouble};

/// A command that has yet to be run.
#[derive(Debug, Clone)]
pub struct Order {
    program: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    folder: Option<PathBuf>,
    patience: Duration,
}

impl Order {
    /// Runs `program` with an empty environment, so that nothing of this machine's leaks in: no
    /// proxy, no log filter.
    #[must_use]
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            arguments: Vec::new(),
            environment: Vec::new(),
            folder: None,
            patience: STEP,
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
        self
    }

    /// Sets a variable of its environment.
    #[must_use]
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.environment.push((key.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Runs it in this folder.
    #[must_use]
    pub fn in_folder(mut self, folder: impl AsRef<Path>) -> Self {
        self.folder = Some(folder.as_ref().to_owned());
        self
    }

    /// How long it may take before it is killed.
    #[must_use]
    pub const fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// The same command, unable to let any file grow beyond so many KiB: a disk that is full, for
    /// one process and without being root. Ignoring the signal turns it into an error of `write`.
    #[must_use]
    pub fn on_a_disk_of_kib(mut self, kib: u64) -> Self {
        const SCRIPT: &str = "trap '' XFSZ; ulimit -f \"$0\"; exec \"$@\"";
        let inner = std::mem::replace(&mut self.program, PathBuf::from("/bin/sh"));
        // The shell counts in blocks of 512 bytes.
        let blocks = (kib * 2).to_string();
        let mut arguments: Vec<OsString> =
            vec!["-c".into(), SCRIPT.into(), blocks.into(), inner.into()];
        arguments.append(&mut self.arguments);
        self.arguments = arguments;
        self
    }

    /// For [`crate::running`], which keeps the process.
    pub(crate) fn prepared(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).env_clear().envs(self.environment.iter().cloned());
        if let Some(folder) = &self.folder {
            command.current_dir(folder);
        }
        command
    }

    /// What it is called in messages.
    fn name(&self) -> String {
        let program = self.program.file_name().unwrap_or_default().to_string_lossy();
        let words: Vec<_> = self
            .arguments
            .iter()
            .map(|argument| argument.to_string_lossy())
            .filter(|argument| !argument.starts_with("--") && !argument.contains('/'))
            .take(2)
            .collect();
        format!("{program} {}", words.join(" "))
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// When it does not start, or does not end in time; then it was killed.
    pub fn run(&self) -> Outcome<Finished> {
        let mut child = self
            .prepared()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| Trouble::new(format!("{}: {error}", self.program.display())))?;
        let out = child.stdout.take().map(gather);
        let err = child.stderr.take().map(gather);
        let ended = wait_for(&self.name(), self.patience, || Ok(child.try_wait()?));
        if ended.is_err() {
            // It may have ended just now; then there is nothing to kill.
            let _ = child.kill();
            let _ = child.wait();
        }
        let read = |from: Option<thread::JoinHandle<Vec<u8>>>| {
            let bytes = from.and_then(|thread| thread.join().ok()).unwrap_or_default();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let (stdout, stderr) = (read(out), read(err));
        match ended {
            Ok(status) => Ok(Finished { name: self.name(), exit: status.code(), stdout, stderr }),
            Err(late) => Err(Trouble::new(format!("{late}; it had said: {stdout}{stderr}"))),
        }
    }

    /// Runs it to a good end and gives the data of its envelope.
    ///
    /// # Errors
    /// As [`Order::run`], and when it ends with anything but 0.
    pub fn data(&self) -> Outcome<Value> {
        self.run()?.data()
    }
}

fn gather(mut from: impl Read + Send + 'static) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // A pipe that breaks has given what it had.
        let _ = from.read_to_end(&mut bytes);
        bytes
    })
}

/// A command that has ended.
#[derive(Debug, Clone)]
pub struct Finished {
    name: String,
    /// Its exit code; none when a signal ended it.
    pub exit: Option<i32>,
    /// What it wrote to stdout.
    pub stdout: String,
    /// What it wrote to stderr.
    pub stderr: String,
}

/// What a command that failed has told a script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The stable code.
    pub code: String,
    /// The line for a person.
    pub message: String,
    /// What to do about it.
    pub hint: String,
}

impl Finished {
    fn wrong(&self, expected: &str) -> Trouble {
        let Self { name, exit, stdout, stderr } = self;
        Trouble::new(format!(
            "{name}: expected {expected}, found exit {exit:?}\nstdout: {stdout}\nstderr: {stderr}"
        ))
    }

    /// The one JSON object on stdout.
    ///
    /// # Errors
    /// When stdout is anything else.
    pub fn envelope(&self) -> Outcome<Value> {
        let envelope: Value = serde_json::from_str(&self.stdout)
            .map_err(|error| self.wrong(&format!("one JSON envelope ({error})")))?;
        if envelope["schema_version"] == 1 && self.stdout.trim_end().lines().count() == 1 {
            Ok(envelope)
        } else {
            Err(self.wrong("one line with schema_version 1"))
        }
    }

    /// The data of an envelope that says "ok", from a command that ended with 0.
    ///
    /// # Errors
    /// When it is not like that.
    pub fn data(&self) -> Outcome<Value> {
        if self.exit != Some(0) {
            return Err(self.wrong("exit 0"));
        }
        let mut envelope = self.envelope()?;
        if envelope["status"] == "ok" {
            Ok(envelope["data"].take())
        } else {
            Err(self.wrong("status ok"))
        }
    }

    /// What a command that ended with this code has told: in an envelope that says "error", and in
    /// the same words on stderr.
    ///
    /// # Errors
    /// When it ended otherwise, or told otherwise.
    pub fn refused(&self, exit: i32) -> Outcome<Refused> {
        if self.exit != Some(exit) {
            return Err(self.wrong(&format!("exit {exit}")));
        }
        let envelope = self.envelope()?;
        let text = |key: &str| envelope[key].as_str().unwrap_or_default().to_owned();
        let refused =
            Refused { code: text("error_code"), message: text("message"), hint: text("hint") };
        let first = refused.message.lines().next().unwrap_or_default();
        let told = envelope["status"] == "error" && !refused.code.is_empty() && !first.is_empty();
        if told && self.stderr.contains(first) && !self.stderr.contains("panicked") {
            Ok(refused)
        } else {
            Err(self.wrong("an error_code, and the message on stderr too"))
        }
    }
}
