//! An association (PS3.8), through `dicom-ul`: what is sent and received on it, and for how long.
//!
//! Its PDUs are read in strict mode: one that claims more than the size that we announced is refused
//! before it is read.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::Duration;

use dicom_ul::Pdu;
use dicom_ul::association::client::TlsStream;
use dicom_ul::association::{ClientAssociation, ClientAssociationOptions, Error};
use dicom_ul::pdu::{PDataValue, PDataValueType, ReadError};
use rustls::ClientConfig;

use super::message::{DATA_SET, NO_DATA_SET, Values};
use crate::archive::Patience;
use crate::fault::Fault;

/// Bytes of a PDU that we take.
const MOST_PDU: u32 = 64 << 10;
/// Bytes of a command set, and of one answer to a query.
const MOST_VALUES: usize = 1 << 20;

/// What is proposed: an abstract syntax with a transfer syntax, one by one, so that what comes is
/// stored as it is.
pub(super) struct Proposal<'a> {
    /// Abstract and transfer syntax.
    pub(super) contexts: &'a [(&'a str, &'a str)],
    /// What the archive stores at us, in the roles' reverse.
    pub(super) stored: &'a [&'a str],
}

/// Where an archive is, and who is who.
#[derive(Debug)]
pub(super) struct Address {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) tls: Option<Arc<ClientConfig>>,
    pub(super) called: String,
    pub(super) calling: String,
}

#[derive(Debug)]
enum Socket {
    Plain(Box<ClientAssociation<TcpStream>>),
    Tls(Box<ClientAssociation<TlsStream>>),
}

/// An open association.
#[derive(Debug)]
pub(super) struct Wire {
    socket: Socket,
    watch: Watch,
    /// Context, abstract syntax, transfer syntax.
    accepted: Vec<(u8, String, String)>,
    waiting: VecDeque<PDataValue>,
}

/// A command that was received.
pub(super) struct Command {
    pub(super) context: u8,
    pub(super) values: Values,
}

impl Command {
    pub(super) fn number(&self, element: u16) -> Option<u16> {
        self.values.number((0, element))
    }

    pub(super) fn text(&self, element: u16) -> Option<&str> {
        self.values.text((0, element))
    }

    pub(super) fn has_data(&self) -> bool {
        self.number(DATA_SET).is_some_and(|kind| kind != NO_DATA_SET)
    }
}

impl Wire {
    /// Connects and agrees on what is spoken of.
    pub(super) fn open(
        address: &Address,
        proposal: &Proposal<'_>,
        patience: Patience,
    ) -> Result<Self, Fault> {
        let mut options = ClientAssociationOptions::new()
            .calling_ae_title(address.calling.as_str())
            .called_ae_title(address.called.as_str())
            .max_pdu_length(MOST_PDU)
            .strict(true)
            .connection_timeout(patience.connect)
            .read_timeout(patience.silence)
            .write_timeout(patience.silence);
        for (subject, syntax) in proposal.contexts {
            options = options.with_presentation_context(*subject, vec![*syntax]);
        }
        for class in proposal.stored {
            options = options.with_role_selection(*class, false, true);
        }
        let to = (address.host.as_str(), address.port);
        let (socket, own) = match &address.tls {
            None => {
                let mut plain = options.establish(to).map_err(fault)?;
                let own = plain.inner_stream().try_clone();
                (Socket::Plain(Box::new(plain)), own)
            }
            Some(config) => {
                let options = options.tls_config(Arc::clone(config)).server_name(&address.host);
                let mut tls = options.establish_tls(to).map_err(fault)?;
                let own = tls.inner_stream().sock.try_clone();
                (Socket::Tls(Box::new(tls)), own)
            }
        };
        let own = own.map_err(Fault::reading)?;
        // A question is two short messages; the second must not wait for a word on the first.
        own.set_nodelay(true).map_err(Fault::reading)?;
        let watch = Watch::start(own, patience.answer);
        let contexts = match &socket {
            Socket::Plain(plain) => plain.presentation_contexts(),
            Socket::Tls(tls) => tls.presentation_contexts(),
        };
        let accepted = contexts
            .iter()
            .map(|one| (one.id, one.abstract_syntax.clone(), one.transfer_syntax.clone()))
            .collect();
        Ok(Self { socket, watch, accepted, waiting: VecDeque::new() })
    }

