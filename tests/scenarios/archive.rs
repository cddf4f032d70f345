//! Images fetched from a real archive, Debian's Orthanc, both ways.
//!
//! That version listens on all addresses whatever it is told, so it runs in a network of its own, and
//! all that speaks with it does too: the test starts itself there once more.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use harness::command::Order;
use harness::patience::{pass, wait_for};
use harness::programs::Programs;
use harness::running::Running;
use harness::{Outcome, Trouble};
use serde_json::Value;

#[path = "../../hospital-node/pull/tests/archives/held.rs"]
mod held;

const HTTP: u16 = 8042;
const DICOM: u16 = 4242;
const RLE: &[u8] = b"1.2.840.10008.1.2.5\0";
const START: Duration = Duration::from_secs(60);

/// Where Debian's packages are: installed, or unpacked by `.ci/orthanc`.
struct Packages {
    root: PathBuf,
    libraries: OsString,
    dictionary: PathBuf,
}

impl Packages {
    fn find() -> Option<Self> {
        let own = std::env::current_exe().ok()?;
        let unpacked = own.ancestors().find(|folder| folder.ends_with("target"))?.join("orthanc");
        let root = [unpacked, PathBuf::from("/")].into_iter().find(|root| {
            root.join("usr/sbin/Orthanc").is_file() && root.join("usr/bin/storescu").is_file()
        })?;
        let mut libraries = OsString::new();
        for folder in fs::read_dir(root.join("usr/lib")).ok()?.flatten() {
            if folder.file_name().to_string_lossy().ends_with("-linux-gnu") {
                libraries.push(folder.path());
            }
        }
        let data = fs::read_dir(root.join("usr/share")).ok()?.flatten();
        let mut data = data.map(|entry| entry.path().join("dicom.dic"));
        let dictionary = data.find(|file| file.is_file()).unwrap_or_default();
        Some(Self { root, libraries, dictionary })
    }

    fn order(&self, program: &str) -> Order {
        Order::new(self.root.join(program))
            .env("LD_LIBRARY_PATH", &self.libraries)
            .env("DCMDICTPATH", &self.dictionary)
    }

    fn plugin(&self) -> PathBuf {
        self.root.join("usr/share/orthanc/plugins/libOrthancDicomWeb.so")
    }
}

#[test]
#[expect(clippy::print_stderr, reason = "says what was tried")]
fn orthanc_gives_twelve_images_of_three_patients_both_ways() -> Outcome<()> {
    let Some(packages) = Packages::find() else {
        let why = "there is no Orthanc with dcmtk here; `.ci/orthanc target/orthanc` unpacks them";
        return skipped(why, None);
    };
    if !packages.plugin().exists() {
        return skipped("this Orthanc has no DICOMweb plugin", Some(&packages));
    }
    let alone = Order::new("unshare")
        .env("PATH", PATH)
        .args(["--net", "--", "ip", "link", "set", "lo", "up"])
        .run();
    match alone {
        Ok(alone) if alone.exit == Some(0) => {}
        Ok(alone) => {
            let why = format!("no network of its own: {}", alone.stderr.trim());
            return skipped(&why, Some(&packages));
        }
        Err(error) => {
            return skipped(&format!("no network of its own: {error}"), Some(&packages));
        }
    }
    let script = "ip link set lo up && exec \"$0\" \"$@\"";
    let inside = Order::new("unshare")
        .env("PATH", PATH)
        .args(["--net", "--", "sh", "-c", script])
        .arg(std::env::current_exe()?)
        .args(["--ignored", "--exact", "--nocapture", "archive::in_a_network_of_its_own"])
        .patience(Duration::from_secs(300))
        .run()?;
    eprintln!("{}{}", inside.stdout, inside.stderr);
    // A test that has skipped ends well too.
    if inside.exit == Some(0) && inside.stderr.contains(DONE) {
        Ok(())
    } else {
        Err(Trouble::new(format!("expected {DONE:?} in the end, found {:?}", inside.exit)))
    }
}

