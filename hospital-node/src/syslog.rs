//! The live feed to this hospital's own collector: what this program tells its log at `info` and above,
//! one line each. Lines are on disk before anything is sent, and wait there while the collector is away.

use std::io;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use proto::syslog::{Feed, Line, Place, Receiver, Severity, Spool, feed};
use tokio::sync::Notify;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use crate::clock;
use crate::config::Syslog;
use crate::state::State;

/// The folder of waiting lines, in the state folder.
const FOLDER: &str = "syslog";
/// Bytes in one batch.
const AT_ONCE: usize = 256 * 1024;
/// A spool that could not be read is tried again after this.
const EVERY: Duration = Duration::from_secs(5);

/// Where lines go once the daemon has its settings; the log begins before that.
static DESK: OnceLock<Arc<Desk>> = OnceLock::new();

/// Lines that wait, and who tells them.
#[derive(Debug)]
struct Desk {
    spool: Mutex<Spool>,
    host: String,
    news: Notify,
}

impl Desk {
    fn take(&self, severity: Severity, fields: &[(String, String)], text: &str) -> io::Result<()> {
        let millis = clock::now().as_millis();
        let kind = kind_of(severity, text);
        let (host, program) = (self.host.as_str(), env!("CARGO_PKG_NAME"));
        let line = Line { severity, millis, host, program, kind: &kind, fields, text };
        let mut spool = self.spool.lock().unwrap_or_else(PoisonError::into_inner);
        spool.append(&line.frame()).inspect_err(|_| spool.lose())?;
        self.own_up(&mut spool)?;
        drop(spool);
        self.news.notify_one();
        Ok(())
    }

    /// What is to be sent behind a place. What turns out to be lost is said behind what is left.
    fn next(&self, after: Option<Place>) -> io::Result<Option<(Vec<u8>, Place)>> {
        let mut spool = self.spool.lock().unwrap_or_else(PoisonError::into_inner);
        let next = spool.next(AT_ONCE, after)?;
        self.own_up(&mut spool)?;
        if next.is_some() { Ok(next) } else { spool.next(AT_ONCE, after) }
    }

    fn own_up(&self, spool: &mut Spool) -> io::Result<()> {
        let lost = spool.lost();
        if lost == 0 {
            return Ok(());
        }
        let fields = [("lost".to_owned(), lost.to_string())];
        let text = "lines were dropped: the receiver was away for too long, or their files were cut or \
                    removed";
        let (severity, kind) = (Severity::Error, "lines_dropped");
        let (host, program) = (self.host.as_str(), env!("CARGO_PKG_NAME"));
        let millis = clock::now().as_millis();
        let line = Line { severity, millis, host, program, kind, fields: &fields, text };
        spool.append(&line.frame())?;
        // What a full disk did not take is said when there is room again.
        spool.owned_up(lost);
        Ok(())
    }
}

/// Keeps every line from now on; gives what sends them.
///
/// # Errors
/// When certificates or folder cannot be used.
pub(crate) fn begin(
    settings: &Syslog,
    state: &State,
    host: &str,
) -> Result<impl Future<Output = ()> + Send + use<>, String> {
    let receiver = Receiver::load(&settings.to)?;
    let folder = state.file(FOLDER);
    let spool = Spool::open(&folder, settings.space)
        .map_err(|error| format!("{}: {error}", folder.display()))?;
    let desk =
        Arc::new(Desk { spool: Mutex::new(spool), host: host.to_owned(), news: Notify::new() });
    // One daemon runs in a process.
    let desk = Arc::clone(DESK.get_or_init(|| desk));
    Ok(async move { feed(&receiver, Lines { desk }).await })
}

struct Lines {
    desk: Arc<Desk>,
}

impl Feed for Lines {
    type Place = Place;

    async fn next(&mut self, after: Option<&Place>) -> io::Result<Option<(Vec<u8>, Place)>> {
        self.desk.next(after.copied())
    }

    async fn delivered(&mut self, place: Place) -> io::Result<()> {
        self.desk.spool.lock().unwrap_or_else(PoisonError::into_inner).delivered(place)
    }

    async fn more(&mut self) {
        tokio::select! {
            () = self.desk.news.notified() => {}
            () = tokio::time::sleep(EVERY) => {}
        }
    }

    fn tell(&mut self, receiver: &str, reached: Result<(), &str>) {
        match reached {
            Ok(()) => tracing::info!(receiver, "the syslog receiver takes our lines"),
            Err(fault) => {
                tracing::warn!(receiver, fault, "the syslog receiver is away; lines wait for it");
            }
        }
    }
}

