//! Masked rounds in which somebody does what the rules forbid: refused by the rule's number, with
//! nothing changed; and the round goes on without the offender where it can.

mod federation;

use std::collections::BTreeMap;
use std::sync::Arc;

use aggregation::ids::{Digest, HospitalId, SlotId};
use aggregation::keys::identity::{Identity, Signature};
use aggregation::masking::sharing::{Holder, SecretScalar, Share};
use aggregation::message::{
    Abandoned, FinalSet, Outcome, Roster, Said, SetStatement, Shares, SignedSet, StopReason,
};
use aggregation::participant::{Action, Event, Participant};
use aggregation::round::{Fact, Input, Output};
use aggregation::secret::Secret;
use federation::{Federation, Play, again, federation, seed, site};

const fn always(_: usize, _: &Said) -> bool {
    true
}

/// Five hospitals, of which four have to sign and to answer; in this phase.
fn at_phase(phase: &str) -> (Federation, Play) {
    let mut federation = federation(5, 1, 4);
    let mut play = federation.open(1);
    federation.until(&mut play, phase, always);
    assert_eq!(play.round.phase(), phase);
    (federation, play)
}

fn next_from(play: &mut Play, index: usize) -> Said {
    let at = play.pending.iter().position(|(from, _)| *from == site(index)).expect("it spoke");
    play.pending.remove(at).expect("it is there").1
}

fn rule(refused: Result<Vec<Output>, aggregation::refusal::Refusal>) -> Option<&'static str> {
    refused.err().map(|refusal| refusal.rule())
}

const fn signature_of(said: &Said) -> Option<Signature<SetStatement>> {
    match said {
        Said::Signed { signature, .. } => Some(*signature),
        Said::Ready { .. } | Said::Declined { .. } | Said::Update { .. } | Said::Unmask { .. } => {
            None
        }
    }
}

fn shares_of(said: &Said) -> Option<(Digest, Arc<Shares>)> {
    match said {
        Said::Unmask { terms, shares } => Some((*terms, Arc::clone(shares))),
        Said::Ready { .. } | Said::Declined { .. } | Said::Update { .. } | Said::Signed { .. } => {
            None
        }
    }
}

fn signed(play: &Play, signature: Signature<SetStatement>) -> Said {
    Said::Signed { terms: play.terms.digest(), signature }
}

/// Breaks R-22 at the coordinator: strangers, forgeries, second words, and what is of another set.
#[test]
fn a_signature_counts_once_from_its_owner_for_this_set() {
    let (federation, mut play) = at_phase("sign");
    let good = next_from(&mut play, 0);
    let signature = signature_of(&good).expect("it signs first");
    let forged = signed(&play, Signature::new([7; 64]));
    assert_eq!(rule(play.hear(site(1), forged)), Some("R-22"));
    let anothers = signed(&play, signature);
    assert_eq!(rule(play.hear(site(1), anothers)), Some("R-22"));
    assert_eq!(rule(play.hear(site(9), good.clone())), Some("R-05"));
    let elsewhere = Said::Signed { terms: Digest::sha256(b"other"), signature };
    assert_eq!(rule(play.hear(site(0), elsewhere)), Some("R-02"));
    let fewer = SetStatement {
        context: context_of(&federation, &play),
        members: (0..4).map(site).collect(),
    };
    let other_set = signed(&play, federation.sites[0].identity.sign(&fewer));
    assert_eq!(rule(play.hear(site(0), other_set.clone())), Some("R-22"));
    play.hear(site(0), good.clone()).expect("its own, for this set");
    assert_eq!(play.hear(site(0), good), Ok(vec![]), "said twice, answered as the first time");
    assert_eq!(rule(play.hear(site(0), other_set)), Some("R-07"));
    let shares = Said::Unmask { terms: play.terms.digest(), shares: Arc::default() };
    assert_eq!(rule(play.hear(site(0), shares)), Some("R-08"), "shares before the signatures");
}

fn context_of(federation: &Federation, play: &Play) -> aggregation::context::ContextDigest {
    let format = play.charter.format(play.terms.work).expect("a format");
    let members = play.round.roster().expect("frozen").members;
    let provision = &federation.sites[0].provision;
    provision.context(&play.terms, &members, &format).expect("all on the roll")
}

