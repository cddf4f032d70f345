//! A site that masks, played by hand: the real keyring and participant, with randomness that the
//! story has chosen. Nothing of it is on a disk, and the story knows every secret of it.

mod rounds;

pub use self::rounds::SlotSecrets;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use aggregation::charter::Charter;
use aggregation::ids::{Digest, HospitalId, SlotId};
use aggregation::keys::graph::GraphNonce;
use aggregation::keys::identity::{Identity, IdentityKey};
use aggregation::keys::provision::Provision;
use aggregation::keys::roll::Roll;
use aggregation::keys::slots::{HeldShares, OwnSlot, PrekeyBatch};
use aggregation::participant::Participant;
use aggregation::secret::Secret;
use aggregation::setup::SignedBatch;
use aggregation::setup::keyring::{Announced, Keyring};
use aggregation::study::Study;
use proto::channel::Target;
use proto::federation::{
    AnnouncementRequest, BatchHeader, BatchPart, FetchBatchRequest, NonceRequest, Notice,
    OpenedRequest, batch_part, notice,
};
use proto::limits::CHUNK;
use proto::masks::setup::{KeySetup, batch_header, encode_announcement, key_setup};

use self::rounds::Round;
use super::{Player, in_time, said};
use crate::consortium::Consortium;
use crate::site::Site;
use crate::{Outcome, Trouble};

/// A site without an agent, with keys of its own.
#[derive(Debug)]
pub struct Masked {
    /// None while it has vanished.
    player: Option<Player>,
    target: Target,
    me: HospitalId,
    identity: Identity,
    seed: Secret<32>,
    charter: Charter,
    roll: Roll,
    keys: Option<Keys>,
    /// The number of the batch that was made last, and whose of that number are opened.
    batch: Option<(u64, BTreeSet<HospitalId>)>,
    own: BTreeMap<SlotId, OwnSlot>,
    held: BTreeMap<SlotId, BTreeMap<HospitalId, HeldShares>>,
    round: Option<Round>,
    participant: Participant,
}

#[derive(Debug)]
struct Keys {
    provision: Arc<Provision>,
    keyring: Keyring,
}

/// A secret of a site: random as far as anybody else can tell.
fn chosen(site: &HospitalId, what: &str) -> Secret<32> {
    Secret::new(*Digest::sha256(format!("{site}: {what}, of no one else's").as_bytes()).as_bytes())
}

/// The identity that a site's own program has made.
fn identity(site: &Site) -> Outcome<(Identity, Secret<32>)> {
    let document = std::fs::read(site.home().join("state").join("identity.key"))?;
    let identity = Identity::from_pkcs8(&document)?;
    // RFC 8410 section 7: the seed follows 16 bytes that are the same in every such key.
    let seed = document.get(16..48).and_then(Secret::from_slice);
    let seed = seed.ok_or_else(|| Trouble::new("expected an Ed25519 key, PKCS #8"))?;
    if Identity::from_seed(&seed)?.key() != identity.key() {
        return Err(Trouble::new("expected the seed of an identity where PKCS #8 has it"));
    }
    Ok((identity, seed))
}

impl Masked {
    /// Takes a site's seat, as [`Player::take_seat`], for a study of all sites.
    ///
    /// # Errors
    /// When a site is not enrolled, the coordinator does not let it in, or the study does not mask.
    pub async fn take_seat(consortium: &Consortium, site: &Site, study: &Study) -> Outcome<Self> {
        let mut pinned = BTreeMap::<HospitalId, IdentityKey>::new();
        for site in &consortium.sites {
            pinned.insert(HospitalId::new(&site.name)?, identity(site)?.0.key());
        }
        let roster = pinned.keys().cloned().collect();
        let charter = Charter::new(study.clone(), roster)
            .map_err(|faults| Trouble::new(format!("no charter: {faults:?}")))?;
        let roll = Roll::new(&charter, &pinned)?;
        let me = HospitalId::new(&site.name)?;
        let participant = Participant::new(me.clone(), charter.clone());
        let (identity, seed) = identity(site)?;
        let target = consortium.target(Some(site.identity()?.0))?;
        let player = Some(Player::sit(&site.name, &target).await?);
        Ok(Self {
            player,
            target,
            me,
            identity,
            seed,
            charter,
            roll,
            keys: None,
            batch: None,
            own: BTreeMap::new(),
            held: BTreeMap::new(),
            round: None,
            participant,
        })
    }

