//! From what a person wrote, a section `[pull.NAME]`, to what is fetched: checked, with all faults
//! reported at once.
//!
//! The agent hands the section over on standard input, with where its paths begin, the file of the
//! site's secret and the proxy: nothing of it shows in the machine's list of processes.

mod patients;
mod section;

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use toml::Table;
use ureq::http::Uri;
use zeroize::Zeroizing;

use crate::keep::Keep;
pub use patients::Patients;
use section::Section;

/// The longest file with a password or a token.
const MOST_SECRET: u64 = 64 << 10;
/// The ports of DICOM and of DICOM over TLS.
const PORT: u16 = 104;
const TLS_PORT: u16 = 2762;

/// What is to be fetched, from where, and what is kept of it.
#[derive(Debug)]
pub struct Job {
    /// The archive.
    pub from: Origin,
    /// The folder.
    pub into: PathBuf,
    /// The file of the site's secret.
    pub names: PathBuf,
    /// How connections leave the hospital.
    pub proxy: Proxy,
    /// The certificates to believe; this system's where none are given.
    pub ca: Option<PathBuf>,
    /// The certificate that the archive is shown, and its key.
    pub client: Option<(PathBuf, PathBuf)>,
    /// Modalities; none for all.
    pub modalities: Vec<String>,
    /// A date or a range of dates, as `YYYYMMDD-YYYYMMDD`.
    pub dates: Option<Dates>,
    /// The patients; none for all.
    pub patients: Option<Patients>,
    /// A pattern for the series' description, with `*` and `?`.
    pub description: Option<String>,
    /// What is kept of headers.
    pub keep: Keep,
    /// The label of all images whose patient has none of their own.
    pub label: String,
    /// What a row of the list stands for.
    pub rows: Rows,
    /// Whether what is there already is fetched once more.
    pub refetch: bool,
}

/// What a row of the list stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rows {
    /// An image.
    #[default]
    Image,
    /// A series: the folder with its images, which the trainer reads as a volume.
    Series,
}

/// Where images are fetched.
#[derive(Debug)]
pub enum Origin {
    /// By DICOMweb.
    Web {
        /// The address of the service.
        base: String,
        /// Whether it is reached over TLS.
        tls: bool,
        /// What lets us in.
        login: Option<Login>,
    },
    /// By C-FIND and C-GET.
    Dimse {
        /// The machine.
        host: String,
        /// Its port.
        port: u16,
        /// Whether it is reached over TLS.
        tls: bool,
        /// The archive's AE title.
        called: String,
        /// Ours.
        calling: String,
    },
}

impl Origin {
    /// Whether it is this machine.
    #[must_use]
    pub fn is_here(&self) -> bool {
        match self {
            Self::Web { base, .. } => {
                base.parse::<Uri>().is_ok_and(|uri| uri.host().is_some_and(is_loopback))
            }
            Self::Dimse { host, .. } => is_loopback(host),
        }
    }
}

fn is_loopback(host: &str) -> bool {
    let host = host.trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// What lets us in.
pub enum Login {
    /// A name and a password.
    Basic {
        /// The name.
        user: String,
        /// The password.
        password: Zeroizing<String>,
    },
    /// A token.
    Bearer(Zeroizing<String>),
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Login(..)")
    }
}

/// How connections leave the hospital.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proxy {
    /// As `HTTPS_PROXY` and `NO_PROXY` say.
    Environment,
    /// Straight.
    Direct,
    /// Through this one.
    Url(String),
}

impl Proxy {
    fn read(text: &str) -> Option<Self> {
        match text {
            "" | "auto" => Some(Self::Environment),
            "none" => Some(Self::Direct),
            url => {
                let scheme = url.starts_with("http://") || url.starts_with("https://");
                (scheme && ureq::Proxy::new(url).is_ok()).then(|| Self::Url(url.to_owned()))
            }
        }
    }
}

/// Days from the first to the last, as `YYYYMMDD`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dates {
    /// As it was written.
    pub text: String,
    first: String,
    last: String,
}