/// Breaks once the final set is fixed: a late update is never added.
#[test]
fn after_the_final_set_no_update_is_added_and_old_words_are_answered() {
    let mut federation = federation(5, 1, 4);
    let mut play = federation.open(1);
    let slow = |index: usize, said: &Said| index != 4 || matches!(said, Said::Ready { .. });
    federation.until(&mut play, "closed", slow);
    let outputs = play.deadline();
    assert_eq!(play.round.phase(), "sign");
    assert_eq!(play.round.final_set().map(|set| set.members.len()), Some(4));
    let packed = federation.sites[4].packed.clone();
    let terms = play.terms.digest();
    let late = Said::Update { terms, digest: Digest::blake3(&packed), packed };
    assert_eq!(rule(play.hear(site(4), late.clone())), Some("R-15"));
    assert_eq!(rule(Err(play.round.expects_update(&site(4)).expect_err("late"))), Some("R-15"));
    assert_eq!(play.hear(site(4), Said::Ready { terms }), Ok(vec![]));
    let packed = federation.sites[0].packed.clone();
    let same = Said::Update { terms, digest: Digest::blake3(&packed), packed };
    assert_eq!(play.hear(site(0), same), Ok(vec![]));
    federation.tell(&mut play, &outputs, slow);
    federation.until(&mut play, "closed", slow);
    assert_eq!(play.outcome(), Some(&Outcome::Released));
    assert_eq!(rule(play.hear(site(4), late)), Some("R-15"));
    assert_eq!(play.release().map(|release| release.contributed.len()), Some(4));
}

fn copy(share: &Share) -> Share {
    Share::new(share.holder(), again(share.value()))
}

fn copy_of(shares: &Shares) -> Shares {
    let all = |of: &BTreeMap<HospitalId, Share>| -> BTreeMap<HospitalId, Share> {
        of.iter().map(|(id, share)| (id.clone(), copy(share))).collect()
    };
    Shares { own: all(&shares.own), recovery: all(&shares.recovery) }
}

/// Breaks R-23: shares of others, of the other kind, or under another number.
#[test]
fn shares_are_of_exactly_those_that_were_asked_for() {
    let (_, mut play) = at_phase("unmask");
    let good = next_from(&mut play, 2);
    let (terms, shares) = shares_of(&good).expect("it answers");
    type Spoil = fn(&mut Shares);
    let spoils: [Spoil; 4] = [
        |s| drop(s.own.pop_first()),
        |s| {
            let (id, share) = s.own.pop_first().expect("five");
            s.recovery.insert(id, share);
        },
        |s| {
            let share = copy(s.own.values().next().expect("five"));
            s.own.insert(site(9), share);
        },
        |s| {
            for share in s.own.values_mut() {
                let holder = Holder::new(1).expect("not 0");
                *share = Share::new(holder, again(share.value()));
            }
        },
    ];
    for spoil in spoils {
        let mut spoiled = copy_of(&shares);
        spoil(&mut spoiled);
        let said = Said::Unmask { terms, shares: Arc::new(spoiled) };
        assert_eq!(rule(play.hear(site(2), said)), Some("R-23"));
    }
    assert_eq!(rule(play.hear(site(9), good.clone())), Some("R-05"));
    play.hear(site(2), good.clone()).expect("as asked");
    assert_eq!(play.hear(site(2), good), Ok(vec![]), "said twice, answered as the first time");
    let mut other = copy_of(&shares);
    let wrong = SecretScalar::from_wide(&Secret::new([9; 64]));
    let holder = other.own.values().next().expect("five").holder();
    other.own.insert(site(0), Share::new(holder, wrong));
    let said = Said::Unmask { terms, shares: Arc::new(other) };
    assert_eq!(rule(play.hear(site(2), said)), Some("R-07"));
}

/// Breaks R-23 and M-13: one wrong share costs nothing but its giver's name, with one answer more
/// than it takes; two of them end the round, with the reason.
#[test]
fn a_wrong_share_is_found_and_named() {
    for liars in 1..=2 {
        let (mut federation, mut play) = at_phase("unmask");
        let mut answers: Vec<(HospitalId, Said)> = play.pending.drain(..).collect();
        answers.retain(|(_, said)| matches!(said, Said::Unmask { .. }));
        assert_eq!(answers.len(), 5);
        for (index, (from, said)) in answers.into_iter().enumerate() {
            let (terms, shares) = shares_of(&said).expect("they answer");
            let mut shares = copy_of(&shares);
            if index < liars {
                let of = shares.own.get_mut(&site(3)).expect("it is in the sum");
                *of = Share::new(of.holder(), SecretScalar::from_wide(&Secret::new([9; 64])));
            }
            let said = Said::Unmask { terms, shares: Arc::new(shares) };
            let outputs = play.hear(from, said).expect("well-formed");
            federation.tell(&mut play, &outputs, always);
        }
        if liars == 1 {
            assert_eq!(play.outcome(), Some(&Outcome::Released));
            let named = Fact::WrongShare { hospital: site(0), of: site(3) };
            assert!(play.facts().any(|fact| *fact == named));
        } else {
            let why = Abandoned::Unrecoverable { hospital: site(3) };
            assert_eq!(play.outcome(), Some(&Outcome::Abandoned(why)));
            assert!(play.release().is_none());
        }
    }
}