    /// Its name.
    #[must_use]
    pub const fn name(&self) -> &HospitalId {
        &self.me
    }

    /// Is gone, as a machine whose power fails; its keys it keeps.
    pub fn vanish(&mut self) {
        self.player = None;
    }

    /// Comes back.
    ///
    /// # Errors
    /// When the coordinator does not let it in.
    pub async fn come_back(&mut self) -> Outcome<()> {
        self.player = Some(Player::sit(self.me.as_str(), &self.target).await?);
        Ok(())
    }

    fn seat(&mut self) -> Outcome<&mut Player> {
        self.player.as_mut().ok_or_else(|| Trouble::new("it has vanished"))
    }

    /// Approves the study.
    ///
    /// # Errors
    /// When the coordinator refuses.
    pub async fn approve(&mut self) -> Outcome<()> {
        let study = self.charter.study().clone();
        self.seat()?.approve(&study).await
    }

    fn study(&self) -> Vec<u8> {
        self.charter.id().digest().as_bytes().to_vec()
    }

    /// The next thing that it is told about anything but keys; what is told of keys, it follows.
    ///
    /// # Errors
    /// When the coordinator hangs up, or its keys do not come on.
    pub async fn next_notice(&mut self) -> Outcome<notice::Notice> {
        loop {
            let heard = self.seat()?.notices.message().await.map_err(|status| said(&status))?;
            match heard.and_then(|Notice { notice }| notice) {
                Some(notice::Notice::Keys(told)) => {
                    self.follow(&key_setup(&told)?).await?;
                }
                Some(other) => return Ok(other),
                None => return Err(Trouble::new("expected a notice: the stream ended")),
            }
        }
    }

    /// Takes part in the setup until it has opened what the others have sealed for it.
    ///
    /// # Errors
    /// When the coordinator refuses something, or the others' keys do not hold.
    pub async fn set_up(&mut self) -> Outcome<()> {
        loop {
            let told = self
                .seat()?
                .await_notice("keys", |notice| {
                    let notice::Notice::Keys(told) = notice else { return None };
                    Some(told)
                })
                .await?;
            if self.follow(&key_setup(&told)?).await? {
                return Ok(());
            }
        }
    }

    /// Does what is left undone on this side. Whether that is nothing any more.
    async fn follow(&mut self, told: &KeySetup) -> Outcome<bool> {
        if self.keys.is_none() && !self.agree(told).await? {
            return Ok(false);
        }
        let Some(Keys { provision, keyring }) = &self.keys else { return Ok(false) };
        let (provision, number) = (Arc::clone(provision), told.batch);
        if self.batch.as_ref().is_none_or(|(made, _)| *made < number) {
            let label = format!("slots of batch {number}");
            let [id @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] =
                *chosen(&self.me, &format!("identifier of batch {number}")).expose();
            let seed = chosen(&self.me, &label);
            let made = keyring.make(&provision, &self.identity, number, id, seed)?;
            self.own.extend(made.own.into_slots());
            self.leave(number, &made.batch).await?;
            self.batch = Some((number, BTreeSet::new()));
        }
        let near = provision.neighbourhood(&self.me);
        let near: BTreeSet<HospitalId> = near
            .iter()
            .flat_map(|near| near.neighbours())
            .map(|member| member.hospital.clone())
            .collect();
        let mut more = false;
        for owner in near.iter().filter(|owner| told.owners.contains(*owner)) {
            if self.batch.as_ref().is_some_and(|(_, opened)| !opened.contains(owner)) {
                self.open(&provision, owner, number).await?;
                more = true;
            }
        }
        let opened = self.batch.as_ref().map(|(_, opened)| opened.clone()).unwrap_or_default();
        if more {
            let owners = opened.iter().map(ToString::to_string).collect();
            let request = OpenedRequest { study: self.study(), batch: number, owners };
            in_time(self.seat()?.client.send_opened(request)).await.map_err(|s| said(&s))?;
        }
        Ok(opened == near)
    }

