//! A feed and its receiver, over sockets of this machine.

use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;

use super::super::receiver::Patience;
use super::*;

/// So that a test need not wait as long as a hospital.
const SHORT: Patience = Patience {
    unacknowledged: Duration::from_millis(500),
    delivered: Duration::from_millis(2_000),
};

/// A spool as a feed.
struct Waiting(Arc<Mutex<Spool>>);

impl Feed for Waiting {
    type Place = Place;

    async fn next(&mut self, after: Option<&Place>) -> io::Result<Option<(Vec<u8>, Place)>> {
        self.0.lock().expect("nobody panicked").next(1, after.copied())
    }

    async fn delivered(&mut self, place: Place) -> io::Result<()> {
        self.0.lock().expect("nobody panicked").delivered(place)
    }

    async fn more(&mut self) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    fn tell(&mut self, _: &str, _: Result<(), &str>) {}
}

fn spooled(folder: &Path, lines: std::ops::Range<u32>) -> Arc<Mutex<Spool>> {
    let mut spool = Spool::open(folder, 1 << 20).expect("opened");
    for number in lines {
        spool.append(&frame(number)).expect("kept");
    }
    Arc::new(Mutex::new(spool))
}

/// A port of this machine, and the settings that lead to it.
async fn receiver(keys: &Keys) -> (TcpListener, Receiver) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    let client = (keys.client.0.as_bytes(), keys.client.1.as_bytes());
    let receiver = Receiver::new(&address, keys.ca.as_bytes(), Some(client)).expect("settings");
    (listener, receiver)
}

async fn hear(heard: &mut mpsc::UnboundedReceiver<Vec<u8>>, until: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let last = format!("line {until}").into_bytes();
    while !bytes.ends_with(&last) {
        let more = tokio::time::timeout(Duration::from_secs(20), heard.recv()).await;
        bytes.extend(more.expect("in time").expect("the collector listens"));
    }
    bytes
}

