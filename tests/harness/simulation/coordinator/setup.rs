//! The setup of the keys at an honest coordinator: what holds is kept and passed on.

use std::sync::Arc;

use aggregation::ids::HospitalId;
use aggregation::setup::SetupRefused;

use crate::simulation::coordinator::Coordinator;
use crate::simulation::coordinator::books::Recorded;
use crate::simulation::stage::{Halt, Stage};
use crate::simulation::trace::Who;
use crate::simulation::words::{Answer, Call, Keys, Notice};

impl Coordinator {
    /// Something was said in the setup.
    pub(super) fn hear_of_keys(
        &mut self,
        stage: &mut Stage,
        from: usize,
        id: &HospitalId,
        call: Call,
    ) -> Result<(), Halt> {
        let id = id.clone();
        match call {
            Call::Announce(said) => {
                self.gather(stage, from, Recorded::Announce(id, Box::new(said))).map(drop)
            }
            Call::Nonce(nonce) => self.gather(stage, from, Recorded::Nonce(id, nonce)).map(drop),
            Call::Batch { number, batch } => {
                self.gather(stage, from, Recorded::Batch(id, number, batch)).map(drop)
            }
            Call::Opened { number, owners } => {
                let said = Recorded::Opened(id, number, owners.clone());
                if self.gather(stage, from, said)? {
                    stage.answer(from, Answer::Noted { number, owners });
                }
                Ok(())
            }
            Call::Fetch { number, owner } => {
                let gathering = self.desk.as_ref().map(|desk| &desk.gathering);
                let batch = gathering.and_then(|gathering| gathering.batch_of(&owner, number));
                if let Some(batch) = batch {
                    let batch = Arc::new(batch.clone());
                    stage.answer(from, Answer::Batch { number, owner, batch });
                }
                Ok(())
            }
            Call::Hello | Call::Said { .. } => Ok(()),
        }
    }

    /// Keeps and passes on what holds. False when it does not.
    fn gather(&mut self, stage: &mut Stage, from: usize, said: Recorded) -> Result<bool, Halt> {
        let Some(desk) = &mut self.desk else { return Ok(false) };
        match said.said_to(Arc::make_mut(&mut desk.gathering)) {
            Ok(false) => Ok(true),
            Ok(true) => {
                self.keep(stage, |books| books.said.push(said))?;
                self.tell_keys(stage);
                Ok(true)
            }
            Err(refused) => {
                stage.counts.refusals += 1;
                self.refuses_keys(stage, from, &refused);
                Ok(false)
            }
        }
    }

    /// What came before its time will be said again; anything else is an alarm.
    fn refuses_keys(&self, stage: &mut Stage, from: usize, refused: &SetupRefused) {
        match refused {
            SetupRefused::Early { .. } | SetupRefused::Missing { .. } => {
                stage.say(Who::Coordinator, format_args!("refuses site-{from:02}: {refused}"));
            }
            SetupRefused::Stranger { .. }
            | SetupRefused::ForAnother { .. }
            | SetupRefused::Changed { .. }
            | SetupRefused::NotDue { .. }
            | SetupRefused::Announce(_)
            | SetupRefused::Graph(_)
            | SetupRefused::Slot(_) => {
                let rule = refused.rule();
                stage.alarm(Who::Coordinator, format_args!("{rule} of site-{from:02}: {refused}"));
            }
        }
    }

    /// How far the keys are.
    pub(super) fn keys(&self) -> Option<Keys> {
        let gathering = &self.desk.as_ref()?.gathering;
        let provision = gathering.provision();
        let due = provision.map_or(0, |provision| provision.batch_of(self.books.next_slot));
        Some(Keys {
            announced: Arc::new(gathering.announced().clone()),
            nonces: Arc::new(gathering.nonces().clone()),
            due,
            owners: gathering.owners(due).cloned().collect(),
            identities: None,
        })
    }

    fn tell_keys(&self, stage: &mut Stage) {
        let Some(keys) = self.keys() else { return };
        let notice = Arc::new(Notice::Keys(keys));
        for place in 0..self.cast.names.len() {
            stage.tell(place, &notice);
        }
    }

    /// After a round the next slot may be one of another batch.
    pub(super) fn tell_of_keys_due(&self, stage: &mut Stage) {
        let all = self.cast.names.len();
        if self.keys().is_some_and(|keys| keys.owners.len() < all) {
            self.tell_keys(stage);
        }
    }
}
