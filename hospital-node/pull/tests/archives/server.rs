//! A DICOMweb server of a few lines, which can misbehave.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::held::Held;

/// How it answers when an instance is fetched, or what it needs to be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    Good,
    /// The bare file, with its length.
    Bare,
    /// Another instance than the one that was asked for.
    Another,
    /// Two parts.
    Two,
    /// Bytes for ever, as one value of the header claims.
    Endless,
    /// A byte now and then.
    Slow,
    /// Nothing at all.
    Mute,
    /// Half of it, then the connection ends.
    Cut,
    /// A length of pixels that is not true.
    Lies,
    /// Nothing that is DICOM.
    Nonsense,
    /// 503, the first time for each.
    AtFirst503,
    /// 404.
    Gone,
    /// 401 without this value of the header Authorization.
    Locked(&'static str),
    /// One study more, whose UID is a path.
    BadUid,
    /// The same, and its lists heed no pages.
    BadUidHeedless,
    /// One study more, whose attributes are this.
    BadRow(&'static str),
    /// No list at all.
    NoList,
    /// Its pages have at most so many answers.
    Caps(usize),
    /// The same, and says so where there is more.
    CapsAndSays(usize),
    /// Its pages are the first, whatever the offset, of at most so many answers.
    Stuck(usize),
    /// The same, and says so where there is more.
    StuckAndSays(usize),
    /// 403 for paths with this in them.
    Forbids(&'static str),
    /// 404 for them.
    Lacks(&'static str),
    /// 404 where no study fits.
    NoneIs404,
    /// Nothing at all for paths that end so.
    MuteOver(&'static str),
    /// Nothing at all for questions about studies after this one.
    MuteBehind(&'static str),
    /// Everything but the pixels.
    Stripped,
    /// 401 after so many instances.
    LocksAfter(usize),
    /// 401 for paths with this in them.
    LocksOver(&'static str),
    /// A list without end.
    EndlessList,
    /// Its lists heed neither criteria nor pages.
    Heedless,
    /// It falls silent after so many instances.
    StopsAfter(usize),
}

/// What it was asked.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asked(Arc<Mutex<Vec<String>>>);

impl Asked {
    fn add(&self, path: &str) -> usize {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(path.to_owned());
        all.iter().filter(|one| *one == path).count()
    }

    /// How many instances were asked for.
    pub(crate) fn instances(&self) -> usize {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter(|path| path.contains("/instances/")).count()
    }

    /// How often a path that ends so was asked for.
    pub(crate) fn about(&self, end: &str) -> usize {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter(|path| path.ends_with(end)).count()
    }
}

/// Serves until the test ends; where it does so.
pub(crate) fn serve(held: Vec<Held>, manner: Manner) -> (String, Asked) {
    let (port, asked) = serve_over(None, held, manner);
    (format!("http://127.0.0.1:{port}/dicom-web"), asked)
}

/// The same over TLS, or without; its port.
pub(crate) fn serve_over(
    tls: Option<Arc<ServerConfig>>,
    held: Vec<Held>,
    manner: Manner,
) -> (u16, Asked) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let (asked, held) = (Asked::default(), Arc::new(held));
    let told = asked.clone();
    std::thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            // Without it, answers wait for one another.
            let _ = connection.set_nodelay(true);
            let (held, manner, told) = (Arc::clone(&held), manner.clone(), told.clone());
            let tls = tls.clone();
            std::thread::spawn(move || {
                // A client that has gone away is no concern of ours.
                let _ = match tls.map(ServerConnection::new) {
                    None => converse(connection, &held, &manner, &told),
                    Some(Ok(tls)) => {
                        converse(StreamOwned::new(tls, connection), &held, &manner, &told)
                    }
                    Some(Err(error)) => Err(std::io::Error::other(error)),
                };
            });
        }
    });
    (port, asked)
}

fn converse<S: Read + Write>(
    stream: S,
    held: &[Held],
    manner: &Manner,
    told: &Asked,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let (mut line, mut login) = (String::new(), String::new());
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let target = line.split(' ').nth(1).unwrap_or_default().to_owned();
        loop {
            let mut header = String::new();
            reader.read_line(&mut header)?;
            if let Some(value) = header.to_lowercase().strip_prefix("authorization:") {
                login = header[header.len() - value.len()..].trim().to_owned();
            }
            if header.trim().is_empty() {
                break;
            }
        }
        let to = reader.get_mut();
        if let Manner::Locked(key) = manner
            && login != *key
        {
            send(to, 401, "text/plain", b"CANARY")?;
            continue;
        }
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let times = told.add(path);
        let study = path.split("/studies/").nth(1).and_then(|rest| rest.split('/').next());
        let is_question = !path.contains("/instances/");
        let mute = [
            matches!(manner, Manner::MuteOver(end) if path.ends_with(end)),
            matches!(manner, Manner::MuteBehind(last) if is_question && study > Some(last)),
        ];
        if mute.contains(&true) {
            pause(Duration::from_secs(30));
            return Ok(());
        }
        let denied = [
            (401, matches!(manner, Manner::LocksAfter(count) if told.instances() > *count)),
            (401, matches!(manner, Manner::LocksOver(what) if path.contains(what))),
            (403, matches!(manner, Manner::Forbids(what) if path.contains(what))),
            (404, matches!(manner, Manner::Lacks(what) if path.contains(what))),
        ];
        if let Some((status, _)) = denied.into_iter().find(|(_, denied)| *denied) {
            send(to, status, "text/plain", b"CANARY")?;
            continue;
        }
        let parts: Vec<&str> = path.trim_start_matches("/dicom-web/").split('/').collect();
        match parts.as_slice() {
            ["studies"] => {
                let page = studies(held, query, manner);
                if *manner == Manner::NoneIs404 && page.0 == "[]" {
                    send(to, 404, "text/plain", b"CANARY")?;
                } else {
                    send_list(to, page)?;
                }
            }
            ["studies", study, "series"] => {
                let of = |one: &&Held| one.study == *study;
                let list = list(held, query, manner, of, |one| {
                    (
                        one.series.clone(),
                        vec![
                            ("0020000E", one.series.as_str()),
                            ("00080060", one.modality),
                            ("0008103E", &one.description),
                        ],
                    )
                });
                send_list(to, list)?;
            }
            ["studies", _, "series", series, "instances"] => {
                let of = |one: &&Held| one.series == *series;
                let list = list(held, query, manner, of, |one| {
                    (
                        one.instance.clone(),
                        vec![("00080018", one.instance.as_str()), ("00080016", one.class)],
                    )
                });
                send_list(to, list)?;
            }
            ["studies", _, "series", _, "instances", instance] => {
                let one = held.iter().find(|one| one.instance == *instance).expect("listed");
                fetch(to, held, one, manner, times, told.instances())?;
            }
            _ => send(to, 400, "text/plain", b"CANARY")?,
        }
    }
}

const JSON: &str = "application/dicom+json";
const MORE: &str = "299 test: \"The number of results exceeded the maximum supported by the server. \
                    Additional results can be requested.\"";

/// A page, and whether it says that there is more.
struct Page(String, bool);

fn send_list(to: &mut impl Write, Page(list, says_more): Page) -> std::io::Result<()> {
    if !says_more {
        return send(to, 200, JSON, list.as_bytes());
    }
    let length = list.len();
    write!(to, "HTTP/1.1 200 X\r\nContent-Type: {JSON}\r\nWarning: {MORE}\r\n")?;
    write!(to, "Warning: 299 test: \"literal matching\"\r\nContent-Length: {length}\r\n\r\n{list}")
}

fn send(to: &mut impl Write, status: u16, kind: &str, body: &[u8]) -> std::io::Result<()> {
    let length = body.len();
    write!(to, "HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n")?;
    to.write_all(body)
}

fn parameter<'q>(query: &'q str, name: &str) -> Option<&'q str> {
    query
        .split('&')
        .filter_map(|one| one.split_once('='))
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value)
}

