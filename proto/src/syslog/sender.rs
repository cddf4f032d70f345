//! The sender: one connection at a time, for ever.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_rustls::client::TlsStream;

use super::receiver::{PATIENCE, Receiver};

/// Between two attempts to connect, doubled up to the longest.
const FIRST_REST: Duration = Duration::from_millis(500);
const LONGEST_REST: Duration = Duration::from_secs(60);
/// What must be taken within [`PATIENCE`]: a record of TLS.
const AT_ONCE: usize = 16 * 1024;

/// What is sent.
pub trait Feed: Send {
    /// What marks the end of a batch.
    type Place: Clone + Send + Sync;

    /// The first frames behind a place, or those that are not delivered where none is given, and the
    /// place behind them; none when there are no more.
    ///
    /// # Errors
    /// The disk's own; it is asked again later.
    fn next(
        &mut self,
        after: Option<&Self::Place>,
    ) -> impl Future<Output = io::Result<Option<(Vec<u8>, Self::Place)>>> + Send;

    /// Everything before this place is delivered.
    ///
    /// # Errors
    /// The disk's own; then it may be sent again.
    fn delivered(&mut self, place: Self::Place) -> impl Future<Output = io::Result<()>> + Send;

    /// Waits until there may be something new.
    fn more(&mut self) -> impl Future<Output = ()> + Send;

    /// Tells this program's own log, once for each change, whether the receiver at this address takes
    /// lines, or why not.
    fn tell(&mut self, receiver: &str, reached: Result<(), &str>);
}

/// Sends until the future is dropped.
pub async fn feed(receiver: &Receiver, mut feed: impl Feed) {
    let address = receiver.address();
    let mut rest = FIRST_REST;
    let mut known = None;
    loop {
        let fault = match receiver.connect().await {
            Ok(stream) => {
                if known.is_none() {
                    known = Some(true);
                    feed.tell(&address, Ok(()));
                }
                let (begun, patience) = (Instant::now(), receiver.patience.delivered);
                let mut back = (known == Some(false)).then_some(address.as_str());
                let served = serve(stream, &mut feed, patience, &mut back).await;
                if back.is_none() {
                    known = Some(true);
                }
                // One that takes us in only to hang up is away.
                if begun.elapsed() >= patience {
                    rest = FIRST_REST;
                }
                served.err().map(|fault| fault.to_string())
            }
            Err(fault) => Some(fault.message),
        };
        if let Some(fault) = fault {
            if known.replace(false) != Some(false) {
                feed.tell(&address, Err(&fault));
            }
            sleep(rest).await;
            rest = rest.saturating_mul(2).min(LONGEST_REST);
        }
    }
}

/// Sends over one connection until it breaks. `back`: whose return is to be told once something is
/// delivered.
async fn serve(
    stream: TlsStream<TcpStream>,
    feed: &mut impl Feed,
    delivered: Duration,
    back: &mut Option<&str>,
) -> io::Result<()> {
    let (reading, writing) = tokio::io::split(stream);
    // In this order: on a connection that broke nothing more counts as delivered.
    tokio::select! {
        biased;
        fault = end(reading) => Err(fault),
        fault = send(writing, feed, delivered, back) => fault,
    }
}

/// Waits for the end of a connection on which the other side has nothing to say.
async fn end(mut stream: impl AsyncRead + Unpin) -> io::Error {
    let mut nothing = [0; 64];
    loop {
        match stream.read(&mut nothing).await {
            Ok(0) => return io::ErrorKind::ConnectionAborted.into(),
            Ok(_) => {}
            Err(fault) => return fault,
        }
    }
}

/// Sends what there is; what was sent so long ago counts as delivered.
async fn send<F: Feed>(
    mut stream: impl AsyncWrite + Unpin,
    feed: &mut F,
    delivered: Duration,
    back: &mut Option<&str>,
) -> io::Result<()> {
    let mut sent: Option<F::Place> = None;
    let mut standing: VecDeque<(Instant, F::Place)> = VecDeque::new();
    loop {
        let mut stood = None;
        while let Some((_, place)) =
            standing.pop_front_if(|(since, _)| since.elapsed() >= delivered)
        {
            stood = Some(place);
        }
        if let Some(place) = stood {
            // Of a program that was held up the runtime may not have seen yet that the connection broke.
            tokio::task::yield_now().await;
            feed.delivered(place).await?;
            if let Some(receiver) = back.take() {
                feed.tell(receiver, Ok(()));
            }
        }
        if let Some((frames, place)) = feed.next(sent.as_ref()).await? {
            for record in frames.chunks(AT_ONCE) {
                let sending = async {
                    stream.write_all(record).await?;
                    stream.flush().await
                };
                let sent = timeout(PATIENCE, sending).await;
                sent.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
            }
            standing.push_back((Instant::now(), place.clone()));
            sent = Some(place);
        } else if let Some((since, _)) = standing.front() {
            let due = *since + delivered;
            tokio::select! {
                () = feed.more() => {}
                () = sleep_until(due) => {}
            }
        } else {
            feed.more().await;
        }
    }
}
