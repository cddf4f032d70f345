//! DICOM's own protocol: C-FIND finds, C-GET fetches, both on associations that this machine opens
//! and the archive answers on. (C-MOVE would have the archive open one to us; no port is opened here.)

pub mod message;
mod wire;

use std::sync::Arc;

use rustls::ClientConfig;

use crate::archive::{
    Archive, Found, Instance, Patience, Query, Series, Study, Taker, Tally, Weighed,
};
use crate::fault::Fault;
use crate::keep::Tag;
use crate::sieve::{Asked, Form, MOST, is_uid};
use message::{
    AFFECTED_CLASS, AFFECTED_INSTANCE, ANSWERED, C_FIND, C_FIND_ANSWER, C_GET, C_GET_ANSWER,
    C_STORE, C_STORE_ANSWER, CHARACTER_SET, DATA_SET, FIELD, ID, NO_DATA_SET, PENDING, PRIORITY,
    STATUS, Values,
};
use wire::{Address, Command, Proposal, Wire};

const FIND: &str = "1.2.840.10008.5.1.4.1.2.2.1";
const GET: &str = "1.2.840.10008.5.1.4.1.2.2.3";
const IMPLICIT: &str = "1.2.840.10008.1.2";

/// How images are stored: each is proposed in a context of its own, so that an archive sends them as
/// it has them.
const SYNTAXES: [&str; 15] = [
    "1.2.840.10008.1.2.1",
    IMPLICIT,
    "1.2.840.10008.1.2.1.99",
    "1.2.840.10008.1.2.2",
    "1.2.840.10008.1.2.5",
    "1.2.840.10008.1.2.4.50",
    "1.2.840.10008.1.2.4.51",
    "1.2.840.10008.1.2.4.57",
    "1.2.840.10008.1.2.4.70",
    "1.2.840.10008.1.2.4.80",
    "1.2.840.10008.1.2.4.81",
    "1.2.840.10008.1.2.4.90",
    "1.2.840.10008.1.2.4.91",
    "1.2.840.10008.1.2.4.201",
    "1.2.840.10008.1.2.4.203",
];
/// Classes on one association; there are 128 contexts.
const CLASSES: usize = 8;
/// Where an archive does not tell an instance's class: radiographs, mammograms, CT, MR, PET,
/// ultrasound, angiograms, secondary captures.
const COMMON: [&str; CLASSES] = [
    "1.2.840.10008.5.1.4.1.1.1",
    "1.2.840.10008.5.1.4.1.1.1.1",
    "1.2.840.10008.5.1.4.1.1.1.2",
    "1.2.840.10008.5.1.4.1.1.2",
    "1.2.840.10008.5.1.4.1.1.4",
    "1.2.840.10008.5.1.4.1.1.128",
    "1.2.840.10008.5.1.4.1.1.6.1",
    "1.2.840.10008.5.1.4.1.1.7",
];
/// Messages of one C-GET for one instance.
const MOST_MESSAGES: usize = 10_000;

/// Statuses of ours for an instance that we do not take: no room, not understood.
const NO_ROOM: u16 = 0xa700;
const NOT_UNDERSTOOD: u16 = 0xc000;

const CLASS: Tag = (0x0008, 0x0016);
const INSTANCE: Tag = (0x0008, 0x0018);
const DATE: Tag = (0x0008, 0x0020);
const LEVEL: Tag = (0x0008, 0x0052);
const MODALITY: Tag = (0x0008, 0x0060);
const MODALITIES: Tag = (0x0008, 0x0061);
const DESCRIPTION: Tag = (0x0008, 0x103e);
const PATIENT: Tag = (0x0010, 0x0020);
const STUDY: Tag = (0x0020, 0x000d);
const SERIES: Tag = (0x0020, 0x000e);

/// An archive that speaks DICOM.
#[derive(Debug)]
pub struct Dimse {
    address: Address,
    patience: Patience,
    finding: Option<Wire>,
    fetching: Option<Wire>,
    /// Classes that were asked for, the latest last.
    classes: Vec<String>,
    number: u16,
}

impl Dimse {
    /// Opens nothing yet.
    #[must_use]
    pub const fn new(
        host: String,
        port: u16,
        tls: Option<Arc<ClientConfig>>,
        called: String,
        calling: String,
        patience: Patience,
    ) -> Self {
        let address = Address { host, port, tls, called, calling };
        Self { address, patience, finding: None, fetching: None, classes: Vec::new(), number: 0 }
    }

    const fn next(&mut self) -> u16 {
        self.number = self.number.wrapping_add(1);
        self.number
    }

    fn find<T: Weighed>(
        &mut self,
        identifier: &Values,
        pick: impl Fn(&Values) -> Option<T>,
    ) -> Result<Found<T>, Fault> {
        let number = self.next();
        let wire = match &mut self.finding {
            Some(wire) => wire,
            none => {
                let proposal = Proposal { contexts: &[(FIND, IMPLICIT)], stored: &[] };
                none.insert(Wire::open(&self.address, &proposal, self.patience)?)
            }
        };
        let found = ask(wire, number, identifier, pick);
        if found.is_err() {
            self.finding = None;
        }
        found
    }