fn studies(held: &[Held], query: &str, manner: &Manner) -> Page {
    if *manner == Manner::NoList {
        return Page(format!("[{{\"x\":{}", "[".repeat(65 << 20)), false);
    }
    if *manner == Manner::EndlessList {
        return Page(format!("[{}", "{},".repeat(16 << 20)), false);
    }
    let heedless = *manner == Manner::Heedless;
    let of = |one: &&Held| {
        heedless
            || parameter(query, "PatientID").is_none_or(|asked| asked == one.patient)
                && parameter(query, "ModalitiesInStudy").is_none_or(|asked| asked == one.modality)
                && parameter(query, "StudyDate")
                    .is_none_or(|asked| asked.split('-').any(|day| day == one.date))
    };
    let Page(list, says_more) = list(held, query, manner, of, |one| {
        (
            one.study.clone(),
            vec![
                ("0020000D", one.study.as_str()),
                ("00100020", &one.patient),
                ("00080020", &one.date),
            ],
        )
    });
    let bad = if let Manner::BadRow(row) = manner {
        Some(*row)
    } else {
        matches!(manner, Manner::BadUid | Manner::BadUidHeedless).then_some(BAD_ROW)
    };
    let bad = bad.filter(|_| list.len() > 2);
    Page(
        bad.map_or_else(|| list.clone(), |row| list.replacen('[', &format!("[{row},"), 1)),
        says_more,
    )
}

const BAD_ROW: &str = "{\"0020000D\":{\"vr\":\"UI\",\"Value\":[\"../../admin\"]}}";