    /// The context in which a subject may be spoken of.
    pub(super) fn context(&self, subject: &str) -> Option<u8> {
        self.accepted.iter().find(|(_, found, _)| found == subject).map(|(id, ..)| *id)
    }

    /// The transfer syntax of a context, and its subject.
    pub(super) fn syntax(&self, context: u8) -> Option<(String, String)> {
        let found = self.accepted.iter().find(|(id, ..)| *id == context)?;
        Some((found.1.clone(), found.2.clone()))
    }

    /// A new answer begins: there is the whole patience for it.
    pub(super) fn begin(&self) {
        self.watch.again();
    }

    fn send_pdu(&mut self, pdu: &Pdu) -> Result<(), Fault> {
        match &mut self.socket {
            Socket::Plain(plain) => plain.send(pdu),
            Socket::Tls(tls) => tls.send(pdu),
        }
        .map_err(fault)
    }

    /// Sends a command, and what belongs to it.
    pub(super) fn send(
        &mut self,
        context: u8,
        command: &Values,
        data: Option<&Values>,
    ) -> Result<(), Fault> {
        let value = |value_type, data| PDataValue {
            presentation_context_id: context,
            value_type,
            is_last: true,
            data,
        };
        self.send_pdu(&Pdu::PData {
            data: vec![value(PDataValueType::Command, command.encode(true))],
        })?;
        let Some(data) = data else { return Ok(()) };
        self.send_pdu(&Pdu::PData { data: vec![value(PDataValueType::Data, data.encode(false))] })
    }

    fn value(&mut self) -> Result<PDataValue, Fault> {
        loop {
            if let Some(value) = self.waiting.pop_front() {
                return Ok(value);
            }
            let received = match &mut self.socket {
                Socket::Plain(plain) => plain.receive(),
                Socket::Tls(tls) => tls.receive(),
            };
            match received.map_err(|error| self.watch.judged(fault(error)))? {
                Pdu::PData { data } => self.waiting.extend(data),
                Pdu::AbortRQ { .. } | Pdu::ReleaseRQ | Pdu::ReleaseRP => {
                    return Err(Fault::Unreachable("it ended the association".to_owned()));
                }
                Pdu::Unknown { .. }
                | Pdu::AssociationRQ(_)
                | Pdu::AssociationAC(_)
                | Pdu::AssociationRJ(_) => return Err(Fault::Answer("a message")),
            }
        }
    }

    /// The next command.
    pub(super) fn receive(&mut self) -> Result<Command, Fault> {
        let mut bytes = Vec::new();
        loop {
            let value = self.value()?;
            if value.value_type != PDataValueType::Command {
                return Err(Fault::Answer("a command"));
            }
            bytes.extend_from_slice(&value.data);
            if bytes.len() > MOST_VALUES {
                return Err(Fault::TooLarge("a command"));
            }
            if value.is_last {
                let values = Values::decode(&bytes)?;
                return Ok(Command { context: value.presentation_context_id, values });
            }
        }
    }

    /// The data set that follows a command in this context.
    pub(super) const fn data(&mut self, context: u8) -> Data<'_> {
        Data { wire: self, context, piece: Vec::new(), at: 0, last: false, broken: false }
    }

    /// A short data set.
    pub(super) fn values(&mut self, context: u8) -> Result<Values, Fault> {
        let mut bytes = Vec::new();
        let most = MOST_VALUES as u64;
        let mut data = self.data(context);
        data.by_ref().take(most + 1).read_to_end(&mut bytes).map_err(Fault::reading)?;
        if bytes.len() > MOST_VALUES {
            return Err(Fault::TooLarge("an answer"));
        }
        Values::decode(&bytes)
    }

    /// Says goodbye.
    pub(super) fn close(self) {
        // An archive that has gone already needs no goodbye.
        let _ = match self.socket {
            Socket::Plain(plain) => plain.release(),
            Socket::Tls(tls) => tls.release(),
        };
    }
}

