//! The sender: one connection, one batch at a time, for ever.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::client::TlsStream;

use super::receiver::{PATIENCE, Receiver, gone, stood};

/// Between two attempts to connect, doubled up to the longest.
const FIRST_REST: Duration = Duration::from_millis(500);
const LONGEST_REST: Duration = Duration::from_secs(60);

/// What is sent.
pub trait Feed: Send {
    /// What marks the end of a batch.
    type Place: Send;

    /// The first frames that are not delivered, and the place behind them; none when all are.
    ///
    /// # Errors
    /// The disk's own; it is asked again later.
    fn next(&mut self) -> impl Future<Output = io::Result<Option<(Vec<u8>, Self::Place)>>> + Send;

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
                rest = FIRST_REST;
                if known.replace(true) != Some(true) {
                    feed.tell(&address, Ok(()));
                }
                serve(stream, &mut feed).await.err().map(|fault| fault.to_string())
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

/// Sends over one connection until it breaks.
async fn serve(mut stream: TlsStream<TcpStream>, feed: &mut impl Feed) -> io::Result<()> {
    loop {
        let Some((frames, place)) = feed.next().await? else {
            // A receiver says nothing; if it closes, this ends.
            let mut nothing = [0; 64];
            tokio::select! {
                () = feed.more() => {}
                closed = stream.read(&mut nothing) => gone(closed?)?,
            }
            continue;
        };
        let sending = async {
            stream.write_all(&frames).await?;
            stream.flush().await
        };
        timeout(PATIENCE, sending)
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        stood(&mut stream).await?;
        feed.delivered(place).await?;
    }
}