/// What the test inside says when it has come to its end.
const DONE: &str = "both ways pulled, killed and gone on with";

/// Says why nothing is tried; where this is a server's run that was given an archive, that is a fault.
#[expect(clippy::print_stderr, reason = "says why nothing was tried")]
fn skipped(why: &str, packages: Option<&Packages>) -> Outcome<()> {
    #[expect(clippy::disallowed_methods, reason = "how servers say that a run is theirs")]
    let server = std::env::var_os("CI").is_some_and(|value| value == "true");
    if server && packages.is_some_and(|packages| packages.root != Path::new("/")) {
        return Err(Trouble::new(format!("expected the test of an archive to run, found {why}")));
    }
    eprintln!("skipped: {why}");
    Ok(())
}

const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

#[test]
#[ignore = "started by the test above, where nobody else can reach the archive"]
#[expect(clippy::print_stderr, reason = "says why nothing was tried, or what was")]
fn in_a_network_of_its_own() -> Outcome<()> {
    // Some kernels put tunnels into every network; while they are down nobody comes through them.
    let up = Order::new("ip").env("PATH", PATH).args(["-o", "link", "show", "up"]).run()?;
    if up.exit != Some(0) || up.stdout.lines().any(|line| line.split(": ").nth(1) != Some("lo")) {
        eprintln!("skipped: this network has more than a loopback device: {}", up.stdout);
        return Ok(());
    }
    let packages = Packages::find().ok_or_else(|| Trouble::new("expected Orthanc's packages"))?;
    let scratch = tempfile::tempdir()?;
    let home = House::settle(scratch.path())?;
    let orthanc = start(&packages, scratch.path())?;
    store(&packages, scratch.path())?;

    for way in ["web", "dicom"] {
        let first = home.pull(way)?.data()?;
        assert_eq!(counts(&first, ["found", "fetched", "already"]), [12, 12, 0], "{way}: {first}");
        assert_eq!(counts(&first["holds"], ["patients", "studies", "images"]), [3, 6, 12], "{way}");
        let again = home.pull(way)?.data()?;
        assert_eq!(counts(&again, ["found", "fetched", "already"]), [12, 0, 12], "{way}: {again}");
        home.names_nobody(way)?;
        let scan = home.order(["data", "scan", way]).data()?;
        assert_eq!(counts(&scan, ["records", "usable", "unlisted"]), [12, 12, 0], "{way}: {scan}");
        assert_eq!(
            scan["parts"].as_object().map(|parts| {
                parts.values().filter_map(|part| part["patients"].as_u64()).sum::<u64>()
            }),
            Some(3),
            "{way}: {scan}"
        );
        eprintln!("{way}: {first}");
    }
    assert_eq!(home.images("web")?, home.images("dicom")?, "both ways lead to the same files");
    let rle = |bytes: &Vec<u8>| bytes.windows(RLE.len()).any(|window| window == RLE);
    assert_eq!(
        home.images("web")?.iter().filter(|bytes| rle(bytes)).count(),
        1,
        "stored as it was sent"
    );

    for way in ["web-relayed", "dicom-relayed"] {
        home.killed_in_the_middle(way)?;
    }
    let refused = home.pull("locked")?.refused(2)?;
    assert!(refused.message.contains("401"), "{refused:?}");
    orthanc.stop()?;
    eprintln!("{DONE}");
    Ok(())
}

fn counts<const N: usize>(data: &Value, keys: [&str; N]) -> [u64; N] {
    keys.map(|key| data[key].as_u64().unwrap_or(u64::MAX))
}

