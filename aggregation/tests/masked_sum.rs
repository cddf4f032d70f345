//! The ground floor of secure aggregation put together without any state machine: hospitals make
//! keys, announcements and slots, mask their updates and vanish at every moment; from what is left
//! comes exactly the sum of the updates that arrived, or nothing.

use std::collections::{BTreeMap, BTreeSet};

use aggregation::context::{Context, ContextDigest};
use aggregation::ids::{Digest, HospitalId, RoundId, SlotId, StudyId};
use aggregation::keys::announce::{AgreementSecret, KeyAnnounce};
use aggregation::keys::chain::PairSeed;
use aggregation::keys::graph::{Graph, GraphNonce, GraphSeed};
use aggregation::keys::identity::{Identity, IdentityKey, Signature};
use aggregation::keys::slots::{
    self, BatchScope, HeldShares, Kind, OwnSlot, OwnSlots, PairKeys, PrekeyBatch, SlotRefused,
};
use aggregation::keys::thresholds::Thresholds;
use aggregation::masking::group::Modulus;
use aggregation::masking::keystream::TILE_LANES;
use aggregation::masking::masks::{Masks, Tiles};
use aggregation::masking::sharing::{Holder, Recovery, SecretScalar, Share};
use aggregation::secret::Secret;

const FIRST: SlotId = SlotId::new(1);

/// A tile and a bit.
const LANES: usize = TILE_LANES + 37;

fn seed(text: &str) -> Secret<32> {
    Secret::new(*Digest::sha256(text.as_bytes()).as_bytes())
}

fn study() -> StudyId {
    StudyId::new(Digest::sha256(b"study"))
}

fn charter() -> Digest {
    Digest::sha256(b"charter")
}

/// One hospital, with all that it has after the setup.
struct Site {
    id: HospitalId,
    identity: IdentityKey,
    keys: BTreeMap<HospitalId, PairKeys>,
    own: OwnSlots,
    held: BTreeMap<(HospitalId, SlotId), HeldShares>,
}

/// A federation after its setup. Of the batches the coordinator has what anyone may see.
struct Federation {
    thresholds: Thresholds,
    graph: Graph,
    sites: BTreeMap<HospitalId, Site>,
    batches: BTreeMap<HospitalId, PrekeyBatch>,
}

/// The setup as it is to be done: announce, check, agree, draw the graph, make slots, check, open.
fn federation(n: u16, t: u16, m: u16, slot_count: u32) -> Federation {
    let ids: Vec<HospitalId> =
        (0..n).map(|i| HospitalId::new(&format!("h-{i:03}")).expect("a name")).collect();
    let identity = |id: &HospitalId| Identity::from_seed(&seed(&format!("identity {id}")));
    let identities: BTreeMap<HospitalId, Identity> =
        ids.iter().map(|id| (id.clone(), identity(id).expect("a seed"))).collect();
    let agreement = |id: &HospitalId| AgreementSecret::new(&seed(&format!("agreement {id}")));
    let secrets: BTreeMap<&HospitalId, AgreementSecret> =
        ids.iter().map(|id| (id, agreement(id))).collect();
    let nonce = |id: &HospitalId| GraphNonce::new(*seed(&format!("nonce {id}")).expose());
    let nonces: BTreeMap<HospitalId, GraphNonce> =
        ids.iter().map(|id| (id.clone(), nonce(id))).collect();

    let announce = |id: &HospitalId| {
        let announce = KeyAnnounce {
            study: study(),
            charter: charter(),
            hospital: id.clone(),
            agreement: secrets[id].key(),
            graph_nonce: nonces[id].commitment(study(), charter(), id),
        };
        let signature: Signature<KeyAnnounce> = identities[id].sign(&announce);
        announce
            .check(study(), charter(), &identities[id].key(), &signature)
            .expect("everyone is honest");
        announce
    };
    let announced: BTreeMap<HospitalId, KeyAnnounce> =
        ids.iter().map(|id| (id.clone(), announce(id))).collect();

    let commitments = announced.iter().map(|(id, a)| (id.clone(), a.graph_nonce)).collect();
    let drawn = GraphSeed::from_nonces(study(), charter(), &commitments, &nonces);
    let thresholds = Thresholds::new(n, t, m).expect("the thresholds hold together");
    let roster: BTreeSet<HospitalId> = ids.iter().cloned().collect();
    let graph = Graph::new(&roster, &thresholds, &drawn.expect("all nonces are as committed"))
        .expect("there is a graph");

    let mut sites = BTreeMap::new();
    let mut batches = BTreeMap::new();
    for id in &ids {
        let hood = graph.neighbourhood(id).expect("a member has a neighbourhood");
        let pair = |other: &HospitalId| {
            let root = secrets[id].root(&announced[id], &announced[other]);
            let (chain, shares) = root.expect("honest keys agree").into_keys(FIRST);
            (other.clone(), PairKeys { chain, shares })
        };
        let keys = hood.neighbours().iter().map(|member| pair(&member.hospital)).collect();
        let mut batch = [0; 16];
        batch.copy_from_slice(&seed(&format!("batch id {id}")).expose()[..16]);
        let scope = BatchScope {
            study: study(),
            charter: charter(),
            owner: id.clone(),
            batch,
            first: FIRST,
        };
        let secret = seed(&format!("batch seed {id}"));
        let (batch, own) =
            slots::make(&scope, slot_count, &hood, &keys, secret).expect("the batch can be made");
        let signature = identities[id].sign(&batch);
        // It travels.
        let batch = PrekeyBatch::decode(batch.encoded().to_vec()).expect("it is well-formed");
        let pinned = identities[id].key();
        batch
            .check(study(), charter(), FIRST, &hood, &pinned, &signature)
            .expect("it is for us and from its owner");
        let identity = identities[id].key();
        let held = BTreeMap::new();
        sites.insert(id.clone(), Site { id: id.clone(), identity, keys, own, held });
        batches.insert(id.clone(), batch);
    }
    for (owner, batch) in &batches {
        let hood = graph.neighbourhood(owner).expect("a member has a neighbourhood");
        for neighbour in hood.neighbours() {
            let site = sites.get_mut(&neighbour.hospital).expect("everyone has a site");
            let opened = batch.open(&hood, neighbour, &site.keys[owner].shares);
            let opened = opened.expect("an honest batch opens");
            site.held.extend(opened.into_iter().map(|(slot, held)| ((owner.clone(), slot), held)));
        }
    }
    Federation { thresholds, graph, sites, batches }
}