impl Dates {
    /// Reads `D`, `D-D`, `D-` or `-D`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let day = |text: &str| {
            let fits = text.len() == 8
                && text.bytes().all(|byte| byte.is_ascii_digit())
                && ("01"..="12").contains(&&text[4..6])
                && ("01"..="31").contains(&&text[6..]);
            fits.then(|| text.to_owned())
        };
        let (first, last) = match text.split_once('-') {
            None => (day(text)?, day(text)?),
            Some(("", last)) => (String::new(), day(last)?),
            Some((first, "")) => (day(first)?, "99999999".to_owned()),
            Some((first, last)) => (day(first)?, day(last)?),
        };
        (first <= last).then(|| Self { text: text.to_owned(), first, last })
    }

    /// Whether a day is among them.
    #[must_use]
    pub fn contain(&self, day: &str) -> bool {
        (self.first.as_str()..=self.last.as_str()).contains(&day)
    }
}

impl Job {
    /// Checks what the agent has handed over.
    ///
    /// # Errors
    /// Every fault, a line for each.
    pub fn parse(text: &str) -> Result<Self, Vec<String>> {
        let table: Table = text.parse().map_err(|_| vec!["expected a job in TOML".to_owned()])?;
        let mut faults = Vec::new();
        let text = |key: &str| table.get(key).and_then(|value| value.as_str()).unwrap_or_default();
        let base = PathBuf::from(text("base"));
        let network = Proxy::read(text("proxy"));
        let name = format!("pull.{}", text("name"));
        let section = table.get("pull").and_then(|value| value.as_table());
        let mut section = Section::new(&name, section, &base, &mut faults);

        let own = section.text("proxy", "\"none\"");
        let proxy = own.as_deref().map_or(network, Proxy::read);
        if proxy.is_none() {
            section.wrong("proxy", "\"auto\", \"none\", or http://HOST:PORT", "\"none\"");
        }
        let from = read_from(&mut section);
        // Nothing else could reach it either.
        let near = own.is_none() && from.as_ref().is_some_and(Origin::is_here);
        let into = section.path("into", "\"/srv/chest\"");
        if into.is_none() {
            section.missing("into", "the folder that images are put into", "\"/srv/chest\"");
        }
        let ca = section.path("ca", "\"archive-ca.pem\"");
        let client = section.pair(
            "certificate",
            "key",
            ["\"archive-client.pem\"", "\"archive-client.key\""],
        );
        let modalities = section.codes("modality", "[\"DX\", \"CR\"]");
        let dates = section.text("study_date", "\"20240101-20241231\"").and_then(|text| {
            let dates = Dates::parse(&text);
            if dates.is_none() {
                section.wrong(
                    "study_date",
                    "a day YYYYMMDD, or a range with '-'",
                    "\"20240101-20241231\"",
                );
            }
            dates
        });
        let description = section.text("series_description", "\"*thorax*\"");
        let patients = section.path("patients", "\"patients.csv\"");
        let patients = patients.and_then(|file| {
            Patients::read(&file).map_err(|error| section.say("patients", &error)).ok()
        });
        let label = section.text("label", "\"pneumonia\"").unwrap_or_default();
        if !patients::is_label(&label) {
            section.wrong("label", "one line of at most 1024 bytes", "\"pneumonia\"");
        }
        let rows = match section.text("rows", "\"series\"").as_deref() {
            None | Some("image") => Rows::Image,
            Some("series") => Rows::Series,
            Some(_) => {
                section.wrong("rows", "\"image\" or \"series\"", "\"series\"");
                Rows::Image
            }
        };
        let mut keep = Keep::default();
        for word in section.list("keep", "[\"PatientSex\", \"PatientAge\"]") {
            if let Err(allowed) = keep.add(&word) {
                section.wrong("keep", allowed, "[\"PatientSex\", \"PatientAge\"]");
            }
        }
        if modalities.is_empty() && dates.is_none() && patients.is_none() && section.is_sound() {
            section.missing(
                "modality",
                "at least one of modality, study_date and patients: never a whole archive",
                "[\"DX\", \"CR\"]",
            );
        }
        section.finish();
        let names = PathBuf::from(text("secret"));
        match (from, into, proxy) {
            (Some(from), Some(into), Some(proxy)) if faults.is_empty() => Ok(Self {
                from,
                into,
                names,
                proxy: if near { Proxy::Direct } else { proxy },
                ca,
                client,
                modalities,
                dates,
                patients,
                description,
                keep,
                label,
                rows,
                refetch: false,
            }),
            _ => Err(faults),
        }
    }
}