/// An archive that asks for a password.
fn start(packages: &Packages, folder: &Path) -> Outcome<Running> {
    let data = folder.join("orthanc");
    let settings = serde_json::json!({
        "Name": "Archive", "StorageDirectory": &data, "IndexDirectory": &data,
        "Plugins": [packages.plugin()], "HttpPort": HTTP, "DicomPort": DICOM, "DicomAet": "ARCHIVE",
        "RemoteAccessAllowed": true, "AuthenticationEnabled": true,
        "RegisteredUsers": { "reader": "opened" }, "DicomAlwaysAllowGet": true, "DicomAlwaysAllowFind": true,
    });
    let file = folder.join("orthanc.json");
    fs::write(&file, settings.to_string())?;
    let order = packages.order("usr/sbin/Orthanc").arg(&file);
    let mut orthanc = Running::start(&order, &folder.join("orthanc.log"))?;
    wait_for("Orthanc", START, || {
        if let Some(status) = orthanc.ended()? {
            return Err(Trouble::new(format!("Orthanc ended: {status}: {}", orthanc.said())));
        }
        let open = |port| TcpStream::connect(("127.0.0.1", port)).is_ok();
        Ok((open(HTTP) && open(DICOM)).then_some(()))
    })?;
    Ok(orthanc)
}

/// Three patients, twelve images, stored as a modality stores them; one of them compressed.
fn store(packages: &Packages, folder: &Path) -> Outcome<()> {
    let to = ["-aec", "ARCHIVE", "127.0.0.1", "4242"];
    for (index, held) in held::contents().iter().enumerate() {
        let mut file = folder.join(format!("{index}.dcm"));
        fs::write(&file, held.file())?;
        let mut send = packages.order("usr/bin/storescu").args(to);
        if index == 0 {
            let packed = folder.join("packed.dcm");
            let packing = packages.order("usr/bin/dcmcrle").arg(&file).arg(&packed).run()?;
            assert_eq!(packing.exit, Some(0), "{packing:?}");
            file = packed;
            send = packages.order("usr/bin/storescu").arg("-xr").args(to);
        }
        let sent = send.arg(&file).run()?;
        if sent.exit != Some(0) {
            return Err(Trouble::new(format!("storescu: {sent:?}")));
        }
    }
    Ok(())
}

/// A hospital that has its pseudonym key, and the sections of what it fetches.
struct House {
    home: PathBuf,
    config: PathBuf,
    program: PathBuf,
}

impl House {
    fn settle(folder: &Path) -> Outcome<Self> {
        let programs = Programs::find()?;
        let home = folder.join("house");
        let state = home.join("state");
        fs::create_dir_all(&state)?;
        for (file, secret) in [
            (state.join("pseudonym.key"), &[7; 32][..]),
            (home.join("password"), b"opened\n"),
            (home.join("wrong"), b"shut\n"),
        ] {
            fs::write(&file, secret)?;
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
        }
        fs::set_permissions(&state, fs::Permissions::from_mode(0o700))?;
        let mut text = "state = \"state\"\n[network]\nproxy = \"none\"\n".to_owned();
        let (web, dicom) =
            (relay(HTTP, home.join("web-relayed"))?, relay(DICOM, home.join("dicom-relayed"))?);
        let http =
            |port| format!("from = \"http://127.0.0.1:{port}/dicom-web\"\nuser = \"reader\"\n");
        let open = "password_file = \"password\"\n";
        let dimse = |port| format!("from = \"dicom://127.0.0.1:{port}\"\ncalled = \"ARCHIVE\"\n");
        for (name, section) in [
            ("web", http(HTTP) + open),
            ("web-relayed", http(web) + open),
            ("locked", http(HTTP) + "password_file = \"wrong\"\n"),
            ("dicom", dimse(DICOM)),
            ("dicom-relayed", dimse(dicom)),
        ] {
            text += &format!(
                "[pull.{name}]\n{section}into = \"{name}\"\nmodality = \"CR\"\nlabel = \"normal\"\n\
                 study_date = \"20210101-20221231\"\nkeep = [\"StudyDescription\"]\n\
                 [data.{name}]\nkind = \"images\"\npath = \"{name}/images\"\nmanifest = \"{name}/manifest.csv\"\n"
            );
        }
        let config = home.join("node.toml");
        fs::write(&config, text)?;
        Ok(Self { home, config, program: programs.node() })
    }