#[test]
fn a_stopped_round_or_a_deadline_in_any_phase_ends_it_and_says_why() {
    for phase in ["sign", "unmask"] {
        let (_, mut play) = at_phase(phase);
        assert_eq!(play.round.handle(play.now, Input::Deadline), Ok(vec![]), "too early");
        let stop = Input::Stop { reason: StopReason::Paused };
        let mut stopped = play.round.clone();
        stopped.handle(play.now, stop).expect("never refused");
        let outcome = stopped.closed().map(|closed| closed.outcome.clone());
        let why = Abandoned::Stopped(StopReason::Paused);
        assert_eq!(outcome, Some(Outcome::Abandoned(why)));
        // A restart: everyone is told again, and has the time again.
        let later = play.now.saturating_add(std::time::Duration::from_secs(500));
        let told = play.round.handle(later, Input::Resumed).expect("never refused");
        assert_eq!(told.len(), 2);
        assert_eq!(play.round.handle(later, Input::Deadline), Ok(vec![]), "the time starts again");
        play.now = later;
        play.deadline();
        assert!(matches!(play.outcome(), Some(Outcome::Abandoned(_))));
    }
}

/// One hospital in a round that the others, and the coordinator, play as the test likes.
fn hospital_at(phase: &str) -> (Federation, Play, Participant) {
    let (federation, play) = at_phase(phase);
    let me = federation.sites[0].participant.clone();
    (federation, play, me)
}

fn set_of(play: &Play, members: impl IntoIterator<Item = usize>) -> FinalSet {
    FinalSet {
        study: play.terms.study,
        round: play.terms.round,
        slot: play.terms.slot,
        terms: play.terms.digest(),
        members: members.into_iter().map(site).collect(),
    }
}

fn refused(me: &mut Participant, event: Event) -> Option<&'static str> {
    let before = format!("{me:?}");
    let rule = me.handle(event).err().map(|refusal| refusal.rule());
    if rule.is_some() {
        assert_eq!(before, format!("{me:?}"), "a refusal changed something");
    }
    rule
}

/// Breaks at the hospital: no signature for a set that cannot be.
#[test]
fn a_hospital_signs_no_set_but_one_of_its_roster_that_is_large_enough() {
    let (_, play, mut me) = hospital_at("mask");
    assert_eq!(refused(&mut me, Event::Fixed(set_of(&play, [0, 1, 2]))), Some("R-13"));
    assert_eq!(refused(&mut me, Event::Fixed(set_of(&play, [0, 1, 2, 9]))), Some("R-21"));
    let mut other = set_of(&play, 0..5);
    other.terms = Digest::sha256(b"other");
    assert_eq!(refused(&mut me, Event::Fixed(other)), Some("R-02"));
    let mut past = set_of(&play, 0..5);
    past.slot = SlotId::new(77);
    assert_eq!(me.handle(Event::Fixed(past)), Ok(vec![]), "of another slot");
    let actions = me.handle(Event::Fixed(set_of(&play, 0..5))).expect("its roster");
    assert!(matches!(actions.as_slice(), [Action::Sign { .. }]));
    // Breaks R-21: a second set, even a good one.
    assert_eq!(refused(&mut me, Event::Fixed(set_of(&play, 0..4))), Some("R-07"));
    let again = me.handle(Event::Fixed(set_of(&play, 0..5))).expect("the same");
    assert_eq!(again, actions, "the same set again asks for the same signature");
}

#[test]
fn a_hospital_that_is_not_in_the_set_signs_nothing_and_still_helps() {
    let (mut federation, mut play) = {
        let mut federation = federation(5, 1, 4);
        let mut play = federation.open(1);
        let lost = |index: usize, said: &Said| index != 0 || matches!(said, Said::Ready { .. });
        federation.until(&mut play, "closed", lost);
        let outputs = play.deadline();
        federation.tell(&mut play, &outputs, always);
        (federation, play)
    };
    assert!(!play.pending.iter().any(|(from, _)| *from == site(0)), "it was not counted");
    federation.until(&mut play, "unmask", always);
    let answered = play.pending.iter().any(|(from, said)| {
        *from == site(0)
            && matches!(said, Said::Unmask { shares, .. } if shares.recovery.is_empty())
    });
    assert!(answered, "it gives shares of the others, and none that opens its own update");
    federation.until(&mut play, "closed", always);
    assert_eq!(play.outcome(), Some(&Outcome::Released));
}

