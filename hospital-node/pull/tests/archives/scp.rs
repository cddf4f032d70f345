//! A DICOM archive of a few lines, which can misbehave.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use dicom_ul::pdu::{
    AbortRQSource, AssociationAC, AssociationRJ, AssociationRJResult,
    AssociationRJServiceUserReason, AssociationRJSource, PDataValue, PDataValueType,
    PresentationContextResult, PresentationContextResultReason, UserVariableItem,
};
use dicom_ul::{Pdu, read_pdu, write_pdu};
use hospital_pull::dimse::message::{
    AFFECTED_CLASS, AFFECTED_INSTANCE, ANSWERED, C_FIND, C_FIND_ANSWER, C_GET, C_GET_ANSWER,
    C_STORE, DATA_SET, FIELD, ID, NO_DATA_SET, PRIORITY, STATUS, Values,
};

use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::held::{EXPLICIT, Held};
use crate::server::pause;

/// How it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    Good,
    /// It does not tell SOP classes.
    Reticent,
    /// Another instance than the one that was asked for.
    Another,
    /// One that was not asked for, and then the one that was.
    More,
    /// It says that it has sent it, and has not.
    Nothing,
    /// It says that it cannot.
    Cannot,
    /// It rejects the association.
    Rejects,
    /// It does so, and says that it may be otherwise later.
    RejectsForNow,
    /// It ends the association instead of accepting it.
    AbortsAtOnce,
    /// It says in TLS that it expects TLS.
    Alerts,
    /// It begins so, and goes on with a byte now and then.
    Dribbles(&'static [u8]),
    /// Each of its lists has an answer with a path for a UID, and one that is no data set.
    BadAnswers,
    /// It describes series in Latin 1.
    Latin,
    /// It does so and does not say it.
    Unreadable,
    /// It ends the association in the middle of the first instance.
    AbortsOnce,
    /// A PDU that says it has a gigabyte.
    HugePdu,
    /// A data set without end.
    Endless,
    /// Answers to a query without end.
    EndlessAnswers,
    /// A byte now and then.
    Slow,
    /// Nothing at all, once it is asked.
    Mute,
    /// Bytes that are no PDU.
    Nonsense,
}

/// What it was asked.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) associations: Arc<AtomicUsize>,
    pub(crate) instances: Arc<AtomicUsize>,
}

type Io<T> = std::io::Result<T>;

/// Serves until the test ends; its port.
pub(crate) fn serve(held: Vec<Held>, manner: Manner) -> (u16, Counts) {
    serve_over(None, held, manner)
}

/// The same over TLS, or without.
pub(crate) fn serve_over(
    tls: Option<Arc<ServerConfig>>,
    held: Vec<Held>,
    manner: Manner,
) -> (u16, Counts) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let (counts, held) = (Counts::default(), Arc::new(held));
    let told = counts.clone();
    std::thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            // Without it, answers wait for one another.
            let _ = connection.set_nodelay(true);
            let (held, told, tls) = (Arc::clone(&held), told.clone(), tls.clone());
            std::thread::spawn(move || {
                told.associations.fetch_add(1, Ordering::SeqCst);
                // A client that has gone away is no concern of ours.
                let _ = match tls.map(ServerConnection::new) {
                    None => Scp::new(connection, &held, manner, told).converse(),
                    Some(Ok(tls)) => {
                        Scp::new(StreamOwned::new(tls, connection), &held, manner, told).converse()
                    }
                    Some(Err(error)) => Err(failed(error)),
                };
            });
        }
    });
    (port, counts)
}

struct Scp<'h, S> {
    to: S,
    held: &'h [Held],
    manner: Manner,
    told: Counts,
    /// Context by abstract and transfer syntax.
    contexts: BTreeMap<(String, String), u8>,
}

fn failed(what: impl std::fmt::Display) -> std::io::Error {
    std::io::Error::other(what.to_string())
}

impl<'h, S: Read + Write> Scp<'h, S> {
    fn new(to: S, held: &'h [Held], manner: Manner, told: Counts) -> Self {
        Self { to, held, manner, told, contexts: BTreeMap::new() }
    }

    fn receive(&mut self) -> Io<Pdu> {
        let mut bytes = vec![0; 6];
        self.to.read_exact(&mut bytes)?;
        let length = u32::from_be_bytes([bytes[2], bytes[3], bytes[4], bytes[5]]);
        bytes.resize(6 + usize::try_from(length).map_err(failed)?, 0);
        self.to.read_exact(&mut bytes[6..])?;
        read_pdu(&bytes[..], 1 << 20, true).map_err(failed)?.ok_or_else(|| failed("a whole PDU"))
    }