    fn order<const N: usize>(&self, arguments: [&str; N]) -> Order {
        Order::new(&self.program)
            .arg("--config")
            .arg(&self.config)
            .args(["--format", "json"])
            .args(arguments)
    }

    fn pull(&self, way: &str) -> Outcome<harness::command::Finished> {
        self.order(["data", "pull", way]).run()
    }

    /// Every image of a folder.
    fn images(&self, way: &str) -> Outcome<BTreeSet<Vec<u8>>> {
        let mut images = BTreeSet::new();
        for group in fs::read_dir(self.home.join(way).join("images"))? {
            for file in fs::read_dir(group?.path())? {
                images.insert(fs::read(file?.path())?);
            }
        }
        Ok(images)
    }

    fn names_nobody(&self, way: &str) -> Outcome<()> {
        let list = fs::read(self.home.join(way).join("manifest.csv"))?;
        let journal = fs::read(self.home.join(way).join("pull.journal"))?;
        for bytes in self.images(way)?.iter().chain([&list, &journal]) {
            for word in ["CANARY", "Thorax", "1.2.1.1", "1.2.3.2", "20210115"] {
                let inside = bytes.windows(word.len()).any(|window| window == word.as_bytes());
                assert!(!inside, "{way}: {word}");
            }
        }
        Ok(())
    }

    /// The relay stops once four images are there; what waits for the fifth is killed.
    fn killed_in_the_middle(&self, way: &str) -> Outcome<()> {
        let folder = self.home.join(way);
        let running =
            Running::start(&self.order(["data", "pull", way]), &self.home.join("killed.log"))?;
        wait_for("four images", START, || Ok((journalled(&folder) >= 4).then_some(())))?;
        pass(Duration::from_millis(500));
        drop(running);
        let kept = u64::try_from(journalled(&folder)).unwrap_or(0);
        assert!((4..12).contains(&kept), "{way}: {kept}");
        fs::write(folder.join("go-on"), "")?;
        let rest = self.pull(way)?.data()?;
        assert_eq!(
            counts(&rest, ["found", "fetched", "already"]),
            [12, 12 - kept, kept],
            "{way}: {rest}"
        );
        assert_eq!(counts(&rest["holds"], ["patients", "images"]), [3, 12], "{way}");
        assert_eq!(self.images(way)?, self.images("web")?, "{way}");
        Ok(())
    }
}

fn journalled(folder: &Path) -> usize {
    let text = fs::read_to_string(folder.join("pull.journal")).unwrap_or_default();
    text.lines().count().saturating_sub(1)
}

/// Passes on what comes for `to`; answers wait while there are four images in `folder` and no word to
/// go on.
fn relay(to: u16, folder: PathBuf) -> Outcome<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let port = listener.local_addr()?.port();
    // Ends with the process: it holds nothing but its socket.
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let Ok(server) = TcpStream::connect(("127.0.0.1", to)) else { continue };
            let (Ok(back), Ok(forth)) = (server.try_clone(), client.try_clone()) else { continue };
            let folder = folder.clone();
            thread::spawn(move || pump(client, server, &|| true));
            thread::spawn(move || {
                pump(back, forth, &|| journalled(&folder) < 4 || folder.join("go-on").exists());
            });
        }
    });
    Ok(port)
}

fn pump(mut from: TcpStream, mut to: TcpStream, open: &dyn Fn() -> bool) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read) = from.read(&mut buffer) {
        while !open() {
            pass(Duration::from_millis(20));
        }
        let passed = buffer.get(..read).unwrap_or_default();
        if passed.is_empty() || to.write_all(passed).is_err() {
            break;
        }
    }
    // The other side may have closed them already.
    let _ = to.shutdown(std::net::Shutdown::Both);
    let _ = from.shutdown(std::net::Shutdown::Both);
}
