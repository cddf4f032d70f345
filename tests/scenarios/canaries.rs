//! What the coordinator must never hold. Four hospitals are played with the real keyring and
//! participant, so that the story knows every secret of theirs; one vanishes in the middle of its
//! upload, and a round later between its upload and its signature. After each step the coordinator's
//! whole disk and the memory of its process are searched: neither may hold a secret that it is not
//! due, though it is told shares, opens an escrow and takes masks away. Every message that it was
//! sent or has sent was in that memory.

use std::collections::BTreeMap;

use aggregation::ids::{HospitalId, SlotId};
use aggregation::masking::sharing::{SecretScalar, Share, recover};
use aggregation::message::Work as Task;
use aggregation::secret::Secret;
use harness::canaries::Canaries;
use harness::consortium::Consortium;
use harness::manifests::Manifest;
use harness::patience::{STEP, pass};
use harness::player::{Masked, SlotSecrets};
use harness::site::Work;
use harness::{Outcome, Trouble, stand_in};
use tokio::task::JoinSet;

const SITES: usize = 4;
/// Signatures and shares that it takes among four of whom one may collude.
const ENOUGH: usize = 3;
/// Slots whose secrets are known to the story; two of them are used.
const SLOTS: u64 = 4;

type Secrets = BTreeMap<HospitalId, SlotSecrets>;

/// What the shares give that were sealed for the others: a site's recovery secret.
fn recovery_secret(of: &HospitalId, slot: &Secrets) -> Outcome<[u8; 32]> {
    let mut shares = Vec::new();
    for secrets in slot.values() {
        if let Some((_, recovery)) = secrets.held.get(of) {
            let value = SecretScalar::from_canonical(Secret::new(*recovery));
            let value = value.ok_or_else(|| Trouble::new("expected a canonical scalar"))?;
            shares.push(Share::new(secrets.holder, value));
        }
    }
    let enough: Vec<&Share> = shares.iter().take(ENOUGH).collect();
    Ok(*recover(&enough)?.secret().expose())
}

/// Sorts the secrets of a slot in which these are in the sum and that one is not: what the
/// coordinator must never hold, and what it comes to hold rightly.
fn sort(
    number: u64,
    slot: &Secrets,
    summed: &[&HospitalId],
    silent: &[&HospitalId],
    never: &mut Canaries,
    due: &mut Canaries,
) -> Outcome<()> {
    let of_slot = |what: String| format!("slot {number}: {what}");
    for (me, secrets) in slot {
        let used = !summed.is_empty();
        let mine = if summed.contains(&me) { &mut *due } else { &mut *never };
        mine.add(&of_slot(format!("the self secret of {me}")), &secrets.own)?;
        let gives = !silent.contains(&me);
        let mine = if summed.contains(&me) && gives { &mut *due } else { &mut *never };
        mine.add(&of_slot(format!("{me}'s share of its own self secret")), &secrets.own_share)?;
        let lost = used && !summed.contains(&me);
        let mine = if lost { &mut *due } else { &mut *never };
        mine.add(&of_slot(format!("the recovery secret of {me}")), &recovery_secret(me, slot)?)?;
        for (of, (own, recovery)) in &secrets.held {
            let in_sum = summed.contains(&of);
            let mine = if in_sum && gives { &mut *due } else { &mut *never };
            mine.add(&of_slot(format!("{me}'s share of the self secret of {of}")), own)?;
            let mine = if used && !in_sum && gives { &mut *due } else { &mut *never };
            mine.add(&of_slot(format!("{me}'s share of the recovery secret of {of}")), recovery)?;
        }
        for (near, seed) in &secrets.pairs {
            let opened = used && (!summed.contains(&me) || !summed.contains(&near));
            let mine = if opened { &mut *due } else { &mut *never };
            mine.add(&of_slot(format!("the seed between {me} and {near}")), seed)?;
        }
    }
    Ok(())
}

/// The coordinator, and what is looked for in it.
struct Search {
    house: Consortium,
    never: Canaries,
    due: Canaries,
    rightly: Vec<String>,
}

/// Where one of these is found in what the coordinator holds.
fn everywhere(house: &mut Consortium, canaries: &Canaries) -> Outcome<Vec<String>> {
    let pid = house.server()?.pid();
    let mut found = canaries.on_disk(&house.home())?;
    found.extend(canaries.in_memory(pid)?);
    Ok(found)
}

impl Search {
    fn look(&mut self, when: &str) -> Outcome<()> {
        let found = everywhere(&mut self.house, &self.never)?;
        if !found.is_empty() {
            return Err(Trouble::new(format!("{when}, the coordinator holds {found:#?}")));
        }
        self.rightly.extend(everywhere(&mut self.house, &self.due)?);
        Ok(())
    }
}

