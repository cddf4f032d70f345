//! Everything that the wire carries: what decodes, decodes to the same again after it was encoded.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::io;

use aggregation::checkpoint::LogHead;
use aggregation::ids::{Digest, HospitalId, RoundId, SlotId, StudyId};
use aggregation::keys::announce::{AgreementKey, KeyAnnounce};
use aggregation::keys::graph::GraphNonce;
use aggregation::keys::identity::Signature;
use aggregation::masking::sharing::{Holder, SecretScalar, Share};
use aggregation::message::{ClosedNotice, FinalSet, Roster, Shares, SignedSet, Terms, Work};
use aggregation::secret::Secret;
use aggregation::setup::SignedAnnounce;
use aggregation::units::Timestamp;
use proto::frames::{read_frame, write_frame};
use proto::masks::round::{Place, encode_shares, final_set, set_signature, shares, signed_set};
use proto::masks::setup::{
    KeySetup, announcement, batch_header, encode_announcement, encode_key_setup, key_setup,
};
use proto::{decode, encode, federation as wire, masks, trainer};

/// Reads the message that the first byte names from the others.
#[must_use]
pub(crate) fn run(data: &[u8]) -> bool {
    let Some((kind, message)) = data.split_first() else { return false };
    let framed = frame(message);
    let mut from = framed.as_slice();
    match kind % 16 {
        0 => same(read_frame(&mut from), decode::terms, encode::terms),
        1 => same(read_frame(&mut from), decode::roster, encode::roster),
        2 => same(read_frame(&mut from), decode::closed, encode::closed),
        3 => same(read_frame(&mut from), final_set, masks::round::encode_final_set),
        4 => same(read_frame(&mut from), signed_set, masks::round::encode_signed_set),
        5 => same(read_frame(&mut from), key_setup, encode_key_setup),
        6 => {
            let study = StudyId::new(Digest::new([0; 32]));
            let read = |said: &_| announcement(study, said);
            same(read_frame(&mut from), read, encode_announcement)
        }
        7 => run_shares(read_frame(&mut from)),
        8 => taken(read_frame(&mut from), |said: wire::SignatureRequest| {
            set_signature(&said).is_ok()
        }),
        9 => taken(read_frame(&mut from), |said: wire::BatchHeader| batch_header(&said).is_ok()),
        10 => taken(read_frame(&mut from), |said: wire::Notice| said.notice.is_some()),
        11 => taken(read_frame(&mut from), |said: wire::StudyNotice| {
            let identities = said.identities.iter().map(|key| masks::identity(key));
            decode::study(&said.digest).is_ok()
                && decode::life(said.state).is_ok()
                && decode::hospitals("sites", &said.sites).is_ok()
                && identities.collect::<Result<Vec<_>, _>>().is_ok()
        }),
        12 => taken(read_frame(&mut from), |said: wire::DeclineRequest| {
            decode::place(&said.study, said.round, said.slot).is_ok()
                && decode::decline_reason(said.reason).is_ok()
        }),
        13 => taken(read_frame(&mut from), |said: wire::UpdatePart| said.part.is_some()),
        14 => taken(read_frame(&mut from), |said: trainer::ToTrainer| said.message.is_some()),
        _ => taken(read_frame(&mut from), |said: trainer::FromTrainer| said.message.is_some()),
    }
}

/// Frames as a trainer's pipe carries them, one after the other.
#[must_use]
pub(crate) fn run_frames(mut data: &[u8]) -> bool {
    let mut read = 0;
    while let Ok(Some(trainer::FromTrainer { message })) = read_frame(&mut data) {
        read += usize::from(message.is_some());
    }
    read > 0
}

/// The bytes of a message with its length before them.
fn frame(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    [&length.to_le_bytes(), message].concat()
}

fn taken<M>(read: io::Result<Option<M>>, accept: impl FnOnce(M) -> bool) -> bool {
    match read {
        Ok(Some(message)) => accept(message),
        Ok(None) | Err(_) => false,
    }
}

/// What is decoded comes back from its own encoding.
fn same<M, T: PartialEq + Debug, E>(
    read: io::Result<Option<M>>,
    decode: impl Fn(&M) -> Result<T, E>,
    encode: impl Fn(&T) -> M,
) -> bool {
    taken(read, |message| {
        let Ok(said) = decode(&message) else { return false };
        let again = decode(&encode(&said));
        assert!(again.is_ok_and(|again| again == said), "{said:?} does not come back");
        true
    })
}

fn run_shares(read: io::Result<Option<wire::SharesRequest>>) -> bool {
    taken(read, |message| {
        let Ok((place, said)) = shares(&message) else { return false };
        let holder = u16::try_from(message.holder).ok().and_then(Holder::new);
        let Some(holder) = holder else { return false };
        // One site may be named with both kinds; what is sent has it once.
        if said.own.keys().any(|site| said.recovery.contains_key(site)) {
            return true;
        }
        let again = shares(&encode_shares(&place, holder, &said));
        assert!(again.is_ok_and(|again| again == (place, said)), "shares do not come back");
        true
    })
}

fn sites() -> BTreeSet<HospitalId> {
    ["north", "south-2", "west"].into_iter().filter_map(|name| HospitalId::new(name).ok()).collect()
}

