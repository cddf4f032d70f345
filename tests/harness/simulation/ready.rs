//! Keys that lie ready. Making them costs as much as hundreds of rounds, so that it is done once
//! for each size, in a federation of its own in which nothing goes wrong.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use aggregation::ids::SlotId;

use crate::simulation::cast::Cast;
use crate::simulation::coordinator::Books;
use crate::simulation::disk::Disk;
use crate::simulation::federation;
use crate::simulation::scenario::Size;

/// A federation whose keys are made, before its first round.
#[derive(Debug)]
pub(crate) struct Ready {
    pub(crate) cast: Arc<Cast>,
    pub(crate) disks: Vec<Disk>,
    pub(crate) books: Books,
}

impl Ready {
    /// The same after all slots before this one.
    pub(crate) fn at_slot(&self, slot: SlotId) -> Self {
        let before = SlotId::new(slot.get().saturating_sub(1));
        let mut disks = self.disks.clone();
        for (id, disk) in self.cast.names.iter().zip(&mut disks) {
            disk.pass(id, before);
        }
        Self { cast: Arc::clone(&self.cast), disks, books: self.books.clone().at_slot(slot) }
    }
}

type Shelf = BTreeMap<Size, Arc<OnceLock<Result<Arc<Ready>, String>>>>;

/// Sizes whose keys were made by this process.
static SHELF: Mutex<Shelf> = Mutex::new(BTreeMap::new());

/// The keys of a size, made now if nobody has asked for them before.
///
/// # Errors
/// When the setup does not come to its end, although nothing goes wrong in it.
pub(crate) fn keys(size: Size) -> Result<Arc<Ready>, String> {
    let place = {
        let mut shelf = SHELF.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(shelf.entry(size).or_default())
    };
    place.get_or_init(|| federation::set_up(size).map(Arc::new)).clone()
}