/// DICOM JSON of what is held, each thing once, a page of it.
fn list<'h>(
    held: &'h [Held],
    query: &str,
    manner: &Manner,
    of: impl Fn(&&Held) -> bool,
    told: impl Fn(&'h Held) -> (String, Vec<(&'static str, &'h str)>),
) -> Page {
    let all: BTreeMap<_, _> = held.iter().filter(of).map(told).collect();
    let heedless = matches!(manner, Manner::Heedless | Manner::BadUidHeedless);
    let cap = if let Manner::Caps(cap)
    | Manner::CapsAndSays(cap)
    | Manner::Stuck(cap)
    | Manner::StuckAndSays(cap) = manner
    {
        *cap
    } else {
        usize::MAX
    };
    let stuck = matches!(manner, Manner::Stuck(_) | Manner::StuckAndSays(_));
    let says = matches!(manner, Manner::CapsAndSays(_) | Manner::StuckAndSays(_));
    let number = |name| parameter(query, name).and_then(|text| text.parse().ok());
    let (skip, take) = if heedless {
        (0, usize::MAX)
    } else {
        let skip = number("offset").filter(|_| !stuck).unwrap_or(0);
        (skip, number("limit").unwrap_or(usize::MAX))
    };
    let take = take.min(cap);
    let says_more = says && all.len() > skip + take;
    let objects: Vec<String> = all
        .values()
        .skip(skip)
        .take(take)
        .map(|attributes| {
            let one = |(tag, value): &(&str, &str)| {
                format!("\"{tag}\":{{\"vr\":\"LO\",\"Value\":[\"{value}\"]}}")
            };
            format!("{{{}}}", attributes.iter().map(one).collect::<Vec<_>>().join(","))
        })
        .collect();
    Page(format!("[{}]", objects.join(",")), says_more)
}

const MULTIPART: &str = "multipart/related; type=\"application/dicom\"; boundary=b0undary";

fn part(file: &[u8]) -> Vec<u8> {
    let mut body = b"--b0undary\r\nContent-Type: application/dicom\r\n\r\n".to_vec();
    body.extend_from_slice(file);
    body.extend_from_slice(b"\r\n");
    body
}

fn fetch(
    to: &mut impl Write,
    held: &[Held],
    one: &Held,
    manner: &Manner,
    times: usize,
    fetched: usize,
) -> std::io::Result<()> {
    let file = one.file();
    let whole = [part(&file), b"--b0undary--\r\n".to_vec()].concat();
    let open = |to: &mut dyn Write, body: &[u8]| {
        write!(to, "HTTP/1.1 200 OK\r\nContent-Type: {MULTIPART}\r\nConnection: close\r\n\r\n")?;
        to.write_all(body)
    };
    match manner {
        Manner::Bare => send(to, 200, "application/dicom", &file),
        Manner::Another => {
            let other = held.iter().find(|other| other.instance != one.instance).expect("another");
            send(to, 200, MULTIPART, &[part(&other.file()), b"--b0undary--".to_vec()].concat())
        }
        Manner::Two => {
            send(to, 200, MULTIPART, &[part(&file), part(&file), b"--b0undary--".to_vec()].concat())
        }
        Manner::Endless => {
            open(to, &part(&file)[..300])?;
            loop {
                to.write_all(&[b'A'; 65536])?;
            }
        }
        Manner::Slow => {
            open(to, b"")?;
            for byte in whole.chunks(1) {
                to.write_all(byte)?;
                pause(Duration::from_millis(100));
            }
            Ok(())
        }
        Manner::Mute => {
            pause(Duration::from_secs(30));
            Ok(())
        }
        Manner::Cut => {
            open(to, &whole[..whole.len() / 2])?;
            // The connection ends with the conversation.
            Err(std::io::Error::other("cut"))
        }
        Manner::Lies => {
            let mut lying = file.clone();
            let at = lying.windows(4).position(|tag| tag == [0xe0, 0x7f, 0x10, 0]).expect("pixels");
            lying[at + 8..at + 12].copy_from_slice(&0x0fff_fff0_u32.to_le_bytes());
            send(to, 200, MULTIPART, &[part(&lying), b"--b0undary--".to_vec()].concat())
        }
        Manner::Stripped => {
            let bare = Held { pixels: false, ..one.clone() };
            let file = [part(&bare.file()), b"--b0undary--".to_vec()].concat();
            send(to, 200, MULTIPART, &file)
        }
        Manner::Nonsense => send(to, 200, MULTIPART, b"CANARY"),
        Manner::AtFirst503 if times == 1 => send(to, 503, "text/plain", b"CANARY"),
        Manner::Gone => send(to, 404, "text/plain", b"CANARY"),
        Manner::StopsAfter(count) if fetched > *count => {
            pause(Duration::from_secs(60));
            Ok(())
        }
        Manner::Good
        | Manner::AtFirst503
        | Manner::Locked(_)
        | Manner::BadUid
        | Manner::BadUidHeedless
        | Manner::BadRow(_)
        | Manner::NoList
        | Manner::Caps(_)
        | Manner::CapsAndSays(_)
        | Manner::Stuck(_)
        | Manner::StuckAndSays(_)
        | Manner::Forbids(_)
        | Manner::Lacks(_)
        | Manner::NoneIs404
        | Manner::MuteOver(_)
        | Manner::MuteBehind(_)
        | Manner::LocksAfter(_)
        | Manner::LocksOver(_)
        | Manner::EndlessList
        | Manner::Heedless
        | Manner::StopsAfter(_) => send(to, 200, MULTIPART, &whole),
    }
}

/// A server that takes its time.
pub(crate) fn pause(time: Duration) {
    let (_never, wait) = std::sync::mpsc::channel::<()>();
    // Nothing comes; that is the point.
    let _ = wait.recv_timeout(time);
}