/// What the round agrees on, as a hospital sees it.
fn context(federation: &Federation, slot: SlotId, roster: &BTreeSet<HospitalId>) -> Context {
    let entry = |id: &HospitalId| (id.clone(), federation.sites[id].identity);
    Context {
        study: study(),
        charter: charter(),
        epoch: 0,
        slot,
        round: RoundId::FIRST,
        model: Digest::sha256(b"model"),
        plan: Digest::sha256(b"plan"),
        roster: roster.iter().map(entry).collect(),
        graph: federation.graph.digest(),
        checkpoint: Digest::sha256(b"checkpoint"),
    }
}

/// Lanes such that each hospital shows in the sum, and once: of the full width, signs and all.
fn plain(id: &HospitalId) -> Vec<u32> {
    let mut bytes = vec![0; 4 * LANES];
    blake3::Hasher::new().update(id.as_str().as_bytes()).finalize_xof().fill(&mut bytes);
    bytes.as_chunks().0.iter().map(|lane| u32::from_le_bytes(*lane)).collect()
}

fn sum_of(modulus: Modulus, ids: &BTreeSet<HospitalId>) -> Vec<u32> {
    let mut sums = vec![0_u32; LANES];
    for id in ids {
        sums.iter_mut().zip(plain(id)).for_each(|(sum, lane)| *sum = sum.wrapping_add(lane));
    }
    sums.iter().map(|sum| modulus.unsigned(*sum)).collect()
}

/// A hospital masks its update for the frozen roster.
fn upload(
    federation: &Federation,
    site: &Site,
    context: ContextDigest,
    modulus: Modulus,
    roster: &BTreeSet<HospitalId>,
    own: &SecretScalar,
    seeds: &BTreeMap<HospitalId, PairSeed>,
) -> Vec<u8> {
    let hood = federation.graph.neighbourhood(&site.id).expect("a member has a neighbourhood");
    let ready = hood.neighbours().iter().map(|m| &m.hospital).filter(|id| roster.contains(*id));
    let masks = context.masks_of(&site.id, own, ready.map(|id| (id, &seeds[id])));
    let mut packed = Vec::new();
    modulus.pack(&plain(&site.id), &mut packed);
    Masks::new(modulus, masks).pass(LANES).mask(&mut packed).expect("the length is right");
    packed
}

