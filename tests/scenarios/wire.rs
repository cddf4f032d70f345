//! What no honest agent says. Three sites are played by hand, so that every step is ours; after
//! each misdeed the round still closes, with a sum in which every site counts once.

use std::time::Duration;

use aggregation::architecture::model_digest;
use aggregation::ids::Digest;
use aggregation::message::Terms;
use aggregation::study::Study;
use harness::consortium::Consortium;
use harness::manifests::Manifest;
use harness::player::{Player, Upload};
use harness::site::Work;
use harness::stand_in::model_after;
use harness::{Outcome, Trouble};
use proto::federation::{ReadyRequest, UpdatePart, update_part};
use proto::limits::MAX_CHUNK;
use tonic::{Code, Status};

const SITES: usize = 3;

/// A house, a study under way in it, and the three who sit at the table.
struct Table {
    house: Consortium,
    study: Study,
    players: Vec<Player>,
    round: u32,
}

impl Table {
    async fn set(name: &str, rounds: u32) -> Outcome<Self> {
        let mut house = Consortium::found("north")?;
        house.serve()?;
        house.settle(&[Work::StandIn, Work::StandIn, Work::StandIn])?;
        // An update of a few chunks.
        let manifest =
            Manifest { name: name.to_owned(), rounds, quorum: SITES, ..Manifest::linear(400, 500) };
        let study = proto::manifest::parse(&manifest.text())?;
        let digest = house.propose(&manifest)?;
        let mut players = Vec::new();
        for site in &house.sites {
            let mut player = Player::take_seat(&house, site).await?;
            player.approve(&study).await?;
            players.push(player);
        }
        house.operator(["study", "start", &digest]).data()?;
        Ok(Self { house, study, players, round: 0 })
    }

    /// The next round up to the moment when updates are awaited, and the update of the first site.
    async fn deal(&mut self) -> Outcome<(Terms, Vec<u8>)> {
        self.round += 1;
        let mut terms = None;
        for player in &mut self.players {
            terms = Some(player.await_offer(self.round).await?);
        }
        let terms = terms.ok_or_else(|| Trouble::new("nobody sits at the table"))?;
        for player in &mut self.players {
            player.ready(&terms).await.map_err(|status| harness::player::said(&status))?;
        }
        for player in &mut self.players {
            let roster = player.await_roster(&terms).await?;
            assert_eq!(roster.members.len(), SITES);
        }
        let packed = self.players[0].update(&self.study, SITES, terms.work)?;
        Ok((terms, packed))
    }

    fn first(&mut self) -> &mut Player {
        &mut self.players[0]
    }

    /// The first site does `misdeed` and is told `code`; then all three are honest, and the round
    /// is released.
    async fn refused(
        &mut self,
        what: &str,
        code: Code,
        misdeed: impl Fn(&mut Upload),
    ) -> Outcome<()> {
        let (terms, packed) = self.deal().await?;
        let mut upload = Upload::new(&terms, &packed);
        misdeed(&mut upload);
        let refused = self.first().send(upload).await.expect_err(what);
        assert_eq!(refused.code(), code, "{what}: {}", refused.message());
        assert!(!refused.message().is_empty(), "{what}");
        self.honest(&terms).await
    }

    /// Everybody sends what they should, and the round is released.
    async fn honest(&mut self, terms: &Terms) -> Outcome<()> {
        for player in &mut self.players {
            let packed = player.update(&self.study, SITES, terms.work)?;
            let sent = player.send(Upload::new(terms, &packed)).await;
            let receipt = sent.map_err(|status| harness::player::said(&status))?;
            assert_eq!(receipt.digest, Digest::blake3(&packed).as_bytes());
        }
        for player in &mut self.players {
            assert!(player.await_end(terms).await?, "round {} was not released", self.round);
        }
        Ok(())
    }

    /// Every round was released with all three, and the model is what exactly their updates, each
    /// once, add up to.
    fn settle_up(self) -> Outcome<()> {
        let Self { house, study, round, .. } = self;
        let view = house.study(&study.digest().to_string())?;
        let released: Vec<_> = view.released().collect();
        assert_eq!(released.len(), usize::try_from(round)?, "{view:?}");
        for one in &released {
            assert_eq!(one.contributed.len(), SITES, "{one:?}");
        }
        let rounds = released.iter().map(|one| {
            let number = aggregation::ids::RoundId::new(one.round).expect("from 1");
            (study.work_in(number), one.contributed.as_slice())
        });
        let expected = model_digest(&model_after(&study, SITES, rounds)?).to_string();
        assert_eq!(view.model(), Some(expected.as_str()));
        Ok(())
    }
}