fn read_from(section: &mut Section<'_>) -> Option<Origin> {
    const ALLOWED: &str = "https://HOST[:PORT]/PATH (DICOMweb) or dicom-tls://HOST[:PORT] (C-FIND, C-GET); http:// and dicom:// on this machine, or with danger_unencrypted = true";
    const EXAMPLE: &str = "\"https://pacs.hospital.example/dicom-web\"";
    let login = read_login(section);
    let open = section.flag("danger_unencrypted").unwrap_or(false);
    let title = |title: &String| {
        (1..=16).contains(&title.len())
            && title.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic() && byte != b'\\')
            && title.trim().len() == title.len()
    };
    let [called, calling] = ["called", "calling"].map(|key| {
        let found = section.text(key, "\"ARCHIVE\"");
        if found.as_ref().is_some_and(|found| !title(found)) {
            section.wrong(key, "an AE title of 1 to 16 characters", "\"ARCHIVE\"");
        }
        found
    });
    let Some(text) = section.text("from", EXAMPLE) else {
        section.missing("from", ALLOWED, EXAMPLE);
        return None;
    };
    let uri = text.parse::<Uri>().ok().filter(|uri| {
        uri.query().is_none()
            && !text.contains(['@', '#'])
            && uri.host().is_some_and(|host| !host.is_empty())
    });
    let parts = uri.as_ref().and_then(|uri| Some((uri.scheme_str()?, uri.host()?)));
    let Some((scheme @ ("https" | "http" | "dicom" | "dicom-tls"), host)) = parts else {
        section.wrong("from", ALLOWED, EXAMPLE);
        return None;
    };
    let host = host.trim_matches(['[', ']']).to_owned();
    let here = is_loopback(&host);
    let tls = scheme == "https" || scheme == "dicom-tls";
    if !tls && !here && !open {
        section.wrong("from", ALLOWED, EXAMPLE);
        return None;
    }
    if scheme.starts_with("http") {
        return Some(Origin::Web { base: text.clone(), tls, login });
    }
    if login.is_some() {
        section.wrong(
            "user",
            "for DICOMweb only; DICOM knows us by our AE title",
            "calling = \"CONSILIUM\"",
        );
    }
    let Some(called) = called else {
        section.missing("called", "the archive's AE title", "\"ARCHIVE\"");
        return None;
    };
    let port = uri.and_then(|uri| uri.port_u16()).unwrap_or(if tls { TLS_PORT } else { PORT });
    let calling = calling.unwrap_or_else(|| "CONSILIUM".to_owned());
    Some(Origin::Dimse { host, port, tls, called, calling })
}

fn read_login(section: &mut Section<'_>) -> Option<Login> {
    let user = section.text("user", "\"consilium\"");
    let password = section.path("password_file", "\"/run/credentials/pacs-password\"");
    let token = section.path("token_file", "\"/run/credentials/pacs-token\"");
    let mut secret = |key: &'static str, file: &Path| match secret_line(file) {
        Ok(secret) => Some(secret),
        Err(error) => {
            section.say(key, &error);
            None
        }
    };
    match (user, password, token) {
        (None, None, None) => None,
        (Some(user), Some(file), None) => {
            secret("password_file", &file).map(|password| Login::Basic { user, password })
        }
        (None, None, Some(file)) => secret("token_file", &file).map(Login::Bearer),
        _ => {
            section.wrong("user", "user with password_file, or token_file alone", "\"consilium\"");
            None
        }
    }
}

/// A small file's bytes.
pub(crate) fn small_file(path: &Path, most: u64) -> Result<Zeroizing<Vec<u8>>, String> {
    let cannot = |error: std::io::Error| format!("cannot read {}: {error}", path.display());
    let mut bytes = Zeroizing::new(Vec::new());
    File::open(path).map_err(cannot)?.take(most + 1).read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() as u64 > most {
        return Err(format!("expected at most {most} bytes in {}, found more", path.display()));
    }
    Ok(bytes)
}

/// A file that nobody else may read.
pub(crate) fn secret_file(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    use std::os::unix::fs::PermissionsExt as _;
    let about = std::fs::metadata(path)
        .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let mode = about.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(format!("{} has mode {mode:o}: expected 600 or 400", path.display()));
    }
    small_file(path, MOST_SECRET)
}

/// A secret that fits into a header: one line.
fn secret_line(path: &Path) -> Result<Zeroizing<String>, String> {
    let bytes = secret_file(path)?;
    let text = std::str::from_utf8(&bytes).unwrap_or_default().trim_end_matches(['\r', '\n']);
    if text.is_empty() || text.contains(|c: char| c.is_control()) {
        return Err(format!("expected one line of text in {}", path.display()));
    }
    Ok(Zeroizing::new(text.to_owned()))
}

#[cfg(test)]
mod tests;