/// The tap on this program's log.
#[derive(Debug)]
pub(crate) struct Tap;

impl<S: Subscriber> Layer<S> for Tap {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let Some(desk) = DESK.get() else { return };
        let mut told = Words::default();
        event.record(&mut told);
        let level = *event.metadata().level();
        // There is nobody to tell that this did not work: telling is what did not work. The log on
        // stderr has the line.
        let _ = desk.take(severity(level, &told.text), &told.fields, &told.text);
    }
}

fn severity(level: Level, text: &str) -> Severity {
    if text.starts_with("ALARM") {
        Severity::Alert
    } else if level == Level::ERROR {
        Severity::Error
    } else if level == Level::WARN {
        Severity::Warning
    } else {
        Severity::Informational
    }
}

/// The line's fixed text as one word: texts are fixed, and data is in fields.
fn kind_of(severity: Severity, text: &str) -> String {
    if severity == Severity::Alert {
        return "alarm".to_owned();
    }
    let words = text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    let mut kind = String::new();
    for word in words {
        if kind.len() + word.len() >= 32 {
            break;
        }
        if !kind.is_empty() {
            kind.push('_');
        }
        kind.push_str(&word.to_ascii_lowercase());
    }
    kind
}

/// What an event says.
#[derive(Debug, Default)]
struct Words {
    text: String,
    fields: Vec<(String, String)>,
}

impl Words {
    fn put(&mut self, field: &Field, value: String) {
        if field.name() == "message" {
            self.text = value;
        } else {
            self.fields.push((field.name().to_owned(), value));
        }
    }
}

impl Visit for Words {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.put(field, format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_can_no_longer_be_read_are_owned_up_to() {
        let folder = tempfile::tempdir().expect("a folder");
        let spool = Spool::open(folder.path(), 1 << 20).expect("opened");
        let desk = Desk { spool: Mutex::new(spool), host: "north".to_owned(), news: Notify::new() };
        desk.take(Severity::Alert, &[], "ALARM: a fork").expect("kept");
        for file in std::fs::read_dir(folder.path()).expect("there") {
            std::fs::remove_file(file.expect("there").path()).expect("removed");
        }
        desk.take(Severity::Informational, &[], "update sent").expect("kept all the same");
        let mut said = String::new();
        let mut after = None;
        while let Some((bytes, place)) = desk.next(after).expect("read") {
            said.push_str(&String::from_utf8(bytes).expect("text"));
            after = Some(place);
        }
        assert!(said.contains("update sent") && !said.contains("a fork"), "{said}");
        assert!(said.ends_with("cut or removed") && said.contains(r#"lost="1""#), "{said}");
        assert_eq!(desk.next(after).expect("read"), None, "it is said once");
    }

    #[test]
    fn lines_that_the_disk_did_not_take_are_owned_up_to_when_there_is_room_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let own = folder.path().join("lines");
        let spool = Spool::open(&own, 1 << 20).expect("opened");
        let desk = Desk { spool: Mutex::new(spool), host: "north".to_owned(), news: Notify::new() };
        std::fs::remove_dir_all(&own).expect("removed");
        std::fs::write(&own, "").expect("in the way");
        for _ in 0..3 {
            desk.take(Severity::Alert, &[], "ALARM: a fork").expect_err("there is no room");
        }
        std::fs::remove_file(&own).expect("room again");
        desk.take(Severity::Informational, &[], "update sent").expect("kept");
        let (bytes, _) = desk.next(None).expect("read").expect("two lines");
        let said = String::from_utf8(bytes).expect("text");
        assert!(said.contains("update sent") && said.contains(r#"lost="3""#), "{said}");
    }

    #[test]
    fn an_alarm_is_an_alert_and_a_kind_is_one_short_word() {
        assert_eq!(severity(Level::ERROR, "ALARM: refused"), Severity::Alert);
        assert_eq!(severity(Level::ERROR, "cannot journal"), Severity::Error);
        assert_eq!(severity(Level::WARN, "refused"), Severity::Warning);
        assert_eq!(severity(Level::INFO, "update sent"), Severity::Informational);
        assert_eq!(kind_of(Severity::Alert, "ALARM: refused"), "alarm");
        assert_eq!(kind_of(Severity::Informational, "update sent"), "update_sent");
        let long = kind_of(Severity::Warning, "the log of a round could not be looked at at all");
        assert_eq!(long, "the_log_of_a_round_could_not_be");
    }
}