/// What one hospital answers when the masks are taken out: per neighbour on the roster one share.
type Answers = BTreeMap<HospitalId, Share>;

/// The coordinator's end: from uploads and answers to the sum.
fn unmask(
    federation: &Federation,
    slot: SlotId,
    context: ContextDigest,
    modulus: Modulus,
    roster: &BTreeSet<HospitalId>,
    uploads: &BTreeMap<&HospitalId, &Vec<u8>>,
    answers: &BTreeMap<HospitalId, Answers>,
) -> Result<Vec<u32>, SlotRefused> {
    let recover = |owner: &HospitalId, kind| {
        let shares: Vec<&Share> = answers.values().filter_map(|a| a.get(owner)).collect();
        let holders: Vec<Holder> = shares.iter().map(|share| share.holder()).collect();
        let holders = Recovery::from_holders(&holders)?;
        slots::recover(&federation.batches[owner], slot, kind, &holders, &shares)
    };
    let mut sums = vec![0; LANES];
    let mut masks = Vec::new();
    for (id, packed) in uploads {
        modulus.add_packed(&mut sums, packed).expect("the length is right");
        masks.push(context.self_mask_removed(&recover(id, Kind::Own)?).mask());
    }
    for dropped in roster.iter().filter(|id| !uploads.contains_key(id)) {
        let recovery = recover(dropped, Kind::Recovery)?;
        let seeds = federation.batches[dropped].open_escrow(slot, &recovery)?;
        let hood = federation.graph.neighbourhood(dropped).expect("it is a member");
        let neighbours = hood.neighbours().iter().map(|m| &m.hospital).zip(&seeds);
        let added = neighbours.filter(|(id, _)| uploads.contains_key(id));
        masks.extend(context.pair_masks(dropped, added).map(|pair| pair.mask()));
    }
    Masks::new(modulus, masks).apply(Tiles::new(&mut sums));
    Ok(sums.iter().map(|sum| modulus.unsigned(*sum)).collect())
}

fn again(secret: &SecretScalar) -> SecretScalar {
    let copy = Secret::new(*secret.secret().expose());
    SecretScalar::from_canonical(copy).expect("it was canonical before")
}

/// What a slot consists of at one hospital, for trying more than one course of events with it.
/// A real node does not keep any of this.
struct Tried {
    own: OwnSlot,
    seeds: BTreeMap<HospitalId, PairSeed>,
    held: BTreeMap<HospitalId, HeldShares>,
}

fn try_slot(federation: &mut Federation, slot: SlotId) -> BTreeMap<HospitalId, Tried> {
    let take = |(id, site): (&HospitalId, &mut Site)| {
        let seed = |(other, pair): (&HospitalId, &mut PairKeys)| {
            (other.clone(), pair.chain.take(slot).expect("the slot is ahead"))
        };
        let seeds = site.keys.iter_mut().map(seed).collect();
        let own = site.own.take(slot).expect("the slot was made");
        let others: Vec<HospitalId> = site.keys.keys().cloned().collect();
        let take = |other| site.held.remove_entry(&(other, slot)).map(|((id, _), held)| (id, held));
        let held = others.into_iter().filter_map(take).collect();
        (id.clone(), Tried { own, seeds, held })
    };
    federation.sites.iter_mut().map(take).collect()
}

/// A hospital's answers: shares of b for those in the sum, of r for those who are not.
fn answers(
    tried: &Tried,
    me: &HospitalId,
    roster: &BTreeSet<HospitalId>,
    summed: &BTreeSet<HospitalId>,
) -> Answers {
    let answer = |(owner, held): (&HospitalId, &HeldShares)| {
        let kind = if summed.contains(owner) { Kind::Own } else { Kind::Recovery };
        let copy = HeldShares::resume(held.holder(), &held.secrets());
        (owner.clone(), copy.expect("it was whole before").release(kind))
    };
    let mut answers: Answers =
        tried.held.iter().filter(|(owner, _)| roster.contains(*owner)).map(answer).collect();
    if summed.contains(me) {
        let share = tried.own.share();
        answers.insert(me.clone(), Share::new(share.holder(), again(share.value())));
    }
    answers
}

/// All subsets with at least so many.
fn subsets(of: &BTreeSet<HospitalId>, least: u16) -> Vec<BTreeSet<HospitalId>> {
    let subset = |chosen: u32| {
        let ids = of.iter().enumerate().filter(|(at, _)| chosen >> at & 1 == 1);
        ids.map(|(_, id)| id.clone()).collect::<BTreeSet<_>>()
    };
    let all = (0..1_u32 << of.len()).filter(|chosen| chosen.count_ones() >= least.into());
    all.map(subset).collect()
}