    fn send(&mut self, pdu: &Pdu) -> Io<()> {
        let mut bytes = Vec::new();
        write_pdu(&mut bytes, pdu).map_err(failed)?;
        self.to.write_all(&bytes)
    }

    fn pieces(&mut self, context: u8, value_type: &PDataValueType, bytes: &[u8]) -> Io<()> {
        let count = bytes.chunks(300).count();
        for (index, piece) in bytes.chunks(300).enumerate() {
            let value = PDataValue {
                presentation_context_id: context,
                value_type: value_type.clone(),
                is_last: index + 1 == count,
                data: piece.to_vec(),
            };
            self.send(&Pdu::PData { data: vec![value] })?;
        }
        Ok(())
    }

    fn command(&mut self, context: u8, values: &Values) -> Io<()> {
        self.pieces(context, &PDataValueType::Command, &values.encode(true))
    }

    fn data(&mut self, context: u8, bytes: &[u8]) -> Io<()> {
        self.pieces(context, &PDataValueType::Data, bytes)
    }

    fn greet(&mut self) -> Io<()> {
        if let Manner::Dribbles(start) = self.manner {
            for byte in start.iter().copied().chain(std::iter::repeat_n(0, 1 << 20)) {
                self.to.write_all(&[byte])?;
                pause(Duration::from_millis(50));
            }
        }
        let Pdu::AssociationRQ(asked) = self.receive()? else { return Err(failed("a request")) };
        if self.manner == Manner::AbortsAtOnce {
            return self.send(&Pdu::AbortRQ { source: AbortRQSource::ServiceUser });
        }
        if self.manner == Manner::Alerts {
            return self.to.write_all(&[0x15, 3, 3, 0, 2, 2, 10]);
        }
        if matches!(self.manner, Manner::Rejects | Manner::RejectsForNow) {
            let reason = AssociationRJServiceUserReason::CallingAETitleNotRecognized;
            let source = AssociationRJSource::ServiceUser(reason);
            let result = if self.manner == Manner::Rejects {
                AssociationRJResult::Permanent
            } else {
                AssociationRJResult::Transient
            };
            return self.send(&Pdu::AssociationRJ(AssociationRJ { result, source }));
        }
        if self.manner == Manner::Nonsense {
            return self.to.write_all(&[b'C'; 4096]);
        }
        assert_eq!(
            (asked.called_ae_title.as_str(), asked.calling_ae_title.as_str()),
            ("ARCHIVE", "US")
        );
        let mut results = Vec::new();
        for proposed in &asked.presentation_contexts {
            let syntax = proposed.transfer_syntaxes.first().cloned().unwrap_or_default();
            self.contexts.insert((proposed.abstract_syntax.clone(), syntax.clone()), proposed.id);
            results.push(PresentationContextResult {
                id: proposed.id,
                reason: PresentationContextResultReason::Acceptance,
                transfer_syntax: syntax,
            });
        }
        // It stores at us only what we have said that we take in that role.
        let roles = asked.user_variables.iter().filter(|one| {
            matches!(one, UserVariableItem::ScuScpRoleSelectionSubItem(_, roles) if roles.scp && !roles.scu)
        });
        let stored = asked
            .presentation_contexts
            .iter()
            .any(|one| one.abstract_syntax.contains(".5.1.4.1.1."));
        assert_eq!(roles.count() > 0, stored);
        self.send(&Pdu::AssociationAC(AssociationAC {
            protocol_version: 1,
            application_context_name: asked.application_context_name,
            called_ae_title: asked.called_ae_title,
            calling_ae_title: asked.calling_ae_title,
            presentation_contexts: results,
            user_variables: vec![UserVariableItem::MaxLength(16384)],
        }))
    }

