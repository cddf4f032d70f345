//! Why an instance was not stored, or a question was not answered. Never in the archive's own words:
//! those could name a patient.

use std::io;

/// One reason, the best that there is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// There is no connection, or it broke.
    #[error("the archive is not reached: {0}")]
    Unreachable(String),
    /// It does not let us in.
    #[error("the archive does not let us in: {0}")]
    Refused(String),
    /// It lets us in, and does not give us this.
    #[error("the archive does not let us have it: {0}")]
    Forbidden(String),
    /// It took longer than we wait.
    #[error("the archive took too long")]
    Slow,
    /// It answered that it could not.
    #[error("the archive answered with {0}")]
    Status(String),
    /// It listed something that it then did not give.
    #[error("the archive lists it and does not give it")]
    Missing,
    /// It does not keep to the protocol.
    #[error("expected {0}, found something else")]
    Answer(&'static str),
    /// Answers to a question, so many, that do not say what they are about.
    #[error("expected a UID in each answer, {0} of them had none")]
    Nameless(usize),
    /// More than we take.
    #[error("{0} is larger than what is taken")]
    TooLarge(&'static str),
    /// It ended in the middle.
    #[error("it ended before its end")]
    Cut,
    /// What came is not a sound DICOM data set.
    #[error("broken DICOM: {0}")]
    Header(&'static str),
    /// There are no pixels in it, and by its class there need not be: a report, a presentation state.
    #[error("there is no pixel data in it")]
    NotAnImage {
        /// Its class is one that the standard has for other things than images; a maker's own is not.
        standard: bool,
    },
    /// Its class is one of images, and there are no pixels in it.
    #[error("there is no pixel data in it, and its class is one of images")]
    NoPixels,
    /// Nobody's image.
    #[error("its header names no patient; privacy is per patient, so it is not taken")]
    NoPatient,
    /// Not what was asked for.
    #[error("expected the {0} that was asked for, found another one")]
    Another(&'static str),
    /// This machine's disk.
    #[error("cannot write: {0}")]
    Disk(String),
}

impl Fault {
    /// A stable word for scripts.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "unreachable",
            Self::Refused(_) | Self::Forbidden(_) => "refused",
            Self::Slow => "timeout",
            Self::Status(_) => "status",
            Self::Missing => "missing",
            Self::Answer(_) | Self::Nameless(_) => "protocol",
            Self::TooLarge(_) => "too_large",
            Self::Cut => "truncated",
            Self::Header(_) => "broken_header",
            Self::NotAnImage { .. } => "not_an_image",
            Self::NoPixels => "no_pixels",
            Self::NoPatient => "no_patient",
            Self::Another(_) => "another_object",
            Self::Disk(_) => "disk",
        }
    }

    /// Whether asking for anything else has no point.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        matches!(self, Self::Refused(_) | Self::Disk(_))
    }

    /// Whether the way to the archive is the trouble, and not what was asked for.
    #[must_use]
    pub const fn is_of_the_way(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Slow)
    }

    /// What a failed read from the archive means.
    #[must_use]
    pub fn reading(error: io::Error) -> Self {
        let kind = error.kind();
        let error = match error.downcast::<Self>() {
            Ok(fault) => return fault,
            Err(error) => error,
        };
        let error = match error.downcast::<rustls::Error>() {
            Ok(error) => return Self::tls(&error),
            Err(error) => error,
        };
        match error.downcast::<ureq::Error>() {
            Ok(error) => error.into(),
            Err(_) if kind == io::ErrorKind::UnexpectedEof => Self::Cut,
            Err(_) if matches!(kind, io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock) => {
                Self::Slow
            }
            // The kind is the system's word; the text could be a library's, with more in it.
            Err(_) => Self::Unreachable(kind.to_string()),
        }
    }

    /// Why there is no TLS with the archive, in our words.
    #[must_use]
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the library may add kinds; the rest have one answer"
    )]
    pub fn tls(error: &rustls::Error) -> Self {
        use rustls::CertificateError as Wrong;
        Self::Unreachable(match error {
            rustls::Error::InvalidCertificate(wrong) => match wrong {
                // An issuer of the same name and another key signs differently.
                Wrong::UnknownIssuer | Wrong::BadSignature => {
                    "its certificate is of nobody whom this house believes (see ca)".to_owned()
                }
                Wrong::Expired | Wrong::ExpiredContext { .. } => {
                    "its certificate has expired".to_owned()
                }
                Wrong::NotValidYet | Wrong::NotValidYetContext { .. } => {
                    "its certificate is not valid yet".to_owned()
                }
                Wrong::NotValidForName | Wrong::NotValidForNameContext { .. } => {
                    "its certificate is for another name than the one in from".to_owned()
                }
                Wrong::Revoked => "its certificate is revoked".to_owned(),
                _ => "its certificate is not valid".to_owned(),
            },
            rustls::Error::AlertReceived(alert) => format!("it ended TLS with {alert:?}"),
            rustls::Error::InvalidMessage(_) => "it does not speak TLS".to_owned(),
            rustls::Error::PeerIncompatible(_) => "it speaks no TLS that we do".to_owned(),
            _ => "TLS failed".to_owned(),
        })
    }

    /// What a failed write to this machine's disk means.
    #[must_use]
    pub fn writing(error: &io::Error) -> Self {
        Self::Disk(error.to_string())
    }
}

impl From<Fault> for io::Error {
    fn from(fault: Fault) -> Self {
        Self::other(fault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_tls_says_inside_an_error_of_the_system_is_found() {
        for (error, expected) in [
            (rustls::CertificateError::UnknownIssuer.into(), "of nobody whom this house believes"),
            (rustls::CertificateError::NotValidForName.into(), "for another name"),
            (rustls::Error::AlertReceived(rustls::AlertDescription::BadCertificate), "BadCert"),
            (rustls::Error::General("CANARY".to_owned()), "TLS failed"),
        ] {
            let wrapped = io::Error::new(io::ErrorKind::InvalidData, error);
            let text = Fault::reading(wrapped).to_string();
            assert!(text.contains(expected) && !text.contains("CANARY"), "{text}");
        }
    }
}