    /// The association on which instances of these classes come.
    fn fetching(&mut self, class: Option<&str>) -> Result<&mut Wire, Fault> {
        let known = class.is_none_or(|class| self.classes.iter().any(|known| known == class));
        if !known && let Some(class) = class {
            if self.classes.len() == CLASSES {
                self.classes.remove(0);
            }
            self.classes.push(class.to_owned());
        }
        let ready =
            known && self.fetching.is_some() && (class.is_some() || self.classes.is_empty());
        if !ready {
            if let Some(wire) = self.fetching.take() {
                wire.close();
            }
            if class.is_none() {
                self.classes.clear();
            }
            let told: Vec<&str> = self.classes.iter().map(String::as_str).collect();
            let classes = if told.is_empty() { &COMMON[..] } else { &told[..] };
            let mut contexts = vec![(GET, IMPLICIT)];
            for class in classes {
                contexts.extend(SYNTAXES.iter().map(|syntax| (*class, *syntax)));
            }
            let proposal = Proposal { contexts: &contexts, stored: classes };
            self.fetching = Some(Wire::open(&self.address, &proposal, self.patience)?);
        }
        self.fetching.as_mut().ok_or(Fault::Answer("an association"))
    }
}

/// A question and what is picked from its answers, one by one.
fn ask<T: Weighed>(
    wire: &mut Wire,
    number: u16,
    identifier: &Values,
    pick: impl Fn(&Values) -> Option<T>,
) -> Result<Found<T>, Fault> {
    let context =
        wire.context(FIND).ok_or_else(|| Fault::Refused("it takes no C-FIND".to_owned()))?;
    wire.begin();
    wire.send(context, &request(C_FIND, FIND, number), Some(identifier))?;
    let mut found = Found { rows: Vec::new(), nameless: 0 };
    let mut tally = Tally::default();
    loop {
        let command = answer_to(wire, C_FIND_ANSWER, number)?;
        let data = if command.has_data() { Some(wire.short(command.context)?) } else { None };
        match (command.number(STATUS), data) {
            (Some(status), Some(data)) if PENDING.contains(&status) => {
                // One that cannot be read does not cost the others.
                match Values::decode(&data).ok().as_ref().and_then(&pick) {
                    Some(row) => {
                        tally.add(row.weight())?;
                        found.rows.push(row);
                    }
                    None => {
                        tally.add(0)?;
                        found.nameless += 1;
                    }
                }
            }
            (Some(0), _) => return Ok(found),
            (Some(status), _) => return Err(Fault::Status(format!("C-FIND status {status:04X}"))),
            (None, _) => return Err(Fault::Answer("a status")),
        }
    }
}

fn request(field: u16, class: &str, number: u16) -> Values {
    Values::default()
        .with_text((0, AFFECTED_CLASS), class)
        .with_number((0, FIELD), field)
        .with_number((0, ID), number)
        .with_number((0, PRIORITY), 2)
        .with_number((0, DATA_SET), 1)
}

fn answer_to(wire: &mut Wire, field: u16, number: u16) -> Result<Command, Fault> {
    let command = wire.receive()?;
    let fits = command.number(FIELD) == Some(field) && command.number(ANSWERED) == Some(number);
    if fits { Ok(command) } else { Err(Fault::Answer("the answer to what was asked")) }
}

/// What came of the one instance that was asked for.
#[derive(Debug)]
struct Fetched {
    /// What `take` says, if it came.
    taken: Option<Result<(), Fault>>,
    /// Whether something else came.
    other: bool,
    /// How the archive says that it went.
    status: u16,
}

/// Takes what a C-GET brings. An error means that the association is of no use any more.
fn get(
    wire: &mut Wire,
    number: u16,
    asked: Asked<'_>,
    take: &mut Taker<'_>,
) -> Result<Fetched, Fault> {
    let context =
        wire.context(GET).ok_or_else(|| Fault::Refused("it takes no C-GET".to_owned()))?;
    let identifier = Values::default()
        .with_text(LEVEL, "IMAGE")
        .with_text(STUDY, asked.study)
        .with_text(SERIES, asked.series)
        .with_text(INSTANCE, asked.instance);
    wire.begin();
    wire.send(context, &request(C_GET, GET, number), Some(&identifier))?;
    let mut fetched = Fetched { taken: None, other: false, status: 0 };
    for _ in 0..MOST_MESSAGES {
        let command = wire.receive()?;
        match command.number(FIELD) {
            Some(C_STORE) => store(wire, &command, asked, &mut fetched, take)?,
            Some(C_GET_ANSWER) if command.number(ANSWERED) == Some(number) => {
                if command.has_data() {
                    // Which ones failed; there is only one that could.
                    wire.data(command.context).drain(1 << 20)?;
                }
                let status = command.number(STATUS).ok_or(Fault::Answer("a status"))?;
                if !PENDING.contains(&status) {
                    return Ok(Fetched { status, ..fetched });
                }
            }
            _ => return Err(Fault::Answer("a C-STORE or the end of a C-GET")),
        }
    }
    Err(Fault::TooLarge("the answer"))
}