    /// The next message: its context, its command, its data set if it has one.
    fn message(&mut self) -> Io<Option<(u8, Values, Values)>> {
        let (mut command, mut data) = (None, Vec::new());
        loop {
            match self.receive()? {
                Pdu::PData { data: values } => {
                    for value in values {
                        if value.value_type == PDataValueType::Command {
                            command = Some(Values::decode(&value.data).map_err(failed)?);
                        } else {
                            data.extend_from_slice(&value.data);
                        }
                        let Some(known) = &command else { return Err(failed("a command")) };
                        let whole = known.number((0, DATA_SET)) == Some(NO_DATA_SET)
                            || value.value_type == PDataValueType::Data;
                        if whole {
                            let data = Values::decode(&data).map_err(failed)?;
                            return Ok(Some((value.presentation_context_id, known.clone(), data)));
                        }
                    }
                }
                Pdu::ReleaseRQ => {
                    self.send(&Pdu::ReleaseRP)?;
                    return Ok(None);
                }
                Pdu::AbortRQ { .. }
                | Pdu::ReleaseRP
                | Pdu::AssociationRQ(_)
                | Pdu::AssociationAC(_)
                | Pdu::AssociationRJ(_)
                | Pdu::Unknown { .. } => return Ok(None),
            }
        }
    }

    fn converse(&mut self) -> Io<()> {
        self.greet()?;
        while let Some((context, command, identifier)) = self.message()? {
            let number = command.number((0, ID)).unwrap_or(0);
            match command.number((0, FIELD)) {
                Some(C_FIND) => self.find(context, number, &identifier)?,
                Some(C_GET) => self.get(context, number, &identifier)?,
                _ => return Err(failed("a question")),
            }
        }
        Ok(())
    }

    fn answer(
        &mut self,
        context: u8,
        field: u16,
        number: u16,
        status: u16,
        data: Option<&Values>,
    ) -> Io<()> {
        let data = data.map(|data| data.encode(false));
        self.answer_with(context, field, number, status, data.as_deref())
    }

    fn answer_with(
        &mut self,
        context: u8,
        field: u16,
        number: u16,
        status: u16,
        data: Option<&[u8]>,
    ) -> Io<()> {
        let kind = if data.is_some() { 1 } else { NO_DATA_SET };
        let values = Values::default()
            .with_text((0, AFFECTED_CLASS), "1.2.840.10008.5.1.4.1.2.2.1")
            .with_number((0, FIELD), field)
            .with_number((0, ANSWERED), number)
            .with_number((0, DATA_SET), kind)
            .with_number((0, STATUS), status);
        self.command(context, &values)?;
        data.map_or(Ok(()), |data| self.data(context, data))
    }

    /// As this archive writes it.
    fn written(&self, all: Values) -> Values {
        let text: &[u8] = if self.manner == Manner::Latin {
            b"\x08\0\x05\0\x0a\0\0\0ISO_IR 100\x08\0\x3e\x10\x08\0\0\0R\xf6ntgen "
        } else if self.manner == Manner::Unreadable {
            b"\x08\0\x3e\x10\x0e\0\0\0R\xf6ntgen Thorax"
        } else {
            b""
        };
        Values::decode(&[&all.encode(false), text].concat()).expect("sound")
    }

    fn find(&mut self, context: u8, number: u16, asked: &Values) -> Io<()> {
        let (level, of) = match asked.text((8, 0x52)) {
            Some("STUDY") => ((0x20, 0x0d), (0x10, 0x20)),
            Some("SERIES") => ((0x20, 0x0e), (0x20, 0x0d)),
            _ => ((8, 0x18), (0x20, 0x0e)),
        };
        let mut found = BTreeMap::new();
        for one in self.held {
            let class = if self.manner == Manner::Reticent { "" } else { one.class };
            let all = Values::default()
                .with_text((8, 0x16), class)
                .with_text((8, 0x18), &one.instance)
                .with_text((8, 0x20), &one.date)
                .with_text((8, 0x60), one.modality)
                .with_text((8, 0x103e), &one.description)
                .with_text((0x10, 0x20), &one.patient)
                .with_text((0x20, 0x0d), &one.study)
                .with_text((0x20, 0x0e), &one.series);
            let all = self.written(all);
            if asked.text(of).is_none_or(|asked| all.text(of) == Some(asked)) {
                found.insert(all.text(level).unwrap_or_default().to_owned(), all);
            }
        }
        if self.manner == Manner::BadAnswers {
            let tag = match asked.text((8, 0x52)) {
                Some("STUDY") => (0x20, 0x0d),
                Some("SERIES") => (0x20, 0x0e),
                _ => (8, 0x18),
            };
            let path = Values::default().with_text(tag, "../../admin");
            self.answer(context, C_FIND_ANSWER, number, 0xff00, Some(&path))?;
            // A sequence without a length, and what is in it.
            let open =
                [8, 0, 0x10, 0x11, 0xff, 0xff, 0xff, 0xff, 0xfe, 0xff, 0xdd, 0xe0, 0, 0, 0, 0];
            self.answer_with(context, C_FIND_ANSWER, number, 0xff00, Some(&open))?;
        }
        for values in found.values() {
            self.answer(context, C_FIND_ANSWER, number, 0xff00, Some(values))?;
            while self.manner == Manner::EndlessAnswers {
                self.answer(context, C_FIND_ANSWER, number, 0xff00, Some(values))?;
            }
        }
        self.answer(context, C_FIND_ANSWER, number, 0, None)
    }