fn signed_by(federation: &Federation, play: &Play, set: FinalSet, signers: &[usize]) -> SignedSet {
    let context = context_of(federation, play);
    let statement = SetStatement { context, members: set.members.clone() };
    let sign = |i: &usize| (site(*i), federation.sites[*i].identity.sign(&statement));
    SignedSet { set, signatures: signers.iter().map(sign).collect() }
}

/// Breaks R-22 at the hospital: no share without T signatures of members under their identities,
/// for exactly the set that it signed.
#[test]
fn a_hospital_gives_no_share_without_enough_signatures_of_its_set() {
    let (federation, play, mut me) = hospital_at("sign");
    let all = set_of(&play, 0..5);
    let three = signed_by(&federation, &play, all.clone(), &[0, 1, 2]);
    assert_eq!(refused(&mut me, Event::Unmask(three.clone())), Some("R-22"));
    let mut forged = three.clone();
    let stranger = Identity::from_seed(&seed("stranger")).expect("a seed");
    let statement =
        SetStatement { context: context_of(&federation, &play), members: all.members.clone() };
    forged.signatures.insert(site(3), stranger.sign(&statement));
    forged.signatures.insert(site(9), stranger.sign(&statement));
    assert_eq!(refused(&mut me, Event::Unmask(forged)), Some("R-22"));
    // The signatures of another set do not carry over, nor is another set taken.
    let fewer = signed_by(&federation, &play, set_of(&play, 0..4), &[0, 1, 2, 3]);
    let moved = SignedSet { set: all.clone(), signatures: fewer.signatures.clone() };
    assert_eq!(refused(&mut me, Event::Unmask(moved)), Some("R-22"));
    assert_eq!(refused(&mut me, Event::Unmask(fewer)), Some("R-07"));
    let good = signed_by(&federation, &play, all, &[0, 1, 2, 4]);
    let actions = me.handle(Event::Unmask(good.clone())).expect("enough");
    let (own, recovery) = actions.iter().find_map(Action::shares).expect("it gives shares");
    assert_eq!((own.len(), recovery.len()), (5, 0));
    assert_eq!(me.handle(Event::Unmask(good)), Ok(actions), "asked again, the same again");
    // Breaks M-15: both kinds, by way of a second signed set.
    let other = signed_by(&federation, &play, set_of(&play, [0, 1, 2, 4]), &[0, 1, 2, 4]);
    assert_eq!(refused(&mut me, Event::Unmask(other)), Some("R-07"));
}

/// Breaks R-24: a hospital without its keys declines; with them it sends nothing unmasked.
#[test]
fn nothing_is_sent_unmasked_by_omission() {
    let federation = federation(3, 1, 3);
    let play = federation.open(1);
    let mut keyless = Participant::new(site(0), federation.charter.clone());
    let actions = keyless.handle(Event::Offered(play.terms.clone())).expect("an offer");
    assert!(matches!(actions.as_slice(), [Action::Decline { .. }]), "{actions:?}");
    assert!(federation.charter.plan(play.terms.work, None).is_err());
    let mut me = federation.sites[0].participant.clone();
    let offered = me.handle(Event::Offered(play.terms.clone())).expect("an offer");
    assert!(matches!(offered.as_slice(), [Action::Train(_)]));
    let bytes = federation.charter.format(play.terms.work).expect("a format").packed_bytes();
    let slot = play.terms.slot;
    me.handle(Event::Trained { slot, digest: Digest::blake3(b"u"), bytes }).expect("own work");
    let roster = Roster {
        study: play.terms.study,
        round: play.terms.round,
        slot,
        terms: play.terms.digest(),
        members: play.terms.invited.clone(),
        upload_by: play.terms.ready_by,
    };
    let actions = me.handle(Event::Frozen(roster)).expect("its roster");
    assert!(matches!(actions.as_slice(), [Action::Mask { .. }]), "{actions:?}");
    // A set that names this site before it has sent anything is a lie.
    assert_eq!(refused(&mut me, Event::Fixed(set_of(&play, 0..3))), Some("R-21"));
    let digest = Digest::blake3(b"masked");
    assert_eq!(refused(&mut me, Event::Masked { slot, digest, bytes: bytes + 1 }), Some("R-07"));
    let actions = me.handle(Event::Masked { slot, digest, bytes }).expect("masked");
    assert!(matches!(actions.as_slice(), [Action::Upload { .. }]));
    let other = Event::Masked { slot, digest: Digest::blake3(b"again"), bytes };
    assert_eq!(refused(&mut me, other), Some("R-07"), "one slot, one masked update");
}
