//! Starts the trainer and speaks with it: the only process that sees records, and it has no
//! network. It gets an empty environment, a study's manifest, a model; it gives packed lanes.
//!
//! A worker that failed in any way is not spoken to again: its place in the conversation is
//! unknown. It is dropped, which kills it, and the next round starts another.
//!
//! Each direction of the conversation has a thread of its own while a round is worked on: there
//! are megabytes to move, and a thread that waits for a pipe moves them with the fewest steps.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use aggregation::ids::Digest;
use proto::frames::{read_frame, write_frame};
use proto::limits::CHUNK;
use proto::trainer::{FromTrainer, Open, Task, ToTrainer, from_trainer, to_trainer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};
use tokio::sync::oneshot;

use crate::config::Trainer;
use crate::journal::Packed;
use crate::state::private;

/// How long a trainer may take to end by itself once its input is closed.
const GRACE: Duration = Duration::from_secs(2);
/// What a pipe holds before the one side waits for the other; what Linux allows to everybody.
const PIPE: usize = 1024 * 1024;
/// The most of a trainer's own words that we repeat.
const WORDS: usize = 400;

/// The trainer did not do the work.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// It could not be started.
    #[error("cannot start {}: {source}", program.display())]
    Start {
        /// Which program.
        program: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It was killed, or broke off.
    #[error("{program} was ended by signal {signal} before it was done")]
    Killed {
        /// The program's name.
        program: &'static str,
        /// As the system counts them: 9 when memory has run out and one program had to go, 6 when it could
        /// not have more.
        signal: i32,
    },
    /// It went away in the middle of a conversation.
    #[error("the trainer ended before its work was done")]
    Ended,
    /// It said why it cannot.
    #[error("the trainer says: {0}")]
    Said(String),
    /// What came was no frame, or the pipe broke.
    #[error("the trainer's answer: {0}")]
    Frame(io::Error),
    /// What came was a frame, at the wrong time.
    #[error("expected {expected} from the trainer, found something else")]
    Unexpected {
        /// What should have come.
        expected: &'static str,
    },
    /// The update has not the size that the study's format gives.
    #[error("expected an update of {expected} bytes from the trainer, found {found}")]
    Size {
        /// By the study's format.
        expected: u64,
        /// So many came; or at least so many, for it was not read on.
        found: u64,
    },
    /// The work folder.
    #[error("the work folder: {0}")]
    Disk(io::Error),
}

/// One round's work.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    /// The round.
    pub round: u32,
    /// As `consilium.federation.v1.Work`.
    pub work: u32,
    /// The flat little-endian model, verified.
    pub model: PathBuf,
    /// Its size.
    pub model_bytes: u64,
    /// Where the update is put.
    pub update: PathBuf,
    /// The size that it must have.
    pub update_bytes: u64,
}

/// A running trainer with one study's data set open.
#[derive(Debug)]
pub(crate) struct Worker {
    child: Child,
    to: Arc<File>,
    from: Arc<File>,
}

/// Nothing for `auto`, which is what the program does by itself.
fn device_arguments(device: &str) -> impl Iterator<Item = &str> {
    ["--device", device].into_iter().filter(move |_| device != "auto")
}

impl Worker {
    /// Starts the program and opens the data set.
    ///
    /// # Errors
    /// When it does not start, or does not open the data.
    pub(crate) async fn start(settings: &Trainer, open: Open) -> Result<Self, WorkerError> {
        let mut command = Command::new(&settings.program);
        command.arg("serve");
        if let Some((folder, mib)) = &settings.cache {
            command.arg("--cache").arg(folder).arg("--cache-mib").arg(mib.to_string());
        }
        let mut child = command
            .args(device_arguments(&settings.device))
            .env_clear()
            .env("RAYON_NUM_THREADS", settings.threads.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Its own group: Ctrl-C in our terminal is ours to handle.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|source| WorkerError::Start { program: settings.program.clone(), source })?;
        let (Some(to), Some(from), Some(words)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(WorkerError::Ended);
        };
        tokio::spawn(repeat(words));
        let worker = Self {
            child,
            to: pipe(to.into_owned_fd().map_err(WorkerError::Frame)?),
            from: pipe(from.into_owned_fd().map_err(WorkerError::Frame)?),
        };
        worker.open(open).await?;
        Ok(worker)
    }

