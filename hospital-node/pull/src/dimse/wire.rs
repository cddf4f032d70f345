//! An association (PS3.8): what is sent and received on it, and for how long. `dicom-ul` reads and
//! writes its PDUs; one that claims more than the size that we announced is refused before it is read.
//!
//! From the first byte on somebody watches the time: neither a handshake nor an answer can be drawn out.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs as _};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::Duration;

use dicom_ul::pdu::{
    AbortRQSource, AssociationAC, AssociationRJ, AssociationRJResult, AssociationRQ, PDataValue,
    PDataValueType, PresentationContextProposed, PresentationContextResultReason, RequestorRoles,
    UserVariableItem,
};
use dicom_ul::{Pdu, read_pdu, write_pdu};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use super::message::{DATA_SET, NO_DATA_SET, Values};
use crate::archive::Patience;
use crate::fault::Fault;
use crate::sieve::IMPLEMENTATION;

/// The one application context of DICOM (PS3.7 A.2.1).
const DICOM: &str = "1.2.840.10008.3.1.1.1";
/// What a TLS alert begins with; no PDU does.
const ALERT: u8 = 0x15;
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
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Socket {
    /// Makes sure of the archive where that is asked for.
    fn open(mut stream: TcpStream, address: &Address) -> Result<Self, Fault> {
        let Some(config) = &address.tls else { return Ok(Self::Plain(stream)) };
        let name = ServerName::try_from(address.host.clone())
            .map_err(|_| Fault::Unreachable("its name is none for TLS".to_owned()))?;
        let mut tls =
            ClientConnection::new(Arc::clone(config), name).map_err(|error| Fault::tls(&error))?;
        tls.complete_io(&mut stream).map_err(ended)?;
        Ok(Self::Tls(Box::new(StreamOwned::new(tls, stream))))
    }

    fn receive(&mut self, into: &mut [u8]) -> Result<(), Fault> {
        match self {
            Self::Plain(plain) => plain.read_exact(into),
            Self::Tls(tls) => tls.read_exact(into),
        }
        .map_err(ended)
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        match self {
            Self::Plain(plain) => plain.write_all(bytes),
            Self::Tls(tls) => tls.write_all(bytes).and_then(|()| tls.flush()),
        }
        .map_err(ended)
    }
}

/// What a failed read or write of a connection means.
fn ended(error: io::Error) -> Fault {
    use io::ErrorKind as Kind;
    let gone = matches!(
        error.kind(),
        Kind::UnexpectedEof | Kind::BrokenPipe | Kind::ConnectionReset | Kind::ConnectionAborted
    );
    if gone { over() } else { Fault::reading(error) }
}

fn over() -> Fault {
    Fault::Unreachable("it ended the association".to_owned())
}

