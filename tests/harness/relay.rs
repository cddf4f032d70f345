//! A relay on loopback that counts what passes: the bytes of one connection, TLS and all, as a
//! firewall would see them.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use crate::Outcome;

/// Counts both directions for as long as it is held; connections then live on until they close.
#[derive(Debug)]
pub struct Relay {
    port: u16,
    up: Arc<AtomicU64>,
    down: Arc<AtomicU64>,
}

impl Relay {
    /// Listens on a free port and passes every connection on to `to` on loopback.
    ///
    /// # Errors
    /// When there is no port.
    pub fn start(to: u16) -> Outcome<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let port = listener.local_addr()?.port();
        let relay = Self { port, up: Arc::default(), down: Arc::default() };
        let (up, down) = (Arc::clone(&relay.up), Arc::clone(&relay.down));
        // Ends with the process: it holds nothing but its socket.
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(("127.0.0.1", to)) else { continue };
                let (Ok(back), Ok(forth)) = (server.try_clone(), client.try_clone()) else {
                    continue;
                };
                let (up, down) = (Arc::clone(&up), Arc::clone(&down));
                thread::spawn(move || pump(client, server, &up));
                thread::spawn(move || pump(back, forth, &down));
            }
        });
        Ok(relay)
    }

    /// Where it listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Bytes that clients have sent.
    #[must_use]
    pub fn up(&self) -> u64 {
        self.up.load(Ordering::Relaxed)
    }

    /// Bytes that clients were sent.
    #[must_use]
    pub fn down(&self) -> u64 {
        self.down.load(Ordering::Relaxed)
    }
}

fn pump(mut from: TcpStream, mut to: TcpStream, count: &AtomicU64) {
    let _ = to.set_nodelay(true);
    let mut buffer = vec![0; 256 * 1024];
    while let Ok(read) = from.read(&mut buffer) {
        let passed = buffer.get(..read).unwrap_or_default();
        if passed.is_empty() || to.write_all(passed).is_err() {
            break;
        }
        count.fetch_add(u64::try_from(read).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
    // The other direction may have closed them already.
    let _ = to.shutdown(Shutdown::Write);
    let _ = from.shutdown(Shutdown::Read);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_is_unchanged_and_counted() {
        let server = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let relay = Relay::start(server.local_addr().expect("bound").port()).expect("a relay");
        let echo = thread::spawn(move || {
            let (mut socket, _) = server.accept().expect("one client");
            let mut heard = Vec::new();
            socket.read_to_end(&mut heard).expect("until closed");
            socket.write_all(&heard).expect("open for writing");
            socket.write_all(b"!").expect("open for writing");
        });
        let mut client = TcpStream::connect(("127.0.0.1", relay.port())).expect("the relay");
        client.write_all(b"abc").expect("open");
        client.shutdown(Shutdown::Write).expect("open");
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).expect("until closed");
        echo.join().expect("no panic");
        assert_eq!(answer, b"abc!");
        assert_eq!((relay.up(), relay.down()), (3, 4));
    }
}