/// Everyone who is never ready, drops before the upload, or drops before the unmasking: all
/// patterns that the thresholds allow, each summing exactly; and with one answer too few, none.
fn every_drop_pattern(n: u16, t: u16, m: u16) {
    let mut federation = federation(n, t, m, 1);
    let tried = try_slot(&mut federation, FIRST);
    let all: BTreeSet<HospitalId> = federation.sites.keys().cloned().collect();
    let shares = federation.thresholds.shares();
    for (number, roster) in subsets(&all, m).into_iter().enumerate() {
        let modulus = Modulus::ALL[number % 3];
        let context = context(&federation, FIRST, &roster).digest();
        let upload = |id: &HospitalId| {
            let (site, tried) = (&federation.sites[id], &tried[id]);
            let own = tried.own.secret();
            upload(&federation, site, context, modulus, &roster, own, &tried.seeds)
        };
        let uploads: BTreeMap<&HospitalId, Vec<u8>> =
            roster.iter().map(|id| (id, upload(id))).collect();
        for summed in subsets(&roster, m) {
            let wanted = sum_of(modulus, &summed);
            let uploads = uploads.iter().filter(|(id, _)| summed.contains(**id));
            let uploads = uploads.map(|(id, packed)| (*id, packed)).collect();
            for responding in subsets(&summed, shares - 1) {
                let answer =
                    |id: &HospitalId| (id.clone(), answers(&tried[id], id, &roster, &summed));
                let answers = responding.iter().map(answer).collect();
                let sum = unmask(&federation, FIRST, context, modulus, &roster, &uploads, &answers);
                if responding.len() < usize::from(shares) {
                    let refused = sum.map_err(|refused| refused.rule());
                    assert_eq!(refused, Err("M-13"), "{n} {roster:?} {summed:?} {responding:?}");
                } else {
                    assert_eq!(
                        sum.as_ref(),
                        Ok(&wanted),
                        "{n} {roster:?} {summed:?} {responding:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn three_to_six_hospitals_sum_exactly_whoever_drops_out() {
    every_drop_pattern(3, 1, 3);
    every_drop_pattern(4, 1, 3);
    every_drop_pattern(5, 1, 4);
    every_drop_pattern(6, 1, 4);
}

#[test]
fn seven_and_eight_hospitals_sum_exactly_whoever_drops_out() {
    every_drop_pattern(7, 2, 5);
    every_drop_pattern(8, 2, 6);
}

#[test]
fn nine_hospitals_sum_exactly_whoever_drops_out() {
    every_drop_pattern(9, 2, 6);
}

#[test]
fn ten_hospitals_sum_exactly_whoever_drops_out() {
    every_drop_pattern(10, 2, 8);
}

/// M-19: a hospital that was shown another model. Nobody drops out, everyone answers, and still
/// neither the sum nor the difference is anything but noise.
#[test]
fn one_hospital_in_another_context_makes_the_sum_garbage() {
    let mut federation = federation(4, 1, 3, 1);
    let tried = try_slot(&mut federation, FIRST);
    let all: BTreeSet<HospitalId> = federation.sites.keys().cloned().collect();
    let honest = context(&federation, FIRST, &all);
    let victim = all.first().expect("there are four").clone();
    let elsewhere = Context { model: Digest::sha256(b"another model"), ..honest.clone() }.digest();
    let honest = honest.digest();
    for modulus in Modulus::ALL {
        let packed = |id: &HospitalId| {
            let (site, tried) = (&federation.sites[id], &tried[id]);
            let context = if *id == victim { elsewhere } else { honest };
            let own = tried.own.secret();
            upload(&federation, site, context, modulus, &all, own, &tried.seeds)
        };
        let uploads: BTreeMap<&HospitalId, Vec<u8>> =
            all.iter().map(|id| (id, packed(id))).collect();
        let uploads = uploads.iter().map(|(id, packed)| (*id, packed)).collect();
        let answer = |id: &HospitalId| (id.clone(), answers(&tried[id], id, &all, &all));
        let answers = all.iter().map(answer).collect();
        let sum = unmask(&federation, FIRST, honest, modulus, &all, &uploads, &answers)
            .expect("every share is right");
        let wanted = sum_of(modulus, &all);
        // What a coordinator would be after: the victim's update, the sum without it known.
        let right = sum.iter().zip(&wanted).filter(|(sum, wanted)| sum == wanted).count();
        assert!(right < 5, "{right} lanes of {LANES} can be read with {modulus:?}");
        // The error is spread over the whole group: each quarter of it gets its quarter.
        let mut quarters = [0; 4];
        for (sum, wanted) in sum.iter().zip(&wanted) {
            let error = modulus.unsigned(sum.wrapping_sub(*wanted));
            quarters[usize::try_from(error >> (modulus.bits() - 2)).expect("two bits")] += 1;
        }
        assert!(quarters.iter().all(|count| (900..1_170).contains(count)), "{quarters:?}");
    }
}

/// M-11, M-16: slot after slot, each taken and forgotten, with a passed-over one in between.
#[test]
fn slots_are_used_one_after_the_other_and_cannot_be_used_again() {
    let mut federation = federation(5, 1, 4, 4);
    let all: BTreeSet<HospitalId> = federation.sites.keys().cloned().collect();
    for number in [1, 2, 4] {
        let slot = SlotId::new(number);
        let context = context(&federation, slot, &all).digest();
        let tried = try_slot(&mut federation, slot);
        let modulus = Modulus::Bits24;
        // The hospital whose turn it is drops out before its upload.
        let turn = usize::try_from(number).expect("small");
        let summed: BTreeSet<HospitalId> = all
            .iter()
            .enumerate()
            .filter(|(at, _)| *at != turn)
            .map(|(_, id)| id.clone())
            .collect();
        let upload = |id: &HospitalId| {
            let (site, tried) = (&federation.sites[id], &tried[id]);
            let own = tried.own.secret();
            upload(&federation, site, context, modulus, &all, own, &tried.seeds)
        };
        let uploads: Vec<(&HospitalId, Vec<u8>)> =
            summed.iter().map(|id| (id, upload(id))).collect();
        let uploads = uploads.iter().map(|(id, packed)| (*id, packed)).collect();
        let answer = |id: &HospitalId| (id.clone(), answers(&tried[id], id, &all, &summed));
        let answers = summed.iter().map(answer).collect();
        let sum = unmask(&federation, slot, context, modulus, &all, &uploads, &answers);
        assert_eq!(sum, Ok(sum_of(modulus, &summed)));
        for site in federation.sites.values_mut() {
            assert_eq!(site.own.take(slot), None);
            assert!(site.keys.values_mut().all(|pair| pair.chain.take(slot).is_err()));
        }
    }
}

/// M-24: above 128 hospitals everyone has neighbours instead of everyone.
#[test]
fn hospitals_on_a_regular_graph_sum_exactly_when_some_drop_out() {
    let mut federation = federation(130, 13, 117, 1);
    let tried = try_slot(&mut federation, FIRST);
    let all: BTreeSet<HospitalId> = federation.sites.keys().cloned().collect();
    let not = |from: &BTreeSet<HospitalId>, every: usize| -> BTreeSet<HospitalId> {
        from.iter()
            .enumerate()
            .filter(|(at, _)| at % every != 5)
            .map(|(_, id)| id.clone())
            .collect()
    };
    // Some are never ready, some ready ones never upload, some uploaders never answer.
    let roster = not(&all, 40);
    let summed = not(&roster, 30);
    let responding = not(&summed, 20);
    assert!(roster.len() < all.len() && summed.len() < roster.len());
    assert!(summed.len() >= 117 && responding.len() < summed.len());
    let modulus = Modulus::Bits24;
    let context = context(&federation, FIRST, &roster).digest();
    let upload = |id: &HospitalId| {
        let (site, tried) = (&federation.sites[id], &tried[id]);
        upload(&federation, site, context, modulus, &roster, tried.own.secret(), &tried.seeds)
    };
    let uploads: Vec<(&HospitalId, Vec<u8>)> = summed.iter().map(|id| (id, upload(id))).collect();
    let uploads = uploads.iter().map(|(id, packed)| (*id, packed)).collect();
    let answer = |id: &HospitalId| (id.clone(), answers(&tried[id], id, &roster, &summed));
    let answers: BTreeMap<HospitalId, Answers> = responding.iter().map(answer).collect();
    let sum = unmask(&federation, FIRST, context, modulus, &roster, &uploads, &answers);
    assert_eq!(sum, Ok(sum_of(modulus, &summed)));
    assert!(federation.graph.threshold() < federation.thresholds.shares());
}