    /// From the announcement to the keys in common with the neighbours. Whether they are there.
    async fn agree(&mut self, told: &KeySetup) -> Outcome<bool> {
        let nonce = GraphNonce::new(*chosen(&self.me, "nonce").expose());
        let agreement = chosen(&self.me, "agreement");
        let announced = Announced::new(&self.roll, &self.me, &self.identity, &agreement, nonce);
        let study = self.study();
        let all = self.roll.identities().len();
        if !told.announced.contains_key(&self.me) {
            let announcement = Some(encode_announcement(announced.said()));
            let request = AnnouncementRequest { study, announcement };
            in_time(self.seat()?.client.send_announcement(request)).await.map_err(|s| said(&s))?;
            return Ok(false);
        }
        if told.announced.len() < all {
            return Ok(false);
        }
        let nonce = announced.reveal(&self.roll, &told.announced)?;
        if !told.nonces.contains_key(&self.me) {
            let request = NonceRequest { study, nonce: nonce.as_bytes().to_vec() };
            in_time(self.seat()?.client.send_nonce(request)).await.map_err(|s| said(&s))?;
            return Ok(false);
        }
        if told.nonces.len() < all {
            return Ok(false);
        }
        let agreed = announced.agree(&self.roll, &told.announced, &told.nonces);
        let (provision, keyring) = agreed.map_err(|(_, why)| why)?;
        let provision = Arc::new(provision);
        self.participant = self.participant.clone().with_keys(Arc::clone(&provision));
        self.keys = Some(Keys { provision, keyring });
        Ok(true)
    }

    async fn leave(&mut self, number: u64, made: &SignedBatch) -> Outcome<()> {
        let encoded = made.batch.encoded();
        let header = BatchHeader {
            study: self.study(),
            batch: number,
            owner: self.me.to_string(),
            bytes: u64::try_from(encoded.len())?,
            signature: made.signature.as_bytes().to_vec(),
        };
        let part = |part| BatchPart { part: Some(part) };
        let mut parts = vec![part(batch_part::Part::Header(header))];
        let chunks = encoded.chunks(CHUNK);
        parts.extend(chunks.map(|data| part(batch_part::Part::Data(data.to_vec()))));
        let sending = self.seat()?.client.send_batch(tokio_stream::iter(parts));
        in_time(sending).await.map(|_| ()).map_err(|status| said(&status))
    }

    async fn open(
        &mut self,
        provision: &Provision,
        owner: &HospitalId,
        number: u64,
    ) -> Outcome<()> {
        let request =
            FetchBatchRequest { study: self.study(), batch: number, owner: owner.to_string() };
        let answer = in_time(self.seat()?.client.fetch_batch(request)).await;
        let mut parts = answer.map_err(|status| said(&status))?.into_inner();
        let (mut header, mut encoded) = (None, Vec::new());
        while let Some(part) = parts.message().await.map_err(|status| said(&status))? {
            match part.part {
                Some(batch_part::Part::Header(first)) => header = Some(first),
                Some(batch_part::Part::Data(data)) => encoded.extend(data),
                None => return Err(Trouble::new("expected a part of a batch")),
            }
        }
        let header = header.ok_or_else(|| Trouble::new("expected a batch with a header"))?;
        let signature = batch_header(&header)?.signature;
        let batch = SignedBatch { batch: PrekeyBatch::decode(encoded)?, signature };
        let keyring = self.keys.as_ref().map(|keys| &keys.keyring);
        let keyring = keyring.ok_or_else(|| Trouble::new("expected keys before a batch"))?;
        for (slot, shares) in keyring.open(provision, owner, number, &batch)? {
            self.held.entry(slot).or_default().insert(owner.clone(), shares);
        }
        if let Some((_, opened)) = &mut self.batch {
            opened.insert(owner.clone());
        }
        Ok(())
    }
}
