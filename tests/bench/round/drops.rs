//! Hospitals that vanish in every round: ready, named in the roster, and gone in the middle of
//! their upload, so that the others' shares have to make up for their masks. They are back for the
//! next round.

use aggregation::ids::SlotId;
use aggregation::study::Study;
use harness::consortium::Consortium;
use harness::player::{Masked, said};
use harness::{Outcome, Trouble};
use proto::channel::{Target, connect};
use proto::decode;
use proto::federation::operator_client::OperatorClient;
use proto::federation::{StudyEvent, StudyRequest, notice, study_event};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The hospitals, each played by this process.
#[derive(Debug)]
pub(super) struct Drops {
    runtime: Runtime,
    seated: Vec<Masked>,
    playing: Vec<JoinHandle<Trouble>>,
}

impl Drops {
    /// Takes the seats of the last so many sites, and approves the study for them.
    pub(super) fn seat(consortium: &Consortium, count: usize, study: &Study) -> Outcome<Self> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let mut seated = Vec::new();
        for site in consortium.sites.iter().rev().take(count) {
            let site = runtime.block_on(async {
                let mut site = Masked::take_seat(consortium, site, study).await?;
                site.approve().await.map(|()| site)
            })?;
            seated.push(site);
        }
        Ok(Self { runtime, seated, playing: Vec::new() })
    }

    /// From now on they set up their keys, and vanish round after round.
    pub(super) fn begin(&mut self, consortium: &Consortium, study: &str) -> Outcome<()> {
        let (tell, over) = watch::channel(0);
        let operator = consortium.target(Some(consortium.operator_identity()?))?;
        let watching = self.runtime.spawn(follow(operator, study.to_owned(), tell));
        self.playing.push(watching);
        for site in self.seated.drain(..) {
            self.playing.push(self.runtime.spawn(vanish_again_and_again(site, over.clone())));
        }
        Ok(())
    }

    /// Whether they still play.
    pub(super) fn check(&mut self) -> Outcome<()> {
        match self.playing.iter().position(JoinHandle::is_finished) {
            Some(ended) => Err(self.runtime.block_on(self.playing.swap_remove(ended))?),
            None => Ok(()),
        }
    }
}

impl Drop for Drops {
    fn drop(&mut self) {
        for task in &self.playing {
            task.abort();
        }
    }
}

/// Tells for which round no update is awaited any more. Ends when it cannot.
async fn follow(operator: Target, study: String, tell: watch::Sender<u32>) -> Trouble {
    match follow_to_the_end(operator, study, &tell).await {
        // The study is over, and nobody waits for a word any more.
        Ok(()) => std::future::pending().await,
        Err(trouble) => trouble,
    }
}

async fn follow_to_the_end(
    operator: Target,
    study: String,
    tell: &watch::Sender<u32>,
) -> Outcome<()> {
    let mut operator = OperatorClient::new(connect(&operator).await?);
    let events = operator.watch_study(StudyRequest { study }).await;
    let mut events = events.map_err(|status| said(&status))?.into_inner();
    while let Some(StudyEvent { event }) = events.message().await.map_err(|status| said(&status))? {
        match event {
            Some(study_event::Event::Signed(signed)) => {
                tell.send_replace(signed.round);
            }
            Some(study_event::Event::Closed(closed)) => {
                tell.send_replace(closed.round);
            }
            Some(
                study_event::Event::Snapshot(_)
                | study_event::Event::Started(_)
                | study_event::Event::Progress(_)
                | study_event::Event::Ready(_)
                | study_event::Event::Uploaded(_)
                | study_event::Event::Unmasked(_),
            )
            | None => {}
        }
    }
    Ok(())
}

async fn vanish_again_and_again(mut site: Masked, mut over: watch::Receiver<u32>) -> Trouble {
    let mut last = None;
    loop {
        if let Err(trouble) = one_notice(&mut site, &mut last, &mut over).await {
            return Trouble::new(format!("{}, who vanishes: {trouble}", site.name()));
        }
    }
}

/// Trains for an offer, vanishes after a roster.
async fn one_notice(
    site: &mut Masked,
    last: &mut Option<SlotId>,
    over: &mut watch::Receiver<u32>,
) -> Outcome<()> {
    match site.next_notice().await? {
        // What is still open when it comes back, it has had its part in.
        notice::Notice::Offer(offer) => {
            let terms = decode::terms(&offer)?;
            if last.is_none_or(|last| last < terms.slot) {
                *last = Some(terms.slot);
                site.ready_for(terms).await?;
            }
        }
        notice::Notice::Roster(roster) => {
            let roster = decode::roster(&roster)?;
            let round = roster.round.get();
            if *last == Some(roster.slot) && *over.borrow() < round {
                let upload = site.mask_for(roster)?;
                site.send_cut_off(upload).await?;
                site.vanish();
                over.wait_for(|over| *over >= round).await?;
                site.come_back().await?;
            }
        }
        notice::Notice::Hello(_)
        | notice::Notice::Study(_)
        | notice::Notice::FinalSet(_)
        | notice::Notice::SignedSet(_)
        | notice::Notice::Keys(_)
        | notice::Notice::Log(_)
        | notice::Notice::Closed(_) => {}
    }
    Ok(())
}
