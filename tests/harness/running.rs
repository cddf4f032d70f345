//! A process that stays, until it is stopped, killed, or no longer held.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::time::Duration;

use crate::command::Order;
use crate::patience::wait_for;
use crate::{Outcome, Trouble, proc};

/// How long a process may take to end when asked.
const GRACE: Duration = Duration::from_secs(10);

/// A process of ours. Dropped, it is killed, and so is what it had started.
#[derive(Debug)]
pub struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Starts a command; stdout and stderr are appended to `log`.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(order: &Order, log: &Path) -> Outcome<Self> {
        let out = File::options().create(true).append(true).open(log)?;
        let err = out.try_clone()?;
        let child = order.prepared().stdin(Stdio::null()).stdout(out).stderr(err).spawn()?;
        Ok(Self { child, log: log.to_owned() })
    }

    /// Its number.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn ended(&mut self) -> Outcome<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Everything that it has written so far.
    #[must_use]
    pub fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// kill -9: it gets no chance to tidy up, and what it had started is left to itself.
    ///
    /// # Errors
    /// When it had ended before.
    pub fn crash(mut self) -> Outcome<()> {
        if let Some(status) = self.ended()? {
            let said = self.said();
            return Err(Trouble::new(format!("it had ended by itself ({status}): {said}")));
        }
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Asks it to end, as a service manager does, and waits.
    ///
    /// # Errors
    /// When it does not end in time, or not with 0.
    pub fn stop(mut self) -> Outcome<()> {
        signal("TERM", &[self.pid()])?;
        let status = wait_for("a process to end", GRACE, || self.ended())?;
        if status.success() {
            return Ok(());
        }
        let said = self.said();
        Err(Trouble::new(format!("expected a good end after SIGTERM, found {status}: {said}")))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        let below = proc::children(self.pid());
        // It may end on its own at this moment; either way it is gone afterwards.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let left: Vec<u32> = below.into_iter().filter(|pid| proc::lives(*pid)).collect();
        if !left.is_empty() {
            // Nobody is left to tell if this fails.
            let _ = signal("KILL", &left);
        }
    }
}

/// Sends a signal, to numbers that are ours, through the shell's own `kill`.
fn signal(name: &str, pids: &[u32]) -> Outcome<()> {
    let numbers = pids.iter().map(u32::to_string);
    let order = Order::new("/bin/sh").args(["-c", "kill -s \"$0\" \"$@\"", name]).args(numbers);
    order.run().map(|_| ())
}