/// One of each message.
#[must_use]
pub(crate) fn examples() -> Vec<Vec<u8>> {
    let study = StudyId::new(Digest::new([1; 32]));
    let (round, slot) = (RoundId::FIRST, SlotId::new(7));
    let work = Work::TrainAndEvaluate;
    let digest = Digest::new([2; 32]);
    let ready_by = Timestamp::from_millis(9);
    let log = LogHead { size: 3, root: digest };
    let terms = Terms { study, round, slot, work, model: digest, invited: sites(), ready_by, log };
    let members = sites();
    let roster = Roster { study, round, slot, terms: digest, members, upload_by: ready_by };
    let set = FinalSet { study, round, slot, terms: digest, members: sites() };
    let signed = SignedSet {
        set: set.clone(),
        signatures: sites().into_iter().map(|site| (site, Signature::new([3; 64]))).collect(),
    };
    let closed = ClosedNotice {
        study,
        round,
        slot,
        released: false,
        reason: "too few".to_owned(),
        contributed: sites(),
        dropped: BTreeSet::new(),
    };
    let announced: BTreeMap<HospitalId, SignedAnnounce> =
        sites().into_iter().map(|site| (site.clone(), announced(study, site))).collect();
    let nonces = sites().into_iter().map(|site| (site, GraphNonce::new([4; 32]))).collect();
    let one = announced.values().next().cloned();
    let keys = KeySetup { study, announced, nonces, batch: 1, owners: sites() };
    let place = Place { study, round, slot, terms: digest };
    let holder = Holder::new(3);
    let request = wire::SignatureRequest {
        study: vec![1; 32],
        round: 1,
        slot: 7,
        terms: vec![2; 32],
        signature: vec![3; 64],
    };
    let header = wire::BatchHeader {
        study: vec![1; 32],
        batch: 0,
        owner: "north".to_owned(),
        bytes: 4_096,
        signature: vec![3; 64],
    };
    let offer = wire::Notice { notice: Some(wire::notice::Notice::Offer(encode::terms(&terms))) };
    let proposed = wire::StudyNotice {
        digest: vec![1; 32],
        manifest_toml: String::new(),
        state: 1,
        decision: 0,
        sites: sites().iter().map(ToString::to_string).collect(),
        rounds_released: 0,
        identities: vec![vec![5; 32]; 3],
    };
    let decline = wire::DeclineRequest {
        study: vec![1; 32],
        round: 1,
        slot: 7,
        terms: vec![2; 32],
        reason: 6,
    };
    let part = wire::UpdatePart { part: Some(wire::update_part::Part::Data(vec![9; 40].into())) };
    let task = trainer::Task { round: 1, work: 1, model_bytes: 24 };
    let to = trainer::ToTrainer { message: Some(trainer::to_trainer::Message::Task(task)) };
    let progress = trainer::Progress { permille: 500 };
    let from =
        trainer::FromTrainer { message: Some(trainer::from_trainer::Message::Progress(progress)) };
    let mut examples = vec![
        (0, written(|out| write_frame(out, &encode::terms(&terms)))),
        (1, written(|out| write_frame(out, &encode::roster(&roster)))),
        (2, written(|out| write_frame(out, &encode::closed(&closed)))),
        (3, written(|out| write_frame(out, &masks::round::encode_final_set(&set)))),
        (4, written(|out| write_frame(out, &masks::round::encode_signed_set(&signed)))),
        (5, written(|out| write_frame(out, &encode_key_setup(&keys)))),
        (8, written(|out| write_frame(out, &request))),
        (9, written(|out| write_frame(out, &header))),
        (10, written(|out| write_frame(out, &offer))),
        (11, written(|out| write_frame(out, &proposed))),
        (12, written(|out| write_frame(out, &decline))),
        (13, written(|out| write_frame(out, &part))),
        (14, written(|out| write_frame(out, &to))),
        (15, written(|out| write_frame(out, &from))),
    ];
    if let (Some(one), Some(holder)) = (one, holder) {
        let shares = encode_shares(&place, holder, &given(holder));
        examples.push((6, written(|out| write_frame(out, &encode_announcement(&one)))));
        examples.push((7, written(|out| write_frame(out, &shares))));
    }
    examples.into_iter().map(|(kind, bytes)| [&[kind], bytes.as_slice()].concat()).collect()
}

/// Two frames of a trainer.
#[must_use]
pub(crate) fn frame_examples() -> Vec<Vec<u8>> {
    let one = |permille| {
        let progress = trainer::from_trainer::Message::Progress(trainer::Progress { permille });
        frame(&written(|out| {
            write_frame(out, &trainer::FromTrainer { message: Some(progress.clone()) })
        }))
    };
    vec![one(1), [one(2), one(1_000)].concat()]
}

/// A message, without the length that a frame begins with.
fn written(write: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> Vec<u8> {
    let mut framed = Vec::new();
    write(&mut framed).expect("a vector takes whatever is written, and the message is small");
    framed.split_off(4)
}

fn announced(study: StudyId, hospital: HospitalId) -> SignedAnnounce {
    let digest = Digest::new([6; 32]);
    let agreement = AgreementKey::new([7; 32]);
    let announce = KeyAnnounce { study, charter: digest, hospital, agreement, graph_nonce: digest };
    SignedAnnounce { announce, signature: Signature::new([8; 64]) }
}

fn given(holder: Holder) -> Shares {
    let mut shares = Shares::default();
    for (number, site) in sites().into_iter().enumerate() {
        let share = Share::new(holder, SecretScalar::from_wide(&Secret::new([1; 64])));
        if number == 0 {
            shares.recovery.insert(site, share);
        } else {
            shares.own.insert(site, share);
        }
    }
    shares
}