#[tokio::test]
async fn no_secret_that_it_is_not_due_is_in_the_coordinators_memory_or_on_its_disk() -> Outcome<()>
{
    let mut house = Consortium::found("north")?;
    house.log("trace");
    house.serve()?;
    house.settle(&vec![Work::StandIn; SITES])?;
    let manifest = Manifest {
        rounds: 5,
        every: 6,
        quorum: 3,
        masked: true,
        grace: "0s".to_owned(),
        ..Manifest::linear(200, 200)
    };
    let study = proto::manifest::parse(&manifest.text())?;
    let digest = house.propose(&manifest)?;
    let mut sites = Vec::new();
    for site in &house.sites {
        let mut seat = Masked::take_seat(&house, site, &study).await?;
        seat.approve().await?;
        sites.push(seat);
    }
    house.operator(["study", "start", &digest]).data()?;
    // Each needs the others for it.
    let mut setting_up = JoinSet::new();
    for mut site in sites {
        setting_up.spawn(async move { site.set_up().await.map(|()| site) });
    }
    let mut sites = Vec::new();
    while let Some(ended) = setting_up.join_next().await {
        sites.push(ended??);
    }
    sites.sort_by(|a, b| a.name().cmp(b.name()));
    let names: Vec<HospitalId> = sites.iter().map(|site| site.name().clone()).collect();
    let all: Vec<&HospitalId> = names.iter().collect();
    let (fourth, first_three) = all.split_last().ok_or_else(|| Trouble::new("four sites"))?;

    let (mut never, mut due) = (Canaries::default(), Canaries::default());
    for site in &sites {
        for (name, secret) in site.lasting_secrets() {
            never.add(&name, &secret)?;
        }
        let update = stand_in::update(&study, SITES, Task::Train, site.name().as_str())?.packed;
        let piece = update.get(9_000..9_048).unwrap_or_default();
        never.add(&format!("the update of {}", site.name()), piece)?;
    }
    for slot in 1..=SLOTS {
        let secrets = sites
            .iter()
            .map(|site| Ok((site.name().clone(), site.slot_secrets(SlotId::new(slot))?)));
        let secrets: Secrets = secrets.collect::<Outcome<_>>()?;
        match slot {
            1 => sort(slot, &secrets, first_three, &[fourth], &mut never, &mut due)?,
            2 => sort(slot, &secrets, &all, &[fourth], &mut never, &mut due)?,
            _ => sort(slot, &secrets, &[], &[], &mut never, &mut due)?,
        }
    }
    assert!(never.len() > 500 && due.len() > 100, "{} {}", never.len(), due.len());
    let mut search = Search { house, never, due, rightly: Vec::new() };
    search.look("after the setup")?;

    // In the first round the fourth vanishes in the middle of its upload, in the second when it is
    // to sign.
    for round in 1..=2 {
        for site in &mut sites {
            site.ready(round).await?;
        }
        search.look("when the roster is frozen")?;
        let mut staged = Canaries::default();
        for (number, site) in sites.iter_mut().enumerate().rev() {
            let mut upload = site.mask().await?;
            if round == 1 && number == SITES - 1 {
                upload.parts = upload.parts.concat().chunks(20_000).map(<[u8]>::to_vec).collect();
                site.send_cut_off(upload).await?;
                site.vanish();
                continue;
            }
            let piece = upload.parts.first().and_then(|part| part.get(9_000..9_048));
            staged.add(&format!("what {} sent", site.name()), piece.unwrap_or_default())?;
            site.send(upload).await?;
            if number == 1 {
                // Masked it is held, in memory or on the disk: the search sees what there is.
                let found = everywhere(&mut search.house, &staged)?;
                assert!(!found.is_empty(), "an upload that was just received is nowhere");
            }
            search.look("while updates arrive")?;
        }
        let (last, others) = sites.split_last_mut().ok_or_else(|| Trouble::new("four sites"))?;
        last.vanish();
        for site in &mut *others {
            site.sign().await?;
            search.look("while signatures arrive")?;
        }
        // Not for this round, but for the next.
        last.come_back().await?;
        for site in &mut *others {
            site.unmask().await?;
            search.look("while shares arrive")?;
        }
        for site in &mut *others {
            assert!(site.end().await?, "round {round} was not released");
        }
        search.look("when the sum is released")?;
    }
    let view = search.house.study(&digest)?;
    let summed: Vec<_> = view.released().map(|round| round.contributed.len()).collect();
    assert_eq!(summed, [3, 4], "{view:?}");
    pass(STEP / 100);
    search.look("a while later")?;
    // It was told what it was due, and the search has seen it: it would have seen the rest.
    let seen = |what: &str| search.rightly.iter().any(|found| found.starts_with(what));
    assert!(seen("slot 1: site-1's share of the self secret of site-2"), "{:?}", search.rightly);
    assert!(
        seen("slot 1: site-1's share of the recovery secret of site-4"),
        "{:?}",
        search.rightly
    );
    Ok(())
}