#[tokio::test]
async fn an_update_that_is_not_what_the_round_awaits_is_refused_and_the_sum_stays_right()
-> Outcome<()> {
    let mut table = Table::set("lengths", 20).await?;
    let invalid = Code::InvalidArgument;
    table
        .refused("a byte too few, declared", invalid, |upload| {
            upload.header.bytes -= 1;
            upload.parts[0].pop();
        })
        .await?;
    table
        .refused("a byte too many, declared", invalid, |upload| {
            upload.header.bytes += 1;
            upload.parts[0].push(0);
        })
        .await?;
    table
        .refused("a byte fewer than declared", invalid, |upload| {
            upload.parts[0].pop();
        })
        .await?;
    table.refused("a byte more than declared", invalid, |upload| upload.parts[0].push(0)).await?;
    table
        .refused("10^12 bytes declared", invalid, |upload| upload.header.bytes = 1_000_000_000_000)
        .await?;
    table
        .refused("as many bytes as can be declared", invalid, |upload| {
            upload.header.bytes = u64::MAX
        })
        .await?;
    table.refused("nothing at all declared", invalid, |upload| upload.header.bytes = 0).await?;
    table
        .refused("bytes that the digest is not of", invalid, |upload| upload.parts[0][0] ^= 1)
        .await?;
    table
        .refused("a chunk beyond the limit", invalid, |upload| {
            let whole = upload.parts.concat();
            upload.parts = vec![vec![0; MAX_CHUNK + 1]];
            upload.parts[0][..whole.len().min(MAX_CHUNK)]
                .copy_from_slice(&whole[..whole.len().min(MAX_CHUNK)]);
        })
        .await?;
    table
        .refused("a digest of three bytes", invalid, |upload| upload.header.digest.truncate(3))
        .await?;
    table.settle_up()
}

#[tokio::test]
async fn a_header_for_another_place_is_refused_and_the_sum_stays_right() -> Outcome<()> {
    let mut table = Table::set("places", 20).await?;
    let refusals = [Code::InvalidArgument, Code::FailedPrecondition, Code::NotFound];
    type Misdeed = fn(&mut Upload);
    let misdeeds: [(&str, Misdeed); 6] = [
        ("the next round", |upload| upload.header.round += 1),
        ("another slot", |upload| upload.header.slot += 1),
        ("slot 0", |upload| upload.header.slot = 0),
        ("other terms", |upload| upload.header.terms = vec![7; 32]),
        ("a study of strangers", |upload| upload.header.study = vec![7; 32]),
        ("no study", |upload| upload.header.study.clear()),
    ];
    let mut wrong = Vec::new();
    for (what, misdeed) in misdeeds {
        let (terms, packed) = table.deal().await?;
        let mut upload = Upload::new(&terms, &packed);
        misdeed(&mut upload);
        match table.first().send(upload).await {
            Err(refused) if refusals.contains(&refused.code()) => {}
            other => wrong.push((what, other)),
        }
        table.honest(&terms).await?;
    }
    table.settle_up()?;
    assert!(wrong.is_empty(), "{wrong:?}");
    Ok(())
}

#[tokio::test]
async fn the_same_update_twice_counts_once_and_another_one_is_refused() -> Outcome<()> {
    let mut table = Table::set("twice", 20).await?;
    let fail = |status: Status| harness::player::said(&status);

    let (terms, packed) = table.deal().await?;
    let first = table.first().send(Upload::new(&terms, &packed)).await.map_err(fail)?;
    let second = table.first().send(Upload::new(&terms, &packed)).await.map_err(fail)?;
    assert_eq!(first, second);
    table.honest(&terms).await?;

    let (terms, packed) = table.deal().await?;
    table.first().send(Upload::new(&terms, &packed)).await.map_err(fail)?;
    let mut other = packed.clone();
    other[100] ^= 1;
    let refused = table.first().send(Upload::new(&terms, &other)).await.expect_err("another one");
    let codes = [Code::AlreadyExists, Code::FailedPrecondition, Code::InvalidArgument];
    assert!(codes.contains(&refused.code()), "{refused:?}");
    table.honest(&terms).await?;

    // After the round has closed the same is still answered as the first time.
    let again = table.first().send(Upload::new(&terms, &packed)).await.map_err(fail)?;
    assert_eq!(again.digest, Digest::blake3(&packed).as_bytes());
    table.settle_up()
}

