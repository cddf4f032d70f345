//! gRPC out: the one channel to the coordinator, kept up for ever, and what its troubles mean.
//!
//! The coordinator starts every session with the whole current state, so losing a session loses
//! nothing: whoever has trouble with a call asks for a new session, and hears again what matters.

use std::sync::Arc;
use std::time::Duration;

use aggregation::units::Timestamp;
use proto::channel::{self, ChannelError};
use proto::cli::Failure;
use proto::federation::federation_client::FederationClient;
use proto::federation::{Hello, Notice, RenewRequest, WatchRequest, notice};
use proto::limits::MAX_MESSAGE;
use proto::status::to_failure;
use tokio::sync::{Notify, mpsc};
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::config::Proxy;
use crate::identity::{self, Enrolled, Grant, Keys};
use crate::state::State;
use crate::{clock, entropy};

/// Calls to the coordinator as this site.
pub(crate) type Client = FederationClient<Channel>;

/// The first wait, and the longest.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// A session that held so long was a good one: the next wait is short again.
const GOOD_SESSION: Duration = Duration::from_secs(30);
/// How often we look at the clock for the certificate's sake.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// A clock further away than this is worth a warning.
const SKEW: Duration = Duration::from_secs(60);

/// How long to wait before trying again: doubling, jittered, bounded.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
}

impl Backoff {
    /// Starts with the shortest wait.
    #[must_use]
    pub(crate) const fn new() -> Self {
        Self { next: FIRST_WAIT }
    }

    /// The next wait; the one after it is up to twice as long.
    pub(crate) fn wait(&mut self) -> Duration {
        let wait = entropy::jittered(self.next);
        self.next = (self.next * 2).min(LONGEST_WAIT);
        wait
    }

    /// It worked: the next wait is the shortest again.
    pub(crate) const fn reset(&mut self) {
        self.next = FIRST_WAIT;
    }
}

/// What the link tells the driver.
#[derive(Debug)]
pub(crate) enum Heard {
    /// A session began; calls go through this client from now on.
    Connected(Client),
    /// The coordinator said something.
    Notice(Box<notice::Notice>),
    /// The session is over; another one will come.
    Lost,
}

/// The one channel, kept up.
#[derive(Debug)]
pub(crate) struct Link {
    state: State,
    proxy: Proxy,
    again: Arc<Notify>,
}

/// Why a session ended.
enum Ended {
    /// With a new certificate; the next one begins at once.
    Renewed,
    /// By trouble, told already.
    Trouble,
    /// The driver is gone.
    Deaf,
}

impl Link {
    /// A link that is not up yet. Notifying `again` ends a session and begins another.
    #[must_use]
    pub(crate) const fn new(state: State, proxy: Proxy, again: Arc<Notify>) -> Self {
        Self { state, proxy, again }
    }