/// One C-STORE of the archive's.
fn store(
    wire: &mut Wire,
    command: &Command,
    asked: Asked<'_>,
    fetched: &mut Fetched,
    take: &mut Taker<'_>,
) -> Result<(), Fault> {
    let context = command.context;
    let (class, syntax) = wire.syntax(context).ok_or(Fault::Answer("an accepted context"))?;
    let number = command.number(ID).ok_or(Fault::Answer("a message number"))?;
    if !command.has_data() {
        return Err(Fault::Answer("a data set"));
    }
    let mut data = wire.data(context);
    // One that was not asked for, before or after the one that was, is refused and changes nothing.
    let wanted = command.text(AFFECTED_INSTANCE) == Some(asked.instance) && fetched.taken.is_none();
    let outcome = if wanted {
        take(&mut data, Form::DataSet { syntax: &syntax, class: &class })
    } else {
        Err(Fault::Another("instance"))
    };
    if let Err(fault) = data.drain(MOST) {
        return Err(outcome.err().unwrap_or(fault));
    }
    let status = match &outcome {
        Ok(()) => 0,
        Err(Fault::Disk(_)) => NO_ROOM,
        Err(_) => NOT_UNDERSTOOD,
    };
    let answer = Values::default()
        .with_text((0, AFFECTED_CLASS), &class)
        .with_number((0, FIELD), C_STORE_ANSWER)
        .with_number((0, ANSWERED), number)
        .with_number((0, DATA_SET), NO_DATA_SET)
        .with_number((0, STATUS), status)
        .with_text((0, AFFECTED_INSTANCE), asked.instance);
    wire.send(context, &answer, None)?;
    if wanted {
        fetched.taken = Some(outcome);
    } else {
        fetched.other = true;
    }
    Ok(())
}

/// The UID of an answer, which becomes part of the next question.
fn uid(values: &Values, tag: Tag) -> Option<String> {
    values.text(tag).filter(|uid| is_uid(uid)).map(str::to_owned)
}

impl Archive for Dimse {
    fn studies(&mut self, query: Query<'_>) -> Result<Found<Study>, Fault> {
        let mut identifier = Values::default()
            .with_text(LEVEL, "STUDY")
            .with_text(DATE, query.dates.unwrap_or_default())
            .with_text(MODALITIES, query.modality.unwrap_or_default())
            .with_text(PATIENT, query.patient.unwrap_or_default())
            .with_text(STUDY, "");
        if query.patient.is_some_and(|patient| !patient.is_ascii()) {
            identifier = identifier.with_text(CHARACTER_SET, "ISO_IR 192");
        }
        self.find(&identifier, |values| {
            Some(Study {
                uid: uid(values, STUDY)?,
                // One that cannot be read is compared when the image is there.
                patient: values.decoded(PATIENT),
                date: values.text(DATE).map(str::to_owned),
            })
        })
    }

    fn series(&mut self, study: &str) -> Result<Found<Series>, Fault> {
        let identifier = Values::default()
            .with_text(LEVEL, "SERIES")
            .with_text(MODALITY, "")
            .with_text(DESCRIPTION, "")
            .with_text(STUDY, study)
            .with_text(SERIES, "");
        self.find(&identifier, |values| {
            Some(Series {
                uid: uid(values, SERIES)?,
                modality: values.text(MODALITY).map(str::to_owned),
                description: values.legible(DESCRIPTION),
            })
        })
    }

    fn instances(&mut self, study: &str, series: &str) -> Result<Found<Instance>, Fault> {
        let identifier = Values::default()
            .with_text(LEVEL, "IMAGE")
            .with_text(CLASS, "")
            .with_text(INSTANCE, "")
            .with_text(STUDY, study)
            .with_text(SERIES, series);
        self.find(&identifier, |values| {
            let class = values.text(CLASS).filter(|class| is_uid(class)).map(str::to_owned);
            Some(Instance { uid: uid(values, INSTANCE)?, class })
        })
    }

    fn fetch(
        &mut self,
        asked: Asked<'_>,
        class: Option<&str>,
        take: &mut Taker<'_>,
    ) -> Result<(), Fault> {
        // All questions were asked; an idle association would only time out.
        if let Some(wire) = self.finding.take() {
            wire.close();
        }
        let number = self.next();
        let wire = self.fetching(class)?;
        let fetched = match get(wire, number, asked, take) {
            Ok(fetched) => fetched,
            Err(fault) => {
                self.fetching = None;
                return Err(fault);
            }
        };
        match fetched {
            Fetched { taken: Some(outcome), .. } => outcome,
            Fetched { other: true, .. } => Err(Fault::Another("instance")),
            Fetched { status: 0, .. } => Err(Fault::Missing),
            Fetched { status, .. } => Err(Fault::Status(format!("C-GET status {status:04X}"))),
        }
    }
}

impl Drop for Dimse {
    fn drop(&mut self) {
        for wire in [self.finding.take(), self.fetching.take()].into_iter().flatten() {
            wire.close();
        }
    }
}