/// A connection, with the limits of what is waited for on it.
fn connect(address: &Address, patience: Patience) -> Result<TcpStream, Fault> {
    let places = (address.host.as_str(), address.port)
        .to_socket_addrs()
        .map_err(|_| Fault::Unreachable("there is no host of that name".to_owned()))?;
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for place in places {
        match TcpStream::connect_timeout(&place, patience.connect) {
            Ok(stream) => {
                stream.set_read_timeout(Some(patience.silence)).map_err(Fault::reading)?;
                stream.set_write_timeout(Some(patience.silence)).map_err(Fault::reading)?;
                // A question is two short messages; the second must not wait for a word on the first.
                stream.set_nodelay(true).map_err(Fault::reading)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(Fault::reading(last))
}

/// An open association.
#[derive(Debug)]
pub(super) struct Wire {
    socket: Socket,
    watch: Watch,
    patience: Patience,
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
        let stream = connect(address, patience)?;
        let own = stream.try_clone().map_err(Fault::reading)?;
        let watch = Watch::start(own, patience.connect + patience.silence);
        let socket = Socket::open(stream, address).map_err(|fault| watch.judged(fault))?;
        let (accepted, waiting) = (Vec::new(), VecDeque::new());
        let mut wire = Self { socket, watch, patience, accepted, waiting };
        wire.agree(address, proposal)?;
        Ok(wire)
    }

    /// Proposes and hears what is accepted.
    fn agree(&mut self, address: &Address, proposal: &Proposal<'_>) -> Result<(), Fault> {
        let proposed = (1..=u8::MAX).step_by(2).zip(proposal.contexts);
        let mut user_variables = vec![
            UserVariableItem::MaxLength(MOST_PDU),
            UserVariableItem::ImplementationClassUID(IMPLEMENTATION.to_owned()),
            UserVariableItem::ImplementationVersionName("CONSILIUM".to_owned()),
        ];
        for class in proposal.stored {
            let roles = RequestorRoles { scu: false, scp: true };
            user_variables
                .push(UserVariableItem::ScuScpRoleSelectionSubItem((*class).to_owned(), roles));
        }
        self.send_pdu(&Pdu::AssociationRQ(AssociationRQ {
            protocol_version: 1,
            calling_ae_title: address.calling.clone(),
            called_ae_title: address.called.clone(),
            application_context_name: DICOM.to_owned(),
            presentation_contexts: proposed
                .clone()
                .map(|(id, (subject, syntax))| PresentationContextProposed {
                    id,
                    abstract_syntax: (*subject).to_owned(),
                    transfer_syntaxes: vec![(*syntax).to_owned()],
                })
                .collect(),
            user_variables,
        }))?;
        let answer = match self.receive_pdu()? {
            Pdu::AssociationAC(AssociationAC { presentation_contexts, .. }) => {
                presentation_contexts
            }
            Pdu::AssociationRJ(AssociationRJ { result, source }) => {
                return Err(match result {
                    AssociationRJResult::Permanent => {
                        Fault::Refused(format!("association rejected, {source}"))
                    }
                    AssociationRJResult::Transient => {
                        Fault::Unreachable(format!("association rejected for now, {source}"))
                    }
                });
            }
            Pdu::AbortRQ { .. } | Pdu::ReleaseRQ | Pdu::ReleaseRP => return Err(over()),
            Pdu::Unknown { .. } | Pdu::AssociationRQ(_) | Pdu::PData { .. } => {
                return Err(Fault::Answer("the answer to an association"));
            }
        };
        for (id, (subject, _)) in proposed {
            let accepted = answer.iter().find(|one| {
                one.id == id && one.reason == PresentationContextResultReason::Acceptance
            });
            if let Some(one) = accepted {
                let syntax = one.transfer_syntax.trim_matches(['\0', ' ']).to_owned();
                self.accepted.push((id, (*subject).to_owned(), syntax));
            }
        }
        if self.accepted.is_empty() {
            // It is told; that it hears it is not needed.
            let _ = self.send_pdu(&Pdu::AbortRQ { source: AbortRQSource::ServiceUser });
            return Err(Fault::Refused("it accepts nothing of what is asked".to_owned()));
        }
        Ok(())
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
        self.watch.again(self.patience.answer);
    }

    fn send_pdu(&mut self, pdu: &Pdu) -> Result<(), Fault> {
        let mut bytes = Vec::new();
        write_pdu(&mut bytes, pdu).map_err(|_| Fault::Answer("what can be sent"))?;
        self.socket.send(&bytes).map_err(|fault| self.watch.judged(fault))
    }

    fn receive_pdu(&mut self) -> Result<Pdu, Fault> {
        let judged = |fault| self.watch.judged(fault);
        let mut bytes = vec![0; 6];
        self.socket.receive(&mut bytes).map_err(judged)?;
        if bytes[0] == ALERT && matches!(self.socket, Socket::Plain(_)) {
            return Err(Fault::Unreachable("it expects TLS".to_owned()));
        }
        let length = u32::from_be_bytes([bytes[2], bytes[3], bytes[4], bytes[5]]);
        let rest = usize::try_from(length).ok().filter(|_| length <= MOST_PDU);
        bytes.resize(6 + rest.ok_or(Fault::Answer("a PDU"))?, 0);
        self.socket.receive(&mut bytes[6..]).map_err(judged)?;
        read_pdu(&bytes[..], MOST_PDU, true).ok().flatten().ok_or(Fault::Answer("a PDU"))
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
            match self.receive_pdu()? {
                Pdu::PData { data } => self.waiting.extend(data),
                Pdu::AbortRQ { .. } | Pdu::ReleaseRQ | Pdu::ReleaseRP => return Err(over()),
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

    /// The bytes of a short data set.
    pub(super) fn short(&mut self, context: u8) -> Result<Vec<u8>, Fault> {
        let mut bytes = Vec::new();
        let most = MOST_VALUES as u64;
        let mut data = self.data(context);
        data.by_ref().take(most + 1).read_to_end(&mut bytes).map_err(Fault::reading)?;
        if bytes.len() > MOST_VALUES {
            return Err(Fault::TooLarge("an answer"));
        }
        Ok(bytes)
    }

    /// Says goodbye, and waits a little for its echo.
    pub(super) fn close(mut self) {
        self.watch.again(self.patience.connect);
        // An archive that has gone already needs no goodbye.
        let _ = self.send_pdu(&Pdu::ReleaseRQ).and_then(|()| self.receive_pdu());
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
    again: Sender<Duration>,
    cut: Arc<std::sync::atomic::AtomicBool>,
}

impl Watch {
    fn start(socket: TcpStream, mut patience: Duration) -> Self {
        let (again, heard) = mpsc::channel();
        let cut = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let told = Arc::clone(&cut);
        std::thread::spawn(move || {
            loop {
                match heard.recv_timeout(patience) {
                    Ok(next) => patience = next,
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

    /// From now on so long.
    fn again(&self, patience: Duration) {
        // After the watch has cut it, the next read tells.
        let _ = self.again.send(patience);
    }

    /// A fault of a connection that was cut is slowness.
    fn judged(&self, fault: Fault) -> Fault {
        if self.cut.load(std::sync::atomic::Ordering::SeqCst) { Fault::Slow } else { fault }
    }
}