    async fn open(&self, open: Open) -> Result<(), WorkerError> {
        let (to, from) = (Arc::clone(&self.to), Arc::clone(&self.from));
        let (sent, answer) = on_a_thread(move || {
            let message = ToTrainer { message: Some(to_trainer::Message::Open(open)) };
            // A trainer that dies at once says so on the other pipe; that is the better story.
            let sent = write_frame(&mut &*to, &message);
            Ok((sent, next(&from)?))
        })
        .await?;
        match answer {
            // The counts stay in the house: they are not even logged.
            from_trainer::Message::Opened(_) => sent.map_err(WorkerError::Frame),
            from_trainer::Message::Failed(failed) => Err(WorkerError::Said(brief(&failed.message))),
            from_trainer::Message::Progress(_)
            | from_trainer::Message::Update(_)
            | from_trainer::Message::Done(_) => Err(WorkerError::Unexpected { expected: "opened" }),
        }
    }

    /// Does one round's work; the update lies at `job.update` afterwards. `progress` gets permille.
    ///
    /// # Errors
    /// When the trainer fails, dies, or gives an update of another size. The worker is of no use
    /// after that.
    pub(crate) async fn train(
        &mut self,
        job: &Job,
        mut progress: impl FnMut(u32) + Send + 'static,
    ) -> Result<Packed, WorkerError> {
        let mut options = private();
        options.create(true).truncate(true);
        // Made here and not on the thread, which may outlive this call.
        let file = options.open(&job.update).map_err(WorkerError::Disk)?;
        let (to, task) = (Arc::clone(&self.to), job.clone());
        let sending = on_a_thread(move || send_task(&to, &task));
        let (from, expected) = (Arc::clone(&self.from), job.update_bytes);
        let receiving = on_a_thread(move || receive_update(&from, file, expected, &mut progress));
        tokio::pin!(sending, receiving);
        tokio::select! {
            // The trainer may give up while the model is still on its way.
            received = &mut receiving => received,
            sent = &mut sending => match sent {
                Ok(()) => receiving.await,
                Err(error) => match tokio::time::timeout(GRACE, receiving).await {
                    Ok(Err(better)) => Err(better),
                    Ok(Ok(_)) | Err(_) => Err(error),
                },
            },
        }
    }

    /// Closes its input and waits for its end, not for ever.
    pub(crate) async fn stop(self) {
        let Self { mut child, to, from } = self;
        drop(to);
        drop(from);
        if tokio::time::timeout(GRACE, child.wait()).await.is_err() {
            // What remains is in the hands of the system; there is nothing to tell anybody.
            let _ = child.kill().await;
        }
    }
}

/// Our end of a pipe to or from a trainer.
fn pipe(end: OwnedFd) -> Arc<File> {
    // A smaller pipe only costs more turns.
    let _ = rustix::pipe::fcntl_setpipe_size(&end, PIPE);
    Arc::new(File::from(end))
}

/// Does what waits for a trainer on a thread of its own. Not on the runtime's threads for such
/// work, whose end a program waits for when it stops: a thread that nobody listens to any more ends
/// with its trainer, and what it says is dropped.
async fn on_a_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, WorkerError> + Send + 'static,
) -> Result<T, WorkerError> {
    let (done, result) = oneshot::channel();
    std::thread::Builder::new()
        .name("trainer".to_owned())
        .spawn(move || {
            // As said: nobody may listen any more.
            let _ = done.send(work());
        })
        .map_err(WorkerError::Frame)?;
    result.await.map_err(|_| WorkerError::Ended)?
}