#[tokio::test]
async fn an_upload_that_is_cut_off_or_out_of_order_leaves_nothing_behind() -> Outcome<()> {
    let mut table = Table::set("cut", 20).await?;
    let (terms, packed) = table.deal().await?;
    for _ in 0..3 {
        table.first().send_cut_off(Upload::new(&terms, &packed)).await?;
        // The next is to be cut off by us, not refused because this one still seems under way.
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    table.honest(&terms).await?;

    let (terms, packed) = table.deal().await?;
    let data =
        |bytes: &[u8]| UpdatePart { part: Some(update_part::Part::Data(bytes.to_vec().into())) };
    let header =
        UpdatePart { part: Some(update_part::Part::Header(Upload::new(&terms, &packed).header)) };
    for (what, parts) in [
        ("nothing", vec![]),
        ("an empty part", vec![UpdatePart { part: None }]),
        ("data before the header", vec![data(&packed[..1000]), header.clone()]),
        ("two headers", vec![header.clone(), header.clone()]),
        ("a header alone", vec![header.clone()]),
        ("an end after a half", vec![header.clone(), data(&packed[..packed.len() / 2])]),
    ] {
        let refused = table.first().send_messages(parts).await.expect_err(what);
        assert_eq!(refused.code(), Code::InvalidArgument, "{what}: {}", refused.message());
    }
    table.honest(&terms).await?;
    table.settle_up()
}

#[tokio::test]
async fn a_message_larger_than_any_may_be_is_refused_without_being_held() -> Outcome<()> {
    let mut table = Table::set("large", 20).await?;
    let (terms, packed) = table.deal().await?;
    let before = harness::proc::peak_mib(table.house.server()?.pid())?;
    let header = Upload::new(&terms, &packed).header;
    for _ in 0..4 {
        let upload = Upload { header: header.clone(), parts: vec![vec![0; 48 << 20]] };
        let refused = table.first().send(upload).await.expect_err("48 MiB in one message");
        let codes =
            [Code::OutOfRange, Code::ResourceExhausted, Code::InvalidArgument, Code::Unknown];
        assert!(codes.contains(&refused.code()), "{refused:?}");
    }
    let after = harness::proc::peak_mib(table.house.server()?.pid())?;
    assert!(after < before + 40.0, "the peak went from {before} to {after} MiB");
    table.honest(&terms).await?;
    table.settle_up()
}

#[tokio::test]
async fn ready_for_other_terms_is_refused_and_an_upload_before_the_roster_too() -> Outcome<()> {
    let mut table = Table::set("early", 20).await?;
    table.round += 1;
    let mut terms = None;
    for player in &mut table.players {
        terms = Some(player.await_offer(1).await?);
    }
    let terms = terms.ok_or_else(|| Trouble::new("nobody sits at the table"))?;
    let packed = table.players[0].update(&table.study, SITES, terms.work)?;
    let early = table.first().send(Upload::new(&terms, &packed)).await.expect_err("too early");
    assert_eq!(early.code(), Code::FailedPrecondition, "{}", early.message());
    let request = ReadyRequest {
        study: terms.study.digest().as_bytes().to_vec(),
        round: terms.round.get(),
        slot: terms.slot.get(),
        terms: vec![9; 32],
    };
    let other = table.first().send_ready(request.clone()).await.expect_err("other terms");
    assert_eq!(other.code(), Code::FailedPrecondition, "{}", other.message());
    let short = ReadyRequest { terms: vec![9; 31], ..request };
    let short = table.first().send_ready(short).await.expect_err("no digest");
    assert_eq!(short.code(), Code::InvalidArgument, "{}", short.message());
    for player in &mut table.players {
        player.ready(&terms).await.map_err(|status| harness::player::said(&status))?;
        // Said twice is answered as the first time.
        player.ready(&terms).await.map_err(|status| harness::player::said(&status))?;
    }
    for player in &mut table.players {
        player.await_roster(&terms).await?;
    }
    let model = table.first().fetch(&terms).await?;
    assert_eq!(model.len(), table.study.layout().parameters());
    table.honest(&terms).await?;
    table.settle_up()
}