/// A data set as it arrives.
pub(super) struct Data<'a> {
    wire: &'a mut Wire,
    context: u8,
    piece: Vec<u8>,
    at: usize,
    last: bool,
    broken: bool,
}

impl Data<'_> {
    /// Reads what is left of it, at most so much; an error means that the association is of no use.
    pub(super) fn drain(&mut self, most: u64) -> Result<(), Fault> {
        if self.broken {
            return Err(Fault::Cut);
        }
        let copied = io::copy(&mut self.by_ref().take(most + 1), &mut io::sink());
        if copied.map_err(Fault::reading)? > most {
            return Err(Fault::TooLarge("the instance"));
        }
        Ok(())
    }
}

impl Read for Data<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.at == self.piece.len() {
            if self.last {
                return Ok(0);
            }
            let value = self.wire.value().inspect_err(|_| self.broken = true)?;
            let fits = value.value_type == PDataValueType::Data
                && value.presentation_context_id == self.context;
            if !fits {
                self.broken = true;
                return Err(Fault::Answer("the rest of a data set").into());
            }
            (self.piece, self.at, self.last) = (value.data, 0, value.is_last);
        }
        let count = into.len().min(self.piece.len() - self.at);
        into[..count].copy_from_slice(&self.piece[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

/// Cuts a connection on which an answer takes too long, however often a byte of it comes.
#[derive(Debug)]
struct Watch {
    again: Sender<()>,
    cut: Arc<std::sync::atomic::AtomicBool>,
}

impl Watch {
    fn start(socket: TcpStream, patience: Duration) -> Self {
        let (again, heard) = mpsc::channel();
        let cut = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let told = Arc::clone(&cut);
        std::thread::spawn(move || {
            loop {
                match heard.recv_timeout(patience) {
                    Ok(()) => {}
                    Err(RecvTimeoutError::Disconnected) => return,
                    Err(RecvTimeoutError::Timeout) => {
                        told.store(true, std::sync::atomic::Ordering::SeqCst);
                        // A connection that is gone already is as good.
                        let _ = socket.shutdown(Shutdown::Both);
                        return;
                    }
                }
            }
        });
        Self { again, cut }
    }

    fn again(&self) {
        // After the watch has cut it, the next read tells.
        let _ = self.again.send(());
    }

    /// A fault of a connection that was cut is slowness.
    fn judged(&self, fault: Fault) -> Fault {
        if self.cut.load(std::sync::atomic::Ordering::SeqCst) { Fault::Slow } else { fault }
    }
}

/// What a failed exchange means, without what the archive said.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the library may add kinds; all have one answer"
)]
fn fault(error: Error) -> Fault {
    match error {
        Error::Rejected { association_rj, .. } => {
            Fault::Refused(format!("association rejected, {}", association_rj.source))
        }
        Error::NoAcceptedPresentationContexts { .. } => {
            Fault::Refused("it accepts nothing of what is asked".to_owned())
        }
        Error::Aborted { .. } | Error::ConnectionClosed { .. } => {
            Fault::Unreachable("it ended the association".to_owned())
        }
        Error::ToAddress { .. } => Fault::Unreachable("there is no host of that name".to_owned()),
        Error::Connect { source, .. }
        | Error::WireSend { source, .. }
        | Error::WireRead { source, .. }
        | Error::Timeout { source, .. } => Fault::reading(source),
        Error::TlsConnection { source, .. } => Fault::Unreachable(format!("TLS: {source}")),
        Error::TlsHandshake { source, .. } => {
            Fault::Unreachable(format!("the TLS handshake: {}", source.kind()))
        }
        Error::TlsNotSupported => Fault::Unreachable("it expects TLS".to_owned()),
        Error::ReceivePdu { source: ReadError::ReadPdu { source, .. } } => Fault::reading(source),
        Error::ReceivePdu { .. } => Fault::Answer("a PDU"),
        _ => Fault::Answer("the DICOM protocol"),
    }
}