fn send_task(mut to: &File, job: &Job) -> Result<(), WorkerError> {
    let task = Task { round: job.round, work: job.work, model_bytes: job.model_bytes };
    let message = ToTrainer { message: Some(to_trainer::Message::Task(task)) };
    write_frame(&mut to, &message).map_err(WorkerError::Frame)?;
    let mut model = File::open(&job.model).map_err(WorkerError::Disk)?;
    loop {
        let mut part = vec![0; CHUNK];
        let read = model.read(&mut part).map_err(WorkerError::Disk)?;
        if read == 0 {
            return Ok(());
        }
        part.truncate(read);
        let message = ToTrainer { message: Some(to_trainer::Message::Model(part.into())) };
        write_frame(&mut to, &message).map_err(WorkerError::Frame)?;
    }
}

fn receive_update(
    from: &File,
    mut file: File,
    expected: u64,
    progress: &mut impl FnMut(u32),
) -> Result<Packed, WorkerError> {
    let mut hash = blake3::Hasher::new();
    let mut found = 0_u64;
    loop {
        match next(from)? {
            from_trainer::Message::Progress(said) => progress(said.permille.min(1000)),
            from_trainer::Message::Update(part) => {
                found = found.saturating_add(u64::try_from(part.len()).unwrap_or(u64::MAX));
                if found > expected {
                    return Err(WorkerError::Size { expected, found });
                }
                hash.update(&part);
                file.write_all(&part).map_err(WorkerError::Disk)?;
            }
            // Not synced: the journal holds the digest, and bytes that a power cut ate are never
            // sent.
            from_trainer::Message::Done(_) if found == expected => {
                let digest = Digest::new(*hash.finalize().as_bytes());
                return Ok(Packed { digest, bytes: found });
            }
            from_trainer::Message::Done(_) => return Err(WorkerError::Size { expected, found }),
            from_trainer::Message::Failed(failed) => {
                return Err(WorkerError::Said(brief(&failed.message)));
            }
            from_trainer::Message::Opened(_) => {
                return Err(WorkerError::Unexpected { expected: "an update" });
            }
        }
    }
}

fn next(mut from: &File) -> Result<from_trainer::Message, WorkerError> {
    let frame: FromTrainer =
        read_frame(&mut from).map_err(WorkerError::Frame)?.ok_or(WorkerError::Ended)?;
    frame.message.ok_or(WorkerError::Unexpected { expected: "a message" })
}