    /// Connects, listens, and connects again, until the driver is gone.
    pub(crate) async fn keep_up(self, to: mpsc::Sender<Heard>) {
        let mut backoff = Backoff::new();
        loop {
            let began = clock::now();
            let ended = self.session(&to).await;
            if to.send(Heard::Lost).await.is_err() {
                return;
            }
            match ended {
                Ended::Deaf => return,
                Ended::Renewed => {}
                Ended::Trouble => {
                    if clock::now().since(began) >= GOOD_SESSION {
                        backoff.reset();
                    }
                    let wait = backoff.wait();
                    tracing::info!(seconds = wait.as_secs_f32(), "connecting again after a wait");
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }

    async fn session(&self, to: &mpsc::Sender<Heard>) -> Ended {
        // Read each time: `renew` or `enroll` may have put a new certificate there.
        let enrolled = match Enrolled::load(&self.state) {
            Ok(enrolled) => enrolled,
            Err(error) => {
                tracing::error!(%error, "cannot say who we are");
                return Ended::Trouble;
            }
        };
        let mut client = match connect(&enrolled, &self.proxy).await {
            Ok(client) => client,
            Err(error) => {
                tracing::warn!(%error, hint = error.hint, "no connection to the coordinator");
                return Ended::Trouble;
            }
        };
        let request = WatchRequest { version: env!("CARGO_PKG_VERSION").to_owned() };
        let mut notices = match client.watch(request).await {
            Ok(reply) => reply.into_inner(),
            Err(status) => {
                let failure = to_failure(&status);
                tracing::warn!(
                    error = failure.message,
                    hint = failure.hint,
                    "the coordinator does not talk to us"
                );
                return Ended::Trouble;
            }
        };
        if to.send(Heard::Connected(client.clone())).await.is_err() {
            return Ended::Deaf;
        }
        let mut renewal = Renewal::plan(&enrolled);
        let mut look = tokio::time::interval(LOOK_EVERY);
        loop {
            tokio::select! {
                heard = notices.message() => match heard {
                    Ok(Some(Notice { notice: Some(notice) })) => {
                        if let notice::Notice::Hello(hello) = &notice {
                            greet(hello, &enrolled);
                        }
                        if to.send(Heard::Notice(Box::new(notice))).await.is_err() {
                            return Ended::Deaf;
                        }
                    }
                    // A kind of notice that is newer than this program.
                    Ok(Some(Notice { notice: None })) => {}
                    Ok(None) => {
                        tracing::warn!("the coordinator ended the session");
                        return Ended::Trouble;
                    }
                    Err(status) => {
                        let failure = to_failure(&status);
                        tracing::warn!(error = failure.message, hint = failure.hint, "the session broke");
                        return Ended::Trouble;
                    }
                },
                () = self.again.notified() => return Ended::Trouble,
                _ = look.tick() => if renewal.due(clock::now()) {
                    match renew(&mut client, &self.state, &enrolled).await {
                        Ok(renewed) => {
                            tracing::info!(until = clock::rfc3339(renewed.ends), "certificate renewed");
                            return Ended::Renewed;
                        }
                        Err(failure) => {
                            tracing::warn!(error = failure.message, "certificate not renewed; trying again later");
                            renewal.postpone(clock::now());
                        }
                    }
                },
            }
        }
    }
}

fn greet(hello: &Hello, enrolled: &Enrolled) {
    tracing::info!(
        site = enrolled.me.as_str(),
        consortium = hello.consortium,
        coordinator = hello.version,
        "connected"
    );
    let (ours, theirs) = (clock::now(), Timestamp::from_millis(hello.server_time_ms));
    let away = ours.since(theirs).max(theirs.since(ours));
    if away > SKEW {
        tracing::warn!(
            seconds = away.as_secs(),
            ours = clock::rfc3339(ours),
            theirs = clock::rfc3339(theirs),
            "this machine's clock and the coordinator's differ; set it by NTP"
        );
    }
}

/// When the certificate is to be renewed: at two thirds of its life, or somewhat before, so that
/// sites which enrolled in one hour do not all renew in one.
#[derive(Debug)]
struct Renewal {
    at: Timestamp,
    backoff: Backoff,
}

impl Renewal {
    fn plan(enrolled: &Enrolled) -> Self {
        Self::between(enrolled.obtained, enrolled.ends)
    }

    fn between(obtained: Timestamp, ends: Timestamp) -> Self {
        let life = ends.since(obtained);
        let early = life / 15;
        let at = obtained.saturating_add(life * 2 / 3).since(Timestamp::from_millis(0));
        let at = at.saturating_sub(early.saturating_sub(entropy::jittered(early)));
        let millis = u64::try_from(at.as_millis()).unwrap_or(u64::MAX);
        Self { at: Timestamp::from_millis(millis), backoff: Backoff::new() }
    }

    fn due(&self, now: Timestamp) -> bool {
        now >= self.at
    }

    fn postpone(&mut self, now: Timestamp) {
        self.at = now.saturating_add(self.backoff.wait() * 10);
    }
}

/// Opens the channel as this site.
///
/// # Errors
/// What went wrong, in a person's words.
pub(crate) async fn connect(enrolled: &Enrolled, proxy: &Proxy) -> Result<Client, ChannelError> {
    let channel = channel::connect(&enrolled.target(proxy.for_channel())).await?;
    Ok(FederationClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE))
}

/// Asks for a new certificate and keeps it. The TLS key stays the same.
///
/// # Errors
/// When the coordinator refuses or what it sends is not ours; then the old one stays.
pub(crate) async fn renew(
    client: &mut Client,
    state: &State,
    enrolled: &Enrolled,
) -> Result<Enrolled, Failure> {
    let keys = Keys::load_or_make(state)?;
    let reply = client
        .renew(RenewRequest { csr_der: keys.request().to_vec() })
        .await
        .map_err(|status| to_failure(&status))?
        .into_inner();
    let grant = Grant {
        coordinator: enrolled.coordinator.clone(),
        site: Some(enrolled.me.to_string()),
        certificate_pem: reply.certificate_pem,
        ca_pem: reply.ca_pem,
    };
    Ok(identity::keep(state, &keys, enrolled.ca_fingerprint, &grant, clock::now())?)
}

/// Whether the same call may succeed later: the way there broke, not the request.
#[must_use]
pub(crate) fn may_pass(status: &Status) -> bool {
    match status.code() {
        Code::Unavailable
        | Code::Unknown
        | Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Internal
        | Code::Aborted
        | Code::ResourceExhausted => true,
        Code::Ok
        | Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::DataLoss
        | Code::Unauthenticated => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_minute_and_start_over_after_a_success() {
        let mut backoff = Backoff::new();
        for expected in [1, 2, 4, 8, 16, 32, 60, 60, 60] {
            let (longest, found) = (Duration::from_secs(expected), backoff.wait());
            assert!(found >= longest / 2 && found <= longest, "{expected}: {found:?}");
        }
        backoff.reset();
        assert!(backoff.wait() <= Duration::from_secs(1));
    }

    #[test]
    fn a_certificate_is_renewed_at_about_two_thirds_of_its_life() {
        let hour = |n: u64| Timestamp::from_millis(n * 3_600_000);
        for _ in 0..50 {
            let renewal = Renewal::between(hour(1000), hour(1030));
            assert!(!renewal.due(hour(1018)), "not before 60 %: {renewal:?}");
            assert!(renewal.due(hour(1020)), "at two thirds: {renewal:?}");
        }
        let mut renewal = Renewal::between(hour(1), hour(2));
        renewal.postpone(hour(2));
        assert!(!renewal.due(hour(2)));
    }

    #[test]
    fn a_refusal_is_not_tried_again_and_a_broken_way_is() {
        assert!(may_pass(&Status::unavailable("")));
        assert!(!may_pass(&Status::permission_denied("")));
    }
}