#[tokio::test]
async fn lines_wait_for_their_receiver_and_come_in_order_once_it_is_there() {
    let keys = keys();
    let folder = tempfile::tempdir().expect("a folder");
    let spool = spooled(folder.path(), 0..30);
    let (listener, mut receiver) = receiver(&keys).await;
    let address = listener.local_addr().expect("bound");
    receiver.patience = SHORT;
    let (tell, mut heard) = mpsc::unbounded_channel();
    drop(listener);
    let sending = feed(&receiver, Waiting(Arc::clone(&spool)));
    let story = async {
        // Nobody listens at first.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let listener = TcpListener::bind(address).await.expect("the same port");
        let collecting = collector(listener, &keys, tell, usize::MAX);
        let telling = async {
            assert_eq!(numbers(&hear(&mut heard, 29).await), (0..30).collect::<Vec<_>>());
            for number in 30..40 {
                spool.lock().expect("nobody panicked").append(&frame(number)).expect("kept");
            }
            assert_eq!(numbers(&hear(&mut heard, 39).await), (30..40).collect::<Vec<_>>());
            // What has stood for a moment is not sent again after a restart.
            let waits = || {
                let mut spool = spool.lock().expect("nobody panicked");
                spool.next(1, None).expect("read").is_some()
            };
            while waits() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::select! { () = collecting => {} () = telling => {} }
    };
    tokio::select! { () = sending => {} () = story => {} }
    drop(spool);
    let mut again = Spool::open(folder.path(), 1 << 20).expect("opened");
    assert_eq!(all(&mut again), Vec::<u32>::new());
}

#[tokio::test]
async fn a_receiver_that_breaks_off_gets_the_same_lines_again() {
    let keys = keys();
    let folder = tempfile::tempdir().expect("a folder");
    let spool = spooled(folder.path(), 0..30);
    let (listener, receiver) = receiver(&keys).await;
    let (tell, mut heard) = mpsc::unbounded_channel();
    let story = async {
        // It takes a few bytes and is gone, again and again.
        let collecting = collector(listener, &keys, tell, 1);
        let telling = async {
            for _ in 0..2 {
                assert_eq!(numbers(&hear(&mut heard, 29).await), (0..30).collect::<Vec<_>>());
            }
        };
        tokio::select! { () = collecting => {} () = telling => {} }
    };
    tokio::select! { () = feed(&receiver, Waiting(Arc::clone(&spool))) => {} () = story => {} }
    assert!(spool.lock().expect("nobody panicked").next(1, None).expect("read").is_some());
}

#[tokio::test]
async fn a_receiver_that_nobody_vouches_for_gets_nothing() {
    let (keys, others) = (keys(), keys());
    let folder = tempfile::tempdir().expect("a folder");
    let spool = spooled(folder.path(), 0..3);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    let (tell, mut heard) = mpsc::unbounded_channel();
    let strange = Receiver::new(&address, others.ca.as_bytes(), None).expect("settings");
    tokio::select! {
        () = feed(&strange, Waiting(Arc::clone(&spool))) => {}
        () = collector(listener, &keys, tell, usize::MAX) => {}
        () = tokio::time::sleep(Duration::from_secs(2)) => {}
    }
    assert!(heard.try_recv().is_err());
    assert!(spool.lock().expect("nobody panicked").next(1, None).expect("read").is_some());
}

/// Passes bytes on in both directions, until on the first connection it is told to swallow: then what
/// comes is neither passed on nor, once a few kilobytes wait, acknowledged, and nobody is told. So it
/// looks to the sender when a firewall forgets a connection, or a machine has lost its power.
async fn relay(listener: TcpListener, to: &str, swallow: &watch::Sender<bool>) {
    let mut open = Vec::new();
    let mut first = true;
    loop {
        let (inner, _) = listener.accept().await.expect("a connection");
        let outer = TcpStream::connect(to).await.expect("the collector listens");
        let mut swallowed = std::mem::take(&mut first).then(|| swallow.subscribe());
        open.push(tokio::spawn(async move {
            let ((mut from, mut back), (mut answers, mut onward)) =
                (inner.into_split(), outer.into_split());
            let forth = async {
                let mut buffer = [0; 1_024];
                while let Ok(read @ 1..) = from.read(&mut buffer).await {
                    if swallowed.as_ref().is_some_and(|told| *told.borrow()) {
                        // The collector takes one connection at a time.
                        onward.shutdown().await.expect("closed");
                        std::future::pending::<()>().await;
                    }
                    onward.write_all(&buffer[..read]).await.expect("the collector reads");
                }
                // Held on to: dropping it would tell.
                drop(swallowed.take());
            };
            let back = async { tokio::io::copy(&mut answers, &mut back).await };
            tokio::join!(forth, back)
        }));
    }
}

#[tokio::test]
async fn lines_that_a_receiver_never_acknowledged_are_sent_again() {
    let keys = keys();
    let folder = tempfile::tempdir().expect("a folder");
    let spool = spooled(folder.path(), 0..10);
    let behind = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let to = behind.local_addr().expect("bound").to_string();
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4_096).expect("small");
    socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
    let front = socket.listen(8).expect("listening");
    let address = front.local_addr().expect("bound").to_string();
    let client = (keys.client.0.as_bytes(), keys.client.1.as_bytes());
    let mut receiver = Receiver::new(&address, keys.ca.as_bytes(), Some(client)).expect("settings");
    receiver.patience = SHORT;
    let (tell, mut heard) = mpsc::unbounded_channel();
    let (swallow, _) = watch::channel(false);
    let story = async {
        assert_eq!(numbers(&hear(&mut heard, 9).await), (0..10).collect::<Vec<_>>());
        tokio::time::sleep(SHORT.delivered * 2).await;
        swallow.send_replace(true);
        // More than the relay's socket takes, and less than ours keeps.
        {
            let mut held = spool.lock().expect("nobody panicked");
            for number in 1_000..2_000 {
                held.append(&frame(number)).expect("kept");
            }
        }
        assert_eq!(numbers(&hear(&mut heard, 1_999).await), (1_000..2_000).collect::<Vec<_>>());
    };
    tokio::select! {
        () = feed(&receiver, Waiting(Arc::clone(&spool))) => {}
        () = collector(behind, &keys, tell, usize::MAX) => {}
        () = relay(front, &to, &swallow) => {}
        () = story => {}
    }
}

/// Counts how often somebody is told, and sends one line that is never delivered.
struct Told(Arc<Mutex<Vec<bool>>>);

impl Feed for Told {
    type Place = ();

    async fn next(&mut self, _: Option<&()>) -> io::Result<Option<(Vec<u8>, ())>> {
        Ok(Some((frame(1), ())))
    }

    async fn delivered(&mut self, (): ()) -> io::Result<()> {
        Ok(())
    }

    async fn more(&mut self) {}

    fn tell(&mut self, _: &str, reached: Result<(), &str>) {
        self.0.lock().expect("nobody panicked").push(reached.is_ok());
    }
}

#[tokio::test]
async fn a_receiver_that_does_not_take_our_certificate_is_told_of_once() {
    let keys = keys();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    let receiver = Receiver::new(&address, keys.ca.as_bytes(), None).expect("settings");
    let (tell, mut heard) = mpsc::unbounded_channel();
    let told = Arc::default();
    tokio::select! {
        () = feed(&receiver, Told(Arc::clone(&told))) => {}
        () = collector(listener, &keys, tell, usize::MAX) => {}
        // Time for the first three attempts.
        () = tokio::time::sleep(Duration::from_secs(3)) => {}
    }
    assert_eq!(*told.lock().expect("nobody panicked"), [false]);
    assert!(heard.try_recv().is_err());
}