/// A trainer's words for the log: short, and on one line.
fn brief(words: &str) -> String {
    words.chars().take(WORDS).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// What the trainer writes to stderr goes to our log, at `debug`.
async fn repeat(mut words: impl AsyncRead + Unpin) {
    let mut buffer = vec![0; 4096];
    while let Ok(read) = words.read(&mut buffer).await {
        if read == 0 {
            return;
        }
        for line in String::from_utf8_lossy(&buffer[..read]).lines() {
            tracing::debug!(line = brief(line), "trainer");
        }
    }
}

/// Runs one of the trainer's own subcommands with our stdin, stdout and stderr, on so many threads or all
/// that there are; gives its exit code.
///
/// # Errors
/// When it cannot be started.
pub(crate) async fn pass_through(
    settings: &Trainer,
    threads: Option<u32>,
    arguments: &[&std::ffi::OsStr],
) -> Result<i32, WorkerError> {
    let status = Command::new(&settings.program)
        .args(arguments)
        .env_clear()
        .envs(threads.map(|threads| ("RAYON_NUM_THREADS", threads.to_string())))
        .kill_on_drop(true)
        .status()
        .await
        .map_err(|source| WorkerError::Start { program: settings.program.clone(), source })?;
    code(status, "the trainer")
}

/// With what a program has ended by itself.
fn code(status: ExitStatus, program: &'static str) -> Result<i32, WorkerError> {
    status.code().ok_or_else(|| {
        let signal = status.signal().unwrap_or_default();
        WorkerError::Killed { program, signal }
    })
}

/// Runs the program that fetches images, with a job on its standard input and the environment for its
/// proxy; its stdout, stderr and exit code are passed through.
///
/// # Errors
/// When it cannot be started.
pub(crate) async fn fetch(
    program: &Path,
    arguments: &[&std::ffi::OsStr],
    job: &str,
) -> Result<i32, WorkerError> {
    let cannot = |source| WorkerError::Start { program: program.to_owned(), source };
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(cannot)?;
    if let Some(mut to) = child.stdin.take() {
        // One that ended at once says why by itself.
        let _ = to.write_all(job.as_bytes()).await;
    }
    let status = child.wait().await.map_err(cannot)?;
    code(status, "the program that fetches images")
}

/// What the trainer answers to `--version`.
///
/// # Errors
/// When it cannot be started, fails, or takes longer than a few seconds.
pub(crate) async fn version(program: &Path) -> Result<String, WorkerError> {
    let output = Command::new(program)
        .arg("--version")
        .env_clear()
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(Duration::from_secs(10), output)
        .await
        .map_err(|_| WorkerError::Ended)?
        .map_err(|source| WorkerError::Start { program: program.to_owned(), source })?;
    if output.status.success() {
        Ok(brief(String::from_utf8_lossy(&output.stdout).trim()))
    } else {
        Err(WorkerError::Ended)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::fmt::Write as _;
    use std::io::Write as _;

    use proto::trainer::{Done, Failed, Opened, Progress};

    use super::*;

    /// A trainer made of a shell script: it reads as many bytes as it expects, and answers with
    /// frames that were prepared. It ends at once if our environment reached it.
    pub(crate) fn script(folder: &Path, name: &str, body: &str) -> Trainer {
        let program = folder.join(name);
        let text = format!(
            "#!/bin/sh\n[ -z \"$CARGO_PKG_NAME\" ] || exit 9\n[ \"$1\" = serve ] || exit 8\ncd {}\n{body}\n",
            folder.display()
        );
        // Written by another process: a file that any thread of this one holds open for writing
        // while a third one forks cannot be executed.
        let mut writer = std::process::Command::new("/bin/sh")
            .args(["-c", "cat > \"$0\" && chmod 700 \"$0\""])
            .arg(&program)
            .stdin(Stdio::piped())
            .spawn()
            .expect("a shell");
        writer.stdin.take().expect("piped").write_all(text.as_bytes()).expect("written");
        assert!(writer.wait().expect("ended").success());
        Trainer { program, threads: 1, device: "cpu".to_owned(), cache: None }
    }

    pub(crate) fn frame(message: from_trainer::Message) -> Vec<u8> {
        let mut bytes = Vec::new();
        let message = FromTrainer { message: Some(message) };
        write_frame(&mut bytes, &message).expect("memory");
        bytes
    }

    /// Shell words that write these bytes.
    pub(crate) fn say(frames: &[Vec<u8>]) -> String {
        let mut words = String::from("printf '");
        for byte in frames.concat() {
            write!(words, "\\{byte:03o}").expect("memory");
        }
        words + "'"
    }

    /// How many bytes a task and its model are on the pipe.
    pub(crate) fn task_bytes(job: &Job) -> usize {
        let model = usize::try_from(job.model_bytes).expect("small");
        let task = Task { round: job.round, work: job.work, model_bytes: job.model_bytes };
        let mut bytes = Vec::new();
        for message in
            [to_trainer::Message::Task(task), to_trainer::Message::Model(vec![0; model].into())]
        {
            let message = ToTrainer { message: Some(message) };
            write_frame(&mut bytes, &message).expect("memory");
        }
        bytes.len()
    }

    pub(crate) fn opening_bytes(open: &Open) -> usize {
        let mut bytes = Vec::new();
        let message = ToTrainer { message: Some(to_trainer::Message::Open(open.clone())) };
        write_frame(&mut bytes, &message).expect("memory");
        bytes.len()
    }

    pub(crate) fn opened() -> Vec<u8> {
        frame(from_trainer::Message::Opened(Opened::default()))
    }

    pub(crate) fn done() -> Vec<u8> {
        frame(from_trainer::Message::Done(Done {}))
    }

    pub(crate) fn part(bytes: &[u8]) -> Vec<u8> {
        frame(from_trainer::Message::Update(bytes.to_vec().into()))
    }

    fn failed(words: &str) -> Vec<u8> {
        frame(from_trainer::Message::Failed(Failed { message: words.to_owned() }))
    }

    fn job(folder: &Path) -> Job {
        let model = folder.join("model");
        std::fs::write(&model, [7; 64]).expect("written");
        Job {
            round: 1,
            work: 1,
            model,
            model_bytes: 64,
            update: folder.join("update"),
            update_bytes: 6,
        }
    }

    #[tokio::test]
    async fn a_worker_does_one_round_after_another() {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let job = job(folder.path());
        let half = frame(from_trainer::Message::Progress(Progress { permille: 500 }));
        let (open, task) = (opening_bytes(&Open::default()), task_bytes(&job));
        let body = format!(
            "head -c {open} >/dev/null; {}; echo words >&2; head -c {task} >/dev/null; {}; head -c {task} >/dev/null; {}; cat >/dev/null",
            say(&[opened()]),
            say(&[half, part(b"abc"), part(b"def"), done()]),
            say(&[part(b"uvwxyz"), done()]),
        );
        let trainer = script(folder.path(), "trainer", &body);
        let mut worker = Worker::start(&trainer, Open::default()).await.expect("opened");
        let (told, seen) = std::sync::mpsc::channel();
        let told = move |permille| told.send(permille).expect("heard");
        let first = worker.train(&job, told).await.expect("trained");
        assert_eq!(first, Packed { digest: Digest::blake3(b"abcdef"), bytes: 6 });
        assert_eq!(std::fs::read(&job.update).expect("there"), b"abcdef");
        assert_eq!(seen.iter().collect::<Vec<_>>(), [500]);
        let second = worker.train(&job, |_| {}).await.expect("trained");
        assert_eq!(second.digest, Digest::blake3(b"uvwxyz"));
        worker.stop().await;
    }

    #[tokio::test]
    async fn a_trainer_that_misbehaves_is_told_apart() {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let job = job(folder.path());
        let open = opening_bytes(&Open::default());
        let cases: [(&str, Vec<Vec<u8>>, &str); 6] = [
            (
                "long",
                vec![part(b"abcdefg")],
                "expected an update of 6 bytes from the trainer, found 7",
            ),
            (
                "short",
                vec![part(b"abc"), done()],
                "expected an update of 6 bytes from the trainer, found 3",
            ),
            ("again", vec![opened()], "expected an update from the trainer"),
            ("gone", vec![], "ended before its work was done"),
            ("cut", vec![vec![9, 0]], "cut off"),
            ("no", vec![failed("no images\nat all")], "the trainer says: no images at all"),
        ];
        for (name, answers, expected) in cases {
            let body =
                format!("head -c {open} >/dev/null; {}; {}", say(&[opened()]), say(&answers));
            let trainer = script(folder.path(), name, &body);
            let mut worker = Worker::start(&trainer, Open::default()).await.expect("opened");
            let error = worker.train(&job, |_| {}).await.expect_err(name).to_string();
            assert!(error.contains(expected), "{name}: {error}");
        }
    }

    #[tokio::test]
    async fn a_trainer_that_does_not_open_the_data_says_why() {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let trainer = script(folder.path(), "unwilling", &say(&[failed("no manifest")]));
        let error = Worker::start(&trainer, Open::default()).await.expect_err("unwilling");
        assert!(matches!(error, WorkerError::Said(words) if words == "no manifest"));
        let program = folder.path().join("none");
        let missing = Trainer { program, threads: 1, device: "cpu".to_owned(), cache: None };
        assert!(matches!(
            Worker::start(&missing, Open::default()).await,
            Err(WorkerError::Start { .. })
        ));
    }
}