    fn get(&mut self, context: u8, number: u16, asked: &Values) -> Io<()> {
        let times = self.told.instances.fetch_add(1, Ordering::SeqCst);
        let one = self.held.iter().find(|one| asked.text((8, 0x18)) == Some(one.instance.as_str()));
        let one = one.cloned().ok_or_else(|| failed("an instance that is held"))?;
        let other = self.held.iter().find(|held| held.instance != one.instance).cloned();
        let other = other.ok_or_else(|| failed("another one"))?;
        match self.manner {
            Manner::Another => self.store(&other)?,
            Manner::More => {
                self.store(&other)?;
                self.store(&one)?;
            }
            Manner::Nothing => {}
            Manner::Cannot => return self.answer(context, C_GET_ANSWER, number, 0xa702, None),
            Manner::AbortsOnce if times == 0 => {
                self.begin(&one)?;
                self.send(&Pdu::AbortRQ { source: AbortRQSource::ServiceUser })?;
                return Err(failed("aborted"));
            }
            Manner::HugePdu => {
                self.begin(&one)?;
                self.to.write_all(&[4, 0, 0x40, 0, 0, 0])?;
                loop {
                    self.to.write_all(&[0; 65536])?;
                }
            }
            Manner::Endless => {
                let context = self.begin(&one)?;
                // A value that is dropped, as long as can be said, and then the next.
                let header = [0x09, 0, 0x10, 0, b'O', b'B', 0, 0, 0, 0, 0, 0x10];
                loop {
                    let data = [&header[..], &[b'A'; 16000]].concat();
                    let value = PDataValue {
                        presentation_context_id: context,
                        value_type: PDataValueType::Data,
                        is_last: false,
                        data,
                    };
                    self.send(&Pdu::PData { data: vec![value] })?;
                }
            }
            Manner::Slow => {
                let mut bytes = Vec::new();
                write_pdu(&mut bytes, &Pdu::PData { data: Vec::new() }).map_err(failed)?;
                for byte in [4, 0, 0, 0, 0xff, 0].into_iter().chain(std::iter::repeat_n(0, 0xff00))
                {
                    self.to.write_all(&[byte])?;
                    pause(Duration::from_millis(100));
                }
            }
            Manner::Mute => pause(Duration::from_secs(30)),
            Manner::Good
            | Manner::Reticent
            | Manner::Rejects
            | Manner::RejectsForNow
            | Manner::AbortsAtOnce
            | Manner::Alerts
            | Manner::Dribbles(_)
            | Manner::BadAnswers
            | Manner::Latin
            | Manner::Unreadable
            | Manner::AbortsOnce
            | Manner::EndlessAnswers
            | Manner::Nonsense => self.store(&one)?,
        }
        self.answer(context, C_GET_ANSWER, number, 0, None)
    }

    /// Begins to store an instance at the client; the context that its data set belongs into.
    fn begin(&mut self, one: &Held) -> Io<u8> {
        let key = (one.class.to_owned(), EXPLICIT.to_owned());
        let context = *self.contexts.get(&key).ok_or_else(|| failed("an accepted context"))?;
        let values = Values::default()
            .with_text((0, AFFECTED_CLASS), one.class)
            .with_number((0, FIELD), C_STORE)
            .with_number((0, ID), 7)
            .with_number((0, PRIORITY), 0)
            .with_number((0, DATA_SET), 1)
            .with_text((0, AFFECTED_INSTANCE), &one.instance);
        self.command(context, &values)?;
        Ok(context)
    }

    fn store(&mut self, one: &Held) -> Io<()> {
        let context = self.begin(one)?;
        self.data(context, &one.data_set())?;
        let answer = self.message()?.ok_or_else(|| failed("an answer"))?.1;
        assert_eq!(answer.number((0, ANSWERED)), Some(7));
        Ok(())
    }
}
